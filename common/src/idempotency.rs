//! The idempotency key of a callback: the first of header, pointers, content. Never the clock.
//!
//! A key is a SHA-256 over the kind, the `run` parameter and the value, each with its length in front: no two different
//! inputs are the same bytes. A header and a pointer of equal text are different keys.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::lead::{placeholder, pointer};

/// Which rule gave the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// `Idempotency-Key` or `webhook-id`.
    Header,
    /// The source's JSON pointers.
    Pointer,
    /// The canonical body.
    Content,
}

impl KeyKind {
    /// The word in `claygate.callbacks.key_kind`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Pointer => "pointer",
            Self::Content => "content",
        }
    }

    /// The kind of a word, if it is one.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "header" => Some(Self::Header),
            "pointer" => Some(Self::Pointer),
            "content" => Some(Self::Content),
            _ => None,
        }
    }

    /// Whether the sender chose it: only then can a changed body be a re-enrichment.
    pub const fn is_explicit(self) -> bool {
        !matches!(self, Self::Content)
    }
}

/// A key, hashed: keys may hold personal data, and hashes outlive an erasure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey {
    /// SHA-256 over kind, run and value.
    pub hash: [u8; 32],
    /// Which rule gave it.
    pub kind: KeyKind,
}

/// What a key is derived from.
#[derive(Clone, Copy, Debug)]
pub struct KeyInput<'a> {
    /// The `Idempotency-Key` header, else the `webhook-id` header.
    pub header: Option<&'a str>,
    /// The source's pointers; empty: none.
    pub pointers: &'a [String],
    /// The parsed body, or as much of it as [`members_read`] names.
    pub object: &'a Map<String, Value>,
    /// The canonical digest of the body.
    pub digest: &'a [u8; 32],
    /// The `run` query parameter.
    pub run: Option<&'a str>,
}

/// The object's own members that `pointers` begin at: all that [`derive_key`] reads of the object.
pub fn members_read(pointers: &[String]) -> Vec<String> {
    pointers.iter().filter_map(|path| Some(pointer::split_first(path)?.0)).collect()
}

/// A key, and whether configured pointers had to be passed over because a value was missing, null, empty or a placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Derived {
    /// The key.
    pub key: IdempotencyKey,
    /// The pointers gave no key (counted in a metric).
    pub pointers_missed: bool,
}

/// Derives the key. Pure: the same input gives the same key, for ever.
///
/// An empty header does not count. Pointers count all together: where one of their values is missing, null, empty or a
/// placeholder, or is a number that a double cannot tell from its neighbours, the body's digest is the key.
pub fn derive_key(input: &KeyInput<'_>) -> Derived {
    let header = input.header.map(str::trim).filter(|header| !header.is_empty());
    let mut pointers_missed = false;
    let (kind, value) = if let Some(header) = header {
        (KeyKind::Header, sha256(header.as_bytes()))
    } else if let Some(values) = digest_pointers(input.pointers, input.object) {
        (KeyKind::Pointer, values)
    } else {
        pointers_missed = !input.pointers.is_empty();
        (KeyKind::Content, *input.digest)
    };
    Derived { key: IdempotencyKey { hash: combine(kind, input.run, &value), kind }, pointers_missed }
}

/// The digest of all values that the pointers name, in the pointers' order; `None` where one of them does not count.
fn digest_pointers(pointers: &[String], object: &Map<String, Value>) -> Option<[u8; 32]> {
    if pointers.is_empty() {
        return None;
    }
    let mut hasher = Sha256::new();
    for path in pointers {
        let value = pointer::lookup(object, path)?;
        let field = path.rsplit('/').next().unwrap_or_default();
        if placeholder::missing(field, value).is_some() || is_inexact(value) {
            return None;
        }
        // JSON text keeps types apart: `1`, `"1"` and `["1"]` are three values. Keys are sorted in a parsed object.
        put(&mut hasher, value.to_string().as_bytes());
    }
    Some(hasher.finalize().into())
}

/// Beyond 2^53 the parsed double stands for several integers: rows of neighbouring ids would share a key.
fn is_inexact(value: &Value) -> bool {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) => number.is_f64() && number.as_f64().is_none_or(|number| number.abs() >= EXACT_MAX),
        Value::Array(items) => items.iter().any(is_inexact),
        Value::Object(members) => members.values().any(is_inexact),
        _ => false,
    }
}

fn combine(kind: KeyKind, run: Option<&str>, value: &[u8; 32]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    put(&mut hasher, b"claygate idempotency key 1");
    put(&mut hasher, kind.as_str().as_bytes());
    match run {
        Some(run) => {
            hasher.update([1]);
            put(&mut hasher, run.as_bytes());
        }
        None => hasher.update([0]),
    }
    put(&mut hasher, value);
    hasher.finalize().into()
}

