//! Verification of callbacks: over the raw bytes, in constant time, failing closed.

use time::OffsetDateTime;

use crate::config::Verification;

/// What a verification looks at.
pub trait RequestParts {
    /// The value of a header (lower-case name), if present exactly once and visible ASCII or UTF-8.
    fn header(&self, name: &str) -> Option<&[u8]>;
    /// The path and query as they came, for signed URLs.
    fn path_and_query(&self) -> &str;
}

/// Why a request was refused. None of them carries anything the sender sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No credential at all.
    #[error("the request carries no credential that this source accepts")]
    Missing,
    /// A credential that does not match.
    #[error("the request's credential does not match")]
    Wrong,
    /// A signature where a static secret is expected.
    #[error("this source expects the static secret, not a signature of the body")]
    SignatureSentToToken,
    /// A timestamp outside the tolerance, or an expired URL.
    #[error("the request's timestamp is outside the tolerance")]
    Expired,
}

/// Checks `body` against every verification; any one suffices.
///
/// # Errors
/// The most telling [`Refusal`] when none suffices.
pub fn verify(
    verifications: &[Verification],
    parts: &dyn RequestParts,
    body: &[u8],
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    let _ = (verifications, parts, body, now);
    todo!()
}
