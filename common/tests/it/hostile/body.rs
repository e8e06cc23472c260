//! A body is refused without a word of it, or has one canonical form and one key.
//!
//! The form is worked out here a second time, by another way: serde_json cuts the text into raw values, so that this
//! shares no line with `common::canonical`.

use std::collections::BTreeMap;

use common::canonical::{CheckedBody, Malformed, check_body};
use common::idempotency::{Derived, KeyInput, KeyKind, derive_key};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub(crate) fn check(input: &[u8]) {
    match check_body(input) {
        Err(error) => check_refusal(input, &error),
        Ok(body) => check_usable(input, &body),
    }
}

fn check_refusal(input: &[u8], error: &Malformed) {
    assert!(!serde_json::from_slice::<Value>(input).is_ok_and(|value| value.is_object()), "refused an object");
    assert!(error.what.is_ascii() && error.what.len() < 100, "more than a fixed text: {}", error.what);
    let lines = 1 + input.iter().filter(|byte| **byte == b'\n').count();
    assert!((1..=lines).contains(&error.line), "line {} of {lines}", error.line);
    assert!((1..=input.len() + 1).contains(&error.column), "column {} of {} bytes", error.column, input.len());
}

fn check_usable(input: &[u8], body: &CheckedBody) {
    let form = canonical(std::str::from_utf8(input).unwrap());
    assert_eq!(body.digest, <[u8; 32]>::from(Sha256::digest(&form)), "not the digest of {form}");
    assert_eq!(canonical(&form), form, "the canonical form has another one");
    let again = check_body(form.as_bytes()).unwrap();
    assert_eq!((again.digest, &again.object), (body.digest, &body.object), "the canonical form means something else");

    // A member more is another body.
    let mut changed = body.object.clone();
    let mut name = "claygate".to_owned();
    while changed.contains_key(&name) {
        name.push('\'');
    }
    changed.insert(name.clone(), Value::Null);
    let mut other = form.clone();
    other.insert_str(1, &format!("{}:null{}", Value::String(name), if body.object.is_empty() { "" } else { "," }));
    let other = check_body(other.as_bytes()).unwrap();
    assert_eq!(other.object, changed);
    assert_ne!(other.digest, body.digest, "two bodies of one digest");

    for pointers in [&[][..], &["/id"], &["/email", "/id"]] {
        check_keys(pointers, body, &again, &other);
    }
}

/// The key of `body`, of the same body written in another way, and of another one with the same values at the pointers.
fn check_keys(pointers: &[&str], body: &CheckedBody, again: &CheckedBody, other: &CheckedBody) {
    let key = |body: &CheckedBody, header, run| derive(pointers, &body.object, &body.digest, header, run);
    let derived = key(body, None, None);
    assert_eq!(derived, key(again, None, None), "the key hangs on how the body is written");
    let expected = if pointers.is_empty() { KeyKind::Content } else { derived.key.kind };
    assert_eq!(derived.key.kind, expected);
    assert_eq!(derived.pointers_missed, !pointers.is_empty() && derived.key.kind == KeyKind::Content);
    let same = derived.key.hash == key(other, None, None).key.hash;
    assert_eq!(same, derived.key.kind == KeyKind::Pointer, "another body, by {:?}", derived.key.kind);
    let run = key(body, None, Some("2"));
    assert_ne!(run.key.hash, derived.key.hash, "a run of its own has a key of its own");
    let header = key(body, Some(" k "), None);
    assert_eq!((header.key, header.key.kind), (key(other, Some("k"), None).key, KeyKind::Header));
    assert_ne!(header.key.hash, derived.key.hash);
}

fn derive(
    pointers: &[&str],
    object: &Map<String, Value>,
    digest: &[u8; 32],
    header: Option<&str>,
    run: Option<&str>,
) -> Derived {
    let pointers: Vec<String> = pointers.iter().map(|pointer| (*pointer).to_owned()).collect();
    derive_key(&KeyInput { header, pointers: &pointers, object, digest, run })
}

/// The canonical form of a valid JSON text.
fn canonical(text: &str) -> String {
    let raw: &RawValue = serde_json::from_str(text).unwrap();
    let token = raw.get();
    match token.as_bytes()[0] {
        b'{' => {
            // Keys in the order of their bytes; of a key that stands twice the last one.
            let members: BTreeMap<String, &RawValue> = read(token);
            let member = |(key, value): (&String, &&RawValue)| format!("{}:{}", quoted(key), canonical(value.get()));
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
        }
        b'[' => {
            let items: Vec<&RawValue> = read(token);
            format!("[{}]", items.iter().map(|item| canonical(item.get())).collect::<Vec<_>>().join(","))
        }
        b'"' => quoted(&read::<String>(token)),
        _ => token.to_owned(),
    }
}

fn read<'a, T: serde::Deserialize<'a>>(token: &'a str) -> T {
    serde_json::from_str(token).unwrap()
}

fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|character| match character {
        '"' | '\\' => format!("\\{character}"),
        '\0'..='\x1f' => format!("\\u{:04x}", u32::from(character)),
        other => other.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}