fn put(hasher: &mut Sha256, bytes: &[u8]) {
    hasher.update((bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::canonical::check_body;

    /// Header, pointers, run and body of one request.
    type Request<'a> = (Option<&'a str>, &'a [&'a str], Option<&'a str>, Value);

    fn derive((header, pointers, run, body): &Request<'_>) -> Derived {
        let checked = check_body(body.to_string().as_bytes()).unwrap();
        let pointers: Vec<String> = pointers.iter().map(|pointer| (*pointer).to_owned()).collect();
        derive_key(&KeyInput {
            header: *header,
            pointers: &pointers,
            object: &checked.object,
            digest: &checked.digest,
            run: *run,
        })
    }

    #[test]
    fn the_first_rule_that_gives_a_value_wins() {
        let body = json!({"id": "a", "email": "jane@example.com"});
        for (request, kind, missed) in [
            ((Some("k"), &["/id"][..], None, body.clone()), KeyKind::Header, false),
            ((Some(" "), &["/id"][..], None, body.clone()), KeyKind::Pointer, false),
            ((None, &["/id", "/email"][..], None, body.clone()), KeyKind::Pointer, false),
            ((None, &[][..], None, body.clone()), KeyKind::Content, false),
            ((None, &["/id", "/gone"][..], None, body.clone()), KeyKind::Content, true),
        ] {
            let derived = derive(&request);
            assert_eq!((derived.key.kind, derived.pointers_missed), (kind, missed), "{request:?}");
        }
    }

    #[test]
    fn a_pointer_value_that_says_nothing_does_not_count() {
        for value in [
            json!(null),
            json!(""),
            json!("  "),
            json!("/Row ID"),
            json!("{{Row ID}}"),
            json!("[object Object]"),
            json!("N/A"),
            json!(18446744073709551617.0),
            json!([1e17]),
        ] {
            let derived = derive(&(None, &["/id"], None, json!({"id": value})));
            assert_eq!((derived.key.kind, derived.pointers_missed), (KeyKind::Content, true), "{value}");
        }
        for value in [json!(0), json!(false), json!(u64::MAX), json!(i64::MIN), json!(0.5), json!({"a": 1}), json!("0")]
        {
            let derived = derive(&(None, &["/id"], None, json!({"id": value})));
            assert_eq!((derived.key.kind, derived.pointers_missed), (KeyKind::Pointer, false), "{value}");
        }
    }

    #[test]
    fn different_requests_have_different_keys() {
        let id = |id: Value| json!({"id": id, "b": "x"});
        let requests: Vec<Request<'_>> = vec![
            (Some("1"), &[], None, id(json!(1))),
            (Some("2"), &[], None, id(json!(1))),
            (Some("1"), &[], Some("1"), id(json!(1))),
            (Some("1"), &[], Some(""), id(json!(1))),
            (Some("1"), &[], Some("2"), id(json!(1))),
            (None, &["/id"], None, id(json!(1))),
            (None, &["/id"], None, id(json!("1"))),
            (None, &["/id"], None, id(json!(1.0))),
            (None, &["/id"], None, id(json!(["1"]))),
            (None, &["/id"], None, id(json!(true))),
            (None, &["/id"], None, id(json!("true"))),
            (None, &["/id"], Some("1"), id(json!(1))),
            (None, &["/id", "/b"], None, id(json!(1))),
            (None, &["/b", "/id"], None, id(json!(1))),
            (None, &["/id", "/b"], None, json!({"id": "1\",\"x", "b": ""})),
            (None, &["/id", "/b"], None, json!({"id": "ab", "b": "c"})),
            (None, &["/id", "/b"], None, json!({"id": "a", "b": "bc"})),
            (None, &[], None, id(json!(1))),
            (None, &[], None, id(json!("1"))),
            (None, &[], Some("1"), id(json!(1))),
        ];
        for (i, a) in requests.iter().enumerate() {
            for b in &requests[i + 1..] {
                assert_ne!(derive(a).key.hash, derive(b).key.hash, "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn an_explicit_key_does_not_depend_on_the_rest_of_the_body() {
        let (one, two) = (json!({"id": 7, "score": 1}), json!({"score": 99, "id": 7}));
        assert_eq!(derive(&(None, &["/id"], None, one.clone())), derive(&(None, &["/id"], None, two.clone())));
        assert_eq!(derive(&(Some("k"), &[], None, one)), derive(&(Some(" k "), &["/id"], None, two)));
    }

    /// Keys are stored: a change of the derivation would make every repeat of an old callback new.
    #[test]
    fn keys_stay_what_they_are() {
        let keys = [
            derive(&(Some("abc"), &[], None, json!({}))),
            derive(&(None, &["/id"], Some("2"), json!({"id": {"b": 1, "a": "é"}}))),
            derive(&(None, &[], None, json!({"email": "jane@example.com"}))),
        ]
        .map(|derived| hex::encode(derived.key.hash));
        assert_eq!(
            keys,
            [
                "fe341e923475c7da7ecfb1bbb0110347a430525a7e2f3af98dc089df548e6240",
                "a9a5ff97648679b99370108f2c0b443f9b969e1118bc7792389828e3a9e32398",
                "57023ac5be747a76a7038b1a585fa269991596c390c51012ae7ca5560c9b01d3",
            ]
        );
    }

    #[test]
    fn words_and_kinds_match() {
        for kind in [KeyKind::Header, KeyKind::Pointer, KeyKind::Content] {
            assert_eq!(KeyKind::from_word(kind.as_str()), Some(kind));
            assert_eq!(kind.is_explicit(), kind != KeyKind::Content);
        }
        assert_eq!(KeyKind::from_word("clock"), None);
    }

    proptest! {
        #[test]
        fn values_of_two_pointers_never_run_into_each_other(a in "[a-c\",]{1,4}", b in "[a-c\",]{1,4}", c in "[a-c\",]{1,4}", d in "[a-c\",]{1,4}") {
            let one = derive(&(None, &["/a", "/b"], None, json!({"a": a, "b": b})));
            let two = derive(&(None, &["/a", "/b"], None, json!({"a": c, "b": d})));
            prop_assert_eq!(one.key.hash == two.key.hash, (&a, &b) == (&c, &d));
        }

        #[test]
        fn run_and_header_never_run_into_each_other(a in "[ab]{1,3}", b in "[ab]{0,3}", c in "[ab]{1,3}", d in "[ab]{0,3}") {
            let one = derive(&(Some(&a), &[], Some(&b), json!({})));
            let two = derive(&(Some(&c), &[], Some(&d), json!({})));
            prop_assert_eq!(one.key.hash == two.key.hash, (&a, &b) == (&c, &d));
        }
    }
}
