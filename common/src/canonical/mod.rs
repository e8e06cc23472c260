//! Canonical JSON: the same meaning gives the same bytes, and so the same digest.
//!
//! The canonical form of an object has its keys sorted (by code point) and no spaces. Strings count by value (`"\u00e9"`
//! is `"é"`), numbers by their token as written (`1`, `1.0` and `1e0` differ, and so do integers beyond 2^53 that a
//! double could not tell apart), null differs from absent. Of a key that stands twice in one object the last one
//! counts, as in the parsed object.
//!
//! serde_json decides what is valid; `form` only walks what it accepted. Nothing here ever puts a byte of the body
//! into an error.

mod form;
mod members;

use serde::de::DeserializeSeed;
use serde_json::{Map, Value};

use self::members::{Document, Wanted};

/// Why a body is not a usable JSON object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at line {line}, column {column}")]
pub struct Malformed {
    /// What is wrong, without any of the body's own text.
    pub what: String,
    /// 1-based line.
    pub line: usize,
    /// 1-based column, in bytes.
    pub column: usize,
}

/// A callback's body: checked, and with the SHA-256 of its canonical form.
#[derive(Debug, Clone)]
pub struct CheckedBody {
    /// The parsed object; only the members that were asked for, where some were.
    pub object: Map<String, Value>,
    /// There are members that were not asked for.
    pub has_others: bool,
    /// SHA-256 of the canonical form.
    pub digest: [u8; 32],
}

/// Parses `raw` strictly as a JSON object and digests its canonical form, in time proportional to its length (times
/// the logarithm of the keys in one object).
///
/// # Errors
/// [`Malformed`] for anything that is not a JSON object in UTF-8: syntax, a lone surrogate, a number out of a double's
/// range, more than 127 levels of nesting, anything behind the object.
pub fn check_body(raw: &[u8]) -> Result<CheckedBody, Malformed> {
    check(raw, Wanted::All)
}

/// As [`check_body`], but keeps of the object only its own members of these names, which spares the tree of all the others.
///
/// # Errors
/// The same as [`check_body`], for the same bodies.
pub fn check_body_for(raw: &[u8], names: &[String]) -> Result<CheckedBody, Malformed> {
    check(raw, Wanted::Named(names))
}

fn check(raw: &[u8], wanted: Wanted<'_>) -> Result<CheckedBody, Malformed> {
    let mut deserializer = serde_json::Deserializer::from_slice(raw);
    let read = wanted.deserialize(&mut deserializer).and_then(|document| deserializer.end().map(|()| document));
    match read {
        Ok(Document::Object { members, has_others }) => {
            Ok(CheckedBody { object: members, has_others, digest: form::digest(raw) })
        }
        Ok(Document::NoObject) => Err(not_an_object(raw)),
        Err(error) => Err(malformed(&error)),
    }
}

/// serde_json's syntax errors are fixed texts with a position; the position is kept apart.
fn malformed(error: &serde_json::Error) -> Malformed {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let what = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    let what = match what {
        "recursion limit exceeded" => "nesting deeper than 127 levels",
        other => other,
    };
    Malformed { what: what.to_owned(), line: line.max(1), column: column.max(1) }
}

fn not_an_object(raw: &[u8]) -> Malformed {
    let before: &[u8] = match raw.iter().position(|byte| !byte.is_ascii_whitespace()) {
        Some(start) => raw.get(..start).unwrap_or_default(),
        None => raw,
    };
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
    Malformed { what: "expected a JSON object".to_owned(), line, column }
}

#[cfg(test)]
mod tests;
