//! The configuration: one file, overridden by `CLAYGATE_<SECTION>__<KEY>` variables.
//!
//! The structs of this module hold what is valid and nothing else; each setting is documented where it is declared.

mod destinations;
mod operations;
mod sources;

pub use destinations::{
    Auth, Body, BreakerConfig, Destination, DestinationKind, HttpDestination, Rate, SlackDestination, StatusSet, Step,
};
pub use operations::{
    AdminConfig, DatabaseConfig, IngestConfig, IngestLimits, QueueConfig, RetentionConfig, SpoolConfig,
    TelemetryConfig, WorkerConfig,
};
pub use sources::{ActiveSecret, Changed, IdempotencyConfig, Source, Verification};

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Everything a process needs to know, validated.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where Postgres is. `None`: the embedded one.
    pub database: DatabaseConfig,
    /// Where RabbitMQ is. `url = None`: Postgres itself is the queue.
    pub queue: QueueConfig,
    /// The public listener.
    pub ingest: IngestConfig,
    /// The local spool.
    pub spool: SpoolConfig,
    /// The worker.
    pub worker: WorkerConfig,
    /// The admin listener.
    pub admin: AdminConfig,
    /// Who may send callbacks, by name.
    pub sources: BTreeMap<String, Source>,
    /// Where leads go, by name.
    pub destinations: BTreeMap<String, Destination>,
    /// The routing rules, in order.
    pub rules: Vec<RuleConfig>,
    /// How long things are kept.
    pub retention: RetentionConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// The data folder (`--data`), absolute.
    pub data: PathBuf,
    /// What a careful operator should know of this configuration (shown by `config check`, logged at start).
    pub warnings: Vec<String>,
}

/// One `[[rules]]` entry.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RuleConfig {
    /// The rule's name, `[a-z][a-z0-9_-]*`, unique.
    pub name: String,
    /// A CEL expression over `lead`, `source` and `callback` that gives a bool.
    pub when: String,
    /// Destinations, by name.
    pub to: Vec<String>,
    /// Sources it is limited to; empty: all.
    pub source: Vec<String>,
    /// Whether a match ends the evaluation.
    pub stop: bool,
}
