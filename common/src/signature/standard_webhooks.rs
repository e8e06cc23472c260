//! Standard Webhooks (<https://www.standardwebhooks.com>): `webhook-id`, `webhook-timestamp`, `webhook-signature`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::{Choice, ConstantTimeEq};
use time::OffsetDateTime;

use super::hmac::hmac_sha256;
use super::{Refusal, RequestParts, active, present};
use crate::config::ActiveSecret;

/// How far a timestamp may lie before or behind this host's clock.
const TOLERANCE_SECONDS: u64 = 300;

pub(super) fn check(
    secrets: &[ActiveSecret],
    parts: &dyn RequestParts,
    body: &[u8],
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    let header = |name| present(parts, name).ok_or(Refusal::Missing);
    let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
    let presented = signatures(header("webhook-signature")?);
    let signed_at = seconds(timestamp).ok_or(Refusal::Wrong)?;
    let mut matches = Choice::from(0);
    for key in active(secrets, now).filter_map(decode_secret) {
        let expected = hmac_sha256(&key, &[id, b".", timestamp, b".", body]);
        for signature in &presented {
            matches |= expected.ct_eq(signature);
        }
    }
    if !bool::from(matches) {
        Err(Refusal::Wrong)
    } else if now.unix_timestamp().abs_diff(signed_at) > TOLERANCE_SECONDS {
        Err(Refusal::Expired)
    } else {
        Ok(())
    }
}

/// The `v1` signatures of a list; other versions and what is no signature are passed over.
fn signatures(list: &[u8]) -> Vec<[u8; 32]> {
    list.split(|byte| *byte == b' ')
        .filter_map(|entry| entry.strip_prefix(b"v1,"))
        .filter_map(|signature| STANDARD.decode(signature).ok()?.try_into().ok())
        .collect()
}

/// Digits alone: what `i64::from_str` also takes (a sign) is no timestamp.
fn seconds(timestamp: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(timestamp).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The key of `whsec_<base64>`. An empty one is none: anyone could sign with it.
fn decode_secret(secret: &str) -> Option<Vec<u8>> {
    let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
    STANDARD.decode(encoded).ok().filter(|key| !key.is_empty())
}
