//! Verification of callbacks: over the raw bytes, in constant time, failing closed.
//!
//! Every active secret is compared, whatever the earlier ones said; how long a comparison takes depends on lengths that
//! the sender knows, never on a secret's content. What cannot be decoded is refused, and so is a secret that is empty or
//! no base64 where it has to be: nothing matches it.

mod hmac;
mod signed_url;
mod standard_webhooks;
mod token;

use time::OffsetDateTime;

use crate::config::{ActiveSecret, Verification};
use crate::ids::RowId;

pub use signed_url::sign_url;

/// What a verification looks at.
pub trait RequestParts {
    /// The value of a header (lower-case name), if present exactly once and visible ASCII or UTF-8.
    fn header(&self, name: &str) -> Option<&[u8]>;
    /// The path and query as they came, for signed URLs.
    fn path_and_query(&self) -> &str;
}

/// Why a request was refused, the most telling last. None of them carries anything the sender sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// No credential at all.
    #[error("the request carries no credential that this source accepts")]
    Missing,
    /// A signature where a static secret is expected.
    #[error("this source expects the static secret, not a signature of the body")]
    SignatureSentToToken,
    /// A credential that does not match.
    #[error("the request's credential does not match")]
    Wrong,
    /// A timestamp outside the tolerance, or an expired URL; its signature is right.
    #[error("the request's timestamp is outside the tolerance")]
    Expired,
}

/// What an accepted request has proven beyond that it may come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The row whose signed URL it came to, where one of the verifications is [`Verification::SignedUrl`] and its own
    /// signature is right. A `cg_row` that nothing signs is no proof.
    pub row: Option<RowId>,
}

/// Checks `body` against every verification; any one suffices. No verification at all accepts nothing.
///
/// # Errors
/// The most telling [`Refusal`] when none suffices.
pub fn verify(
    verifications: &[Verification],
    parts: &dyn RequestParts,
    body: &[u8],
    now: OffsetDateTime,
) -> Result<Proof, Refusal> {
    let mut proof = None;
    let mut refusal = Refusal::Missing;
    for verification in verifications {
        let checked = match verification {
            Verification::Token { header, secrets } => token::check(header, secrets, parts, now),
            Verification::HmacSha256 { header, secrets } => hmac::check(header, secrets, parts, body, now),
            Verification::StandardWebhooks { secrets } => standard_webhooks::check(secrets, parts, body, now),
            Verification::SignedUrl { secrets } => match signed_url::check(secrets, parts, now) {
                Ok(row) => return Ok(Proof { row: Some(row) }),
                Err(reason) => Err(reason),
            },
            Verification::None => Ok(()),
        };
        match checked {
            // A signed URL may still say more.
            Ok(()) => proof = Some(Proof::default()),
            Err(reason) => refusal = refusal.max(reason),
        }
    }
    proof.ok_or(refusal)
}

/// The secrets that have not expired and are not empty.
fn active(secrets: &[ActiveSecret], now: OffsetDateTime) -> impl Iterator<Item = &str> {
    use secrecy::ExposeSecret;
    secrets
        .iter()
        .filter(move |secret| secret.expires_at.is_none_or(|expires_at| now < expires_at))
        .map(|secret| secret.value.expose_secret())
        .filter(|secret| !secret.is_empty())
}

/// A header's value without surrounding white space, if there is anything in it.
fn present<'a>(parts: &'a dyn RequestParts, name: &str) -> Option<&'a [u8]> {
    parts.header(name).map(<[u8]>::trim_ascii).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests;
