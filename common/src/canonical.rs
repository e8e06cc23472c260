//! Canonical JSON: the same meaning gives the same bytes.

/// Why a body is not a usable JSON object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at line {line}, column {column}")]
pub struct Malformed {
    /// What is wrong, without any of the body's own text.
    pub what: String,
    /// 1-based line.
    pub line: usize,
    /// 1-based column.
    pub column: usize,
}

/// A callback's body: checked, and with the SHA-256 of its canonical form.
#[derive(Debug, Clone)]
pub struct CheckedBody {
    /// The parsed object.
    pub object: serde_json::Map<String, serde_json::Value>,
    /// SHA-256 of the canonical form.
    pub digest: [u8; 32],
}

/// Parses `raw` strictly as a JSON object and digests its canonical form.
///
/// # Errors
/// [`Malformed`] for anything that is not a JSON object (syntax, lone surrogate, number out of range, nesting).
pub fn check_body(raw: &[u8]) -> Result<CheckedBody, Malformed> {
    let _ = raw;
    todo!()
}
