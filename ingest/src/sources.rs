//! The configured sources, by path, with what every request of theirs needs.

use std::collections::HashMap;
use std::sync::Arc;

use common::config::{self, Changed, Config, Verification};

use crate::callback;
use crate::commit::settle::Policy;
use crate::telemetry::Outcomes;

/// One source.
pub(crate) struct Source {
    pub(crate) name: Arc<str>,
    pub(crate) config: config::Source,
    pub(crate) body_bytes_max: usize,
    /// What is read of a body beside its digest.
    pub(crate) members_read: Vec<String>,
    /// No verification looks at the body.
    pub(crate) proof_is_in_head: bool,
    pub(crate) outcomes: Outcomes,
}

/// Every source, by path.
pub(crate) struct Sources {
    by_path: HashMap<String, Source>,
    secret_headers: Vec<String>,
}

impl Sources {
    pub(crate) fn new(config: &Config) -> Self {
        let mut secret_headers: Vec<String> =
            config.sources.values().flat_map(|source| &source.verify).filter_map(header_of).collect();
        secret_headers.sort_unstable();
        secret_headers.dedup();
        let by_path = config.sources.values().map(|source| (source.path.clone(), Source::new(source, config)));
        Self { by_path: by_path.collect(), secret_headers }
    }

    /// The source that listens on `path`.
    pub(crate) fn on(&self, path: &str) -> Option<&Source> {
        self.by_path.get(path)
    }

    /// Headers that hold a credential of any source: a misdirected one is a secret too.
    pub(crate) fn secret_headers(&self) -> &[String] {
        &self.secret_headers
    }
}

impl Source {
    pub(crate) fn new(source: &config::Source, config: &Config) -> Self {
        Self {
            name: source.name.as_str().into(),
            config: source.clone(),
            body_bytes_max: source.max_body_bytes.unwrap_or(config.ingest.max_body_bytes),
            members_read: callback::members_read(&source.idempotency.pointers),
            proof_is_in_head: !source.verify.iter().any(signs_body),
            outcomes: Outcomes::of(&source.name),
        }
    }
}

fn header_of(verification: &Verification) -> Option<String> {
    match verification {
        Verification::Token { header, .. } | Verification::HmacSha256 { header, .. } => Some(header.clone()),
        Verification::StandardWebhooks { .. } | Verification::SignedUrl { .. } | Verification::None => None,
    }
}

fn signs_body(verification: &Verification) -> bool {
    match verification {
        Verification::HmacSha256 { .. } | Verification::StandardWebhooks { .. } => true,
        Verification::Token { .. } | Verification::SignedUrl { .. } | Verification::None => false,
    }
}

/// What each source says about changed bodies.
pub(crate) struct ChangedPolicy(HashMap<String, Changed>);

impl ChangedPolicy {
    pub(crate) fn new(config: &Config) -> Self {
        Self(config.sources.iter().map(|(name, source)| (name.clone(), source.idempotency.changed)).collect())
    }
}

impl Policy for ChangedPolicy {
    /// A source that is gone from the configuration may still have callbacks in the spool: they are accepted.
    fn changed(&self, source: &str) -> Changed {
        self.0.get(source).copied().unwrap_or_default()
    }
}
