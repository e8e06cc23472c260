//! HMAC-SHA256 of the raw body in a header: hex, `sha256=<hex>` or base64.

use ::hmac::{Hmac, KeyInit, Mac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};
use time::OffsetDateTime;

use super::{Refusal, RequestParts, active, present};
use crate::config::ActiveSecret;

pub(super) fn check(
    header: &str,
    secrets: &[ActiveSecret],
    parts: &dyn RequestParts,
    body: &[u8],
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    let presented = decode(present(parts, header).ok_or(Refusal::Missing)?).ok_or(Refusal::Wrong)?;
    let mut matches = Choice::from(0);
    for secret in active(secrets, now) {
        matches |= hmac_sha256(secret.as_bytes(), &[body]).ct_eq(&presented);
    }
    if bool::from(matches) { Ok(()) } else { Err(Refusal::Wrong) }
}

/// HMAC-SHA256 over the parts, one behind the other.
#[expect(clippy::expect_used, reason = "HMAC takes keys of any length; the error belongs to other algorithms")]
pub(super) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The 32 bytes that a header value stands for.
fn decode(value: &[u8]) -> Option<[u8; 32]> {
    let (value, prefixed) = match value.split_at_checked(7) {
        Some((prefix, hex)) if prefix.eq_ignore_ascii_case(b"sha256=") => (hex, true),
        _ => (value, false),
    };
    let mut bytes = [0; 32];
    if hex::decode_to_slice(value, &mut bytes).is_ok() {
        return Some(bytes);
    }
    if prefixed { None } else { STANDARD.decode(value).ok()?.try_into().ok() }
}
