//! The idempotency key of a callback: the first of header, pointers, content.

use serde_json::{Map, Value};

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
    /// The parsed body.
    pub object: &'a Map<String, Value>,
    /// The canonical digest of the body.
    pub digest: &'a [u8; 32],
    /// The `run` query parameter.
    pub run: Option<&'a str>,
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
pub fn derive_key(input: &KeyInput<'_>) -> Derived {
    let _ = input;
    todo!()
}
