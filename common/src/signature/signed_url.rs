//! The per-row callback URL: claygate signs it, puts it into the row, and recognises it when Clay posts to it.
//!
//! `<path>?cg_exp=<unix seconds>&cg_row=<row id>&cg_sig=<hex>`, where the signature is the HMAC-SHA256 of path, expiry and
//! row, a line feed between them. Other query parameters (such as `run`) are not covered and change nothing.

use secrecy::{ExposeSecret, SecretString};
use subtle::{Choice, ConstantTimeEq};
use time::OffsetDateTime;
use url::Url;

use super::hmac::hmac_sha256;
use super::{Refusal, RequestParts, active};
use crate::config::ActiveSecret;
use crate::ids::RowId;

/// The URL under which the callback of `row` is accepted until `expires_at` (to the second). `base` is the source's
/// public URL; a query that it already has stays.
pub fn sign_url(base: &Url, row: RowId, expires_at: OffsetDateTime, secret: &SecretString) -> Url {
    let (expires, row) = (expires_at.unix_timestamp().to_string(), row.to_string());
    let signature = hex::encode(sign(secret.expose_secret(), base.path(), &expires, &row));
    let mut url = base.clone();
    url.query_pairs_mut().extend_pairs([("cg_exp", &expires), ("cg_row", &row), ("cg_sig", &signature)]);
    url
}

/// The row that the URL was signed for.
pub(super) fn check(secrets: &[ActiveSecret], parts: &dyn RequestParts, now: OffsetDateTime) -> Result<RowId, Refusal> {
    let (path, query) = parts.path_and_query().split_once('?').ok_or(Refusal::Missing)?;
    let parameter = |name| parameter(query, name).filter(|value| !value.is_empty()).ok_or(Refusal::Missing);
    let (expires, row, signature) = (parameter("cg_exp")?, parameter("cg_row")?, parameter("cg_sig")?);
    let mut presented = [0; 32];
    hex::decode_to_slice(signature, &mut presented).map_err(|_| Refusal::Wrong)?;
    let mut matches = Choice::from(0);
    for secret in active(secrets, now) {
        matches |= sign(secret, path, expires, row).ct_eq(&presented);
    }
    let expires: i64 = expires.parse().map_err(|_| Refusal::Wrong)?;
    if !bool::from(matches) {
        Err(Refusal::Wrong)
    } else if expires <= now.unix_timestamp() {
        Err(Refusal::Expired)
    } else {
        row.parse().map_err(|_| Refusal::Wrong)
    }
}

fn sign(secret: &str, path: &str, expires: &str, row: &str) -> [u8; 32] {
    hmac_sha256(secret.as_bytes(), &[path.as_bytes(), b"\n", expires.as_bytes(), b"\n", row.as_bytes()])
}

/// The value of a query parameter that stands there exactly once. What claygate signs needs no percent-encoding.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut values = query.split('&').filter_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let value = values.next()?;
    values.next().is_none().then_some(value)
}
