//! A static secret in a header: what a Clay HTTP API column can send.

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use time::OffsetDateTime;

use super::{Refusal, RequestParts, active, present};
use crate::config::ActiveSecret;

pub(super) fn check(
    header: &str,
    secrets: &[ActiveSecret],
    parts: &dyn RequestParts,
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    let own = present(parts, header);
    let bearer = present(parts, "authorization").and_then(strip_bearer);
    if own.is_none() && bearer.is_none() {
        return Err(Refusal::Missing);
    }
    let mut matches = Choice::from(0);
    for presented in own.into_iter().chain(bearer) {
        // Digests have one length: comparing them says nothing about the secret's, and never fails on unequal ones.
        let presented = Sha256::digest(presented);
        for secret in active(secrets, now) {
            matches |= Sha256::digest(secret.as_bytes()).ct_eq(&presented);
        }
    }
    if bool::from(matches) {
        Ok(())
    } else if own.is_some_and(is_signature) {
        Err(Refusal::SignatureSentToToken)
    } else {
        Err(Refusal::Wrong)
    }
}

fn strip_bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii()).filter(|token| !token.is_empty())
}

fn is_signature(value: &[u8]) -> bool {
    value.get(..7).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"sha256="))
}
