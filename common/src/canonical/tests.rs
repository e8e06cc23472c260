#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::*;

fn digest(text: &str) -> [u8; 32] {
    check_body(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error}")).digest
}

fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[test]
fn the_digest_is_the_sha256_of_the_canonical_text() {
    for (body, canonical) in [
        ("{}", "{}"),
        (" {\t}\r\n", "{}"),
        (r#"{"b":1,"a":2}"#, r#"{"a":2,"b":1}"#),
        (r#"{"a" : [ 1 , {"z":null,"y":[ ]} , "x" ] }"#, r#"{"a":[1,{"y":[],"z":null},"x"]}"#),
        (r#"{"caf\u00e9":"\ud83d\ude00\/"}"#, r#"{"café":"😀/"}"#),
        (r#"{"a":"line\nquote\"back\\nul\u0000"}"#, r#"{"a":"line\u000aquote\"back\\nul\u0000"}"#),
        (r#"{"a":1E+2,"b":-0.0,"c":18446744073709551617}"#, r#"{"a":1E+2,"b":-0.0,"c":18446744073709551617}"#),
        (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
        (r#"{"\u0061":1,"b":3,"a":{"x":1}}"#, r#"{"a":{"x":1},"b":3}"#),
        // Code-point order, not UTF-16 order.
        ("{\"\u{1f600}\":1,\"\u{ff5e}\":2}", "{\"\u{ff5e}\":2,\"\u{1f600}\":1}"),
    ] {
        assert_eq!(digest(body), sha256(canonical), "{body}");
    }
}

#[test]
fn what_differs_in_meaning_differs_in_its_digest() {
    let bodies = [
        "{}",
        r#"{"a":null}"#,
        r#"{"a":1}"#,
        r#"{"a":1.0}"#,
        r#"{"a":1e0}"#,
        r#"{"a":"1"}"#,
        r#"{"a":true}"#,
        r#"{"a":"true"}"#,
        r#"{"a":[1]}"#,
        r#"{"a":[]}"#,
        r#"{"a":{}}"#,
        r#"{"a":""}"#,
        r#"{"a":[1,2]}"#,
        r#"{"a":[2,1]}"#,
        r#"{"a":[12]}"#,
        r#"{"a":["1,2"]}"#,
        r#"{"a":["1","2"]}"#,
        r#"{"a":"1\",\"b\":\"2"}"#,
        r#"{"a":"1","b":"2"}"#,
        r#"{"a":9007199254740992}"#,
        r#"{"a":9007199254740993}"#,
        r#"{"a":18446744073709551616}"#,
        r#"{"a":18446744073709551617}"#,
        r#"{"a":"é"}"#,
        "{\"a\":\"e\u{301}\"}",
        r#"{"A":1}"#,
    ];
    for (i, a) in bodies.iter().enumerate() {
        for b in bodies.iter().skip(i + 1) {
            assert_ne!(digest(a), digest(b), "{a} and {b}");
        }
    }
}

#[test]
fn a_key_that_stands_twice_counts_as_in_the_parsed_object() {
    let checked = check_body(br#"{"a":1,"b":2,"a":3}"#).unwrap();
    assert_eq!(Value::Object(checked.object), json!({"a": 3, "b": 2}));
    assert_eq!(checked.digest, digest(r#"{"a":3,"b":2}"#));
}

#[test]
fn only_the_members_that_were_asked_for_are_kept() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let raw = br#"{"\u0061":{"x":[1]},"b":2,"a":{"x":[2]},"c":[{"a":"no"}]}"#;
    for (wanted, kept, has_others) in [
        (names(&["a", "gone"]), json!({"a": {"x": [2]}}), true),
        (names(&["a", "b", "c"]), json!({"a": {"x": [2]}, "b": 2, "c": [{"a": "no"}]}), false),
        (names(&[]), json!({}), true),
    ] {
        let checked = check_body_for(raw, &wanted).unwrap();
        assert_eq!((Value::Object(checked.object), checked.has_others), (kept, has_others), "{wanted:?}");
        assert_eq!(checked.digest, check_body(raw).unwrap().digest);
    }
    assert!(!check_body_for(b"{}", &[]).unwrap().has_others);
}

#[test]
fn whatever_is_no_object_is_refused_with_its_position() {
    for (body, what, line, column) in [
        (&b""[..], "EOF while parsing a value", 1, 1),
        (b"[1]", "expected a JSON object", 1, 1),
        (b"\n  \"jane@example.com\"", "expected a JSON object", 2, 3),
        (b"null", "expected a JSON object", 1, 1),
        (b"{\"a\":1", "EOF while parsing an object", 1, 6),
        (b"{\"a\":1} x", "trailing characters", 1, 9),
        (b"{\n\"a\": \"x\ny\"}", "control character (\\u0000-\\u001F) found while parsing a string", 3, 0),
        (b"{\"a\":\"\\ud800\"}", "unexpected end of hex escape", 1, 13),
        (b"{\"a\":\"\\udc00x\"}", "lone leading surrogate in hex escape", 1, 12),
        (b"{\"a\":\"\\ud800\\ud800\"}", "lone leading surrogate in hex escape", 1, 18),
        (b"{\"a\":1e999}", "number out of range", 1, 10),
        (b"{\"a\":-1e999}", "number out of range", 1, 11),
        (b"{\"a\":NaN}", "expected value", 1, 6),
        (b"{\"a\":01}", "invalid number", 1, 7),
        (b"{\"a\":\"\xff\"}", "invalid unicode code point", 1, 7),
        (b"{\"\xc3\x28\":1}", "invalid unicode code point", 1, 3),
        (b"\xef\xbb\xbf{}", "expected value", 1, 1),
        (b"{'a':1}", "key must be a string", 1, 2),
        (b"{\"a\":1,}", "trailing comma", 1, 8),
    ] {
        let error = check_body(body).unwrap_err();
        assert_eq!(check_body_for(body, &[]).unwrap_err(), error, "{body:?}");
        let column = std::cmp::max(column, 1);
        assert_eq!((error.what.as_str(), error.line, error.column), (what, line, column), "{body:?}");
    }
}

#[test]
fn an_error_never_repeats_the_body() {
    for body in ["\"secret\"", "{\"secret\"", "{\"a\":secret}", "{secret:1}", "{\"a\":\"\\usecr\"}", "{\"a\":1}secret"]
    {
        let error = check_body(body.as_bytes()).unwrap_err().to_string();
        assert!(!error.contains("secr"), "{error}");
    }
}

#[test]
fn nesting_is_limited() {
    let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    assert!(check_body(nested(126).as_bytes()).is_ok());
    assert_eq!(check_body(nested(127).as_bytes()).unwrap_err().what, "nesting deeper than 127 levels");
    for body in [nested(127), "{\"a\":".repeat(100_000)] {
        assert_eq!(check_body_for(body.as_bytes(), &[]).unwrap_err().what, "nesting deeper than 127 levels");
    }
    assert_eq!(check_body("{\"a\":".repeat(100_000).as_bytes()).unwrap_err().what, "nesting deeper than 127 levels");
}

/// The work is linear: a body of a mebibyte, wide or deep, takes no longer than any other. The limit is generous: a
/// quadratic walk of 100,000 keys would take minutes.
#[test]
fn wide_and_deep_bodies_take_no_more_than_their_length() {
    let wide: Vec<String> = (0..100_000).rev().map(|n| format!("\"{n}\":{n}")).collect();
    let deep_member: Vec<String> = (0..7_000).rev().map(|n| format!("\"{n}\":1")).collect();
    let deep = format!("{}{{{}}}{}", "{\"a\":[".repeat(60), deep_member.join(","), "]}".repeat(60));
    let started = std::time::Instant::now();
    assert_ne!(digest(&format!("{{{}}}", wide.join(","))), digest(&deep));
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}

/// JSON by meaning: numbers are their tokens.
#[derive(Clone, Debug, PartialEq)]
enum Json {
    Literal(String),
    Text(String),
    Array(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

fn any_json() -> impl Strategy<Value = Json> {
    let number = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        (-999i32..999, 0u32..999).prop_map(|(whole, part)| format!("{whole}.{part}")),
        (1u32..99, -99i32..99).prop_map(|(n, exponent)| format!("{n}e{exponent}")),
        "[1-9][0-9]{16,24}",
    ];
    let literal = prop_oneof![Just("null".to_owned()), Just("true".to_owned()), Just("false".to_owned()), number];
    let leaf = prop_oneof![literal.prop_map(Json::Literal), any_text().prop_map(Json::Text)];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Json::Array),
            prop::collection::btree_map(any_text(), inner, 0..5).prop_map(Json::Object),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Json> {
    prop::collection::btree_map(any_text(), any_json(), 0..6).prop_map(Json::Object)
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[ab]{0,2}", "[\u{0}-\u{1f}\"\\\\/é😀,:{}\\[\\]]{0,6}", any::<String>()]
}

/// One of the many ways to write a value down: `choices` decides order, spacing and escapes.
fn render(value: &Json, choices: &mut impl FnMut() -> u8, out: &mut String) {
    let space = |choices: &mut dyn FnMut() -> u8, out: &mut String| {
        out.push_str([" ", "", "\n", "\t ", ""][usize::from(choices()) % 5]);
    };
    space(choices, out);
    match value {
        Json::Literal(token) => out.push_str(token),
        Json::Text(text) => render_text(text, choices, out),
        Json::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                render(item, choices, out);
            }
            out.push(']');
        }
        Json::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_cached_key(|_| choices());
            out.push('{');
            for (i, (key, item)) in members.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                space(choices, out);
                render_text(key, choices, out);
                space(choices, out);
                out.push(':');
                render(item, choices, out);
            }
            out.push('}');
        }
    }
    space(choices, out);
}

fn render_text(text: &str, choices: &mut impl FnMut() -> u8, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        if choices().is_multiple_of(3) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04X}"));
            }
        } else {
            match character {
                '/' if choices().is_multiple_of(2) => out.push_str("\\/"),
                '\n' => out.push_str("\\n"),
                '"' | '\\' => out.extend(['\\', character]),
                '\u{0}'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
                other => out.push(other),
            }
        }
    }
    out.push('"');
}

fn written(value: &Json, seed: &[u8]) -> String {
    let mut position = 0;
    let mut choices = || {
        position += 1;
        seed[position % seed.len()].wrapping_mul(31).wrapping_add((position * 7) as u8)
    };
    let mut out = String::new();
    render(value, &mut choices, &mut out);
    out
}

proptest! {
    #[test]
    fn writing_it_differently_changes_nothing(
        value in any_object(), one in prop::collection::vec(any::<u8>(), 8), two in prop::collection::vec(any::<u8>(), 8),
    ) {
        let (one, two) = (written(&value, &one), written(&value, &two));
        prop_assert_eq!(digest(&one), digest(&two), "{} and {}", one, two);
    }

    #[test]
    fn digests_are_equal_only_where_meanings_are(a in any_object(), b in any_object(), seed in prop::collection::vec(any::<u8>(), 8)) {
        prop_assert_eq!(digest(&written(&a, &seed)) == digest(&written(&b, &seed)), a == b);
    }

    #[test]
    fn changing_one_leaf_changes_the_digest(value in any_object(), key in any_text(), leaf in any_json()) {
        let Json::Object(mut members) = value.clone() else { unreachable!() };
        let before = members.insert(key, leaf.clone());
        let changed = before.as_ref() != Some(&leaf);
        let after = Json::Object(members);
        prop_assert_eq!(digest(&written(&value, &[1])) != digest(&written(&after, &[1])), changed);
    }

    #[test]
    fn whatever_is_kept_the_rest_is_checked_all_the_same(text in "[\\[\\]{}\",:\\\\u0-9a-fe.\\- ]{0,40}", value in any_object(), cut in 0..400usize) {
        let whole = written(&value, &[1, 2, 3]);
        let broken: Vec<u8> = whole.bytes().take(cut).chain(text.bytes()).collect();
        for raw in [whole.as_bytes(), text.as_bytes(), &broken[..]] {
            let digest = |checked: Result<CheckedBody, Malformed>| checked.map(|checked| checked.digest);
            let parsed = serde_json::from_slice::<Value>(raw);
            let checked = digest(check_body_for(raw, &[]));
            prop_assert_eq!(parsed.is_ok_and(|value| value.is_object()), checked.is_ok());
            prop_assert_eq!(digest(check_body(raw)), checked);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = check_body(&raw);
        let _ = form::digest(&raw);
    }

    #[test]
    fn no_json_like_text_makes_it_panic(text in "[\\[\\]{}\",:\\\\u0-9a-f ]{0,80}") {
        let _ = check_body(text.as_bytes());
        let _ = form::digest(text.as_bytes());
    }
}
