//! `[sources.<name>]`: who may send callbacks, and how that is proven.

use std::collections::BTreeMap;

use secrecy::SecretString;
use time::OffsetDateTime;

/// One source.
#[derive(Clone, Debug)]
pub struct Source {
    /// The source's name, `[a-z][a-z0-9_-]*`.
    pub name: String,
    /// The path it listens on, starting with `/`.
    pub path: String,
    /// The verifications; any one suffices. Never empty.
    pub verify: Vec<Verification>,
    /// How its callbacks are recognised.
    pub idempotency: IdempotencyConfig,
    /// JSON pointers of lead fields whose names differ: field name → pointer.
    pub fields: BTreeMap<String, String>,
    /// Largest body in bytes; `None`: `ingest.max_body`.
    pub max_body_bytes: Option<usize>,
}

/// One way of proving that a callback is the source's.
#[derive(Clone, Debug)]
pub enum Verification {
    /// A static secret in `header` (also accepted as `Authorization: Bearer`).
    Token {
        /// Header name, lower case.
        header: String,
        /// The active secrets.
        secrets: Vec<ActiveSecret>,
    },
    /// HMAC-SHA256 of the raw body in `header`, as hex, `sha256=<hex>` or base64.
    HmacSha256 {
        /// Header name, lower case.
        header: String,
        /// The active secrets.
        secrets: Vec<ActiveSecret>,
    },
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`; secrets are `whsec_<base64>`.
    StandardWebhooks {
        /// The active secrets.
        secrets: Vec<ActiveSecret>,
    },
    /// The per-row callback URL that claygate itself signed, with its expiry in the query.
    SignedUrl {
        /// The active signing secrets.
        secrets: Vec<ActiveSecret>,
    },
    /// No proof at all; has to be spelled out and warns at every start.
    None,
}

/// A secret that is accepted until it expires.
#[derive(Clone, Debug)]
pub struct ActiveSecret {
    /// The secret; never empty.
    pub value: SecretString,
    /// Not accepted from this moment on.
    pub expires_at: Option<OffsetDateTime>,
}

/// How a source's callbacks are recognised.
#[derive(Clone, Debug, Default)]
pub struct IdempotencyConfig {
    /// JSON pointers whose values together are the key; empty: none.
    pub pointers: Vec<String>,
    /// What a changed body under the same explicit key means.
    pub changed: Changed,
}

/// What a changed body under the same explicit key means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Changed {
    /// A re-enrichment: the next revision, linked and delivered.
    #[default]
    Accept,
    /// Stored and linked, not delivered.
    Record,
    /// Refused with 409 and kept in quarantine.
    Conflict,
}
