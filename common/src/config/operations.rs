//! The sections about processes and machines: database, queue, listeners, spool, worker, retention, telemetry.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

/// `[database]`.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// `postgres://user@host:port/database?sslmode=…`; `None`: the embedded Postgres.
    pub url: Option<Url>,
    /// The password, where the URL has none.
    pub password: Option<SecretString>,
    /// The embedded Postgres' TCP port on 127.0.0.1; `None`: a free one, kept in the data folder.
    pub port: Option<u16>,
    /// Connections of one process, at least 4.
    pub max_connections: u32,
}

/// `[queue]`.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// `amqp://…`; `None`: Postgres itself is the queue.
    pub url: Option<SecretString>,
}

/// `[ingest]`.
#[derive(Clone, Debug)]
pub struct IngestConfig {
    /// The public listener's address.
    pub listen: SocketAddr,
    /// The URL under which Clay reaches it.
    pub public_url: Option<Url>,
    /// Largest body in bytes.
    pub max_body_bytes: usize,
    /// Bearer tokens of `POST /v1/rows/…`; empty: the path answers 404.
    pub rows_tokens: Vec<SecretString>,
    /// Connections that commit, each on its own, at least 1.
    pub writers: usize,
    /// HTTP threads, at least 1.
    pub threads: usize,
    /// Limits on what is taken at once.
    pub limits: IngestLimits,
}

/// `[ingest.limits]`.
#[derive(Clone, Debug)]
pub struct IngestLimits {
    /// Requests being worked on at once; beyond: 503 with Retry-After.
    pub in_flight: usize,
    /// Bytes of their bodies; beyond: 503 with Retry-After.
    pub in_flight_bytes: usize,
    /// Header fields of one request; beyond: 431.
    pub headers: usize,
    /// Time for a client to send its headers.
    pub header_timeout: Duration,
    /// Time for a client to send its body.
    pub body_timeout: Duration,
    /// Time for one commit before the callback is spooled.
    pub commit_timeout: Duration,
}

/// `[spool]`.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Its folder; default `<data>/spool`.
    pub dir: PathBuf,
    /// Bytes it may take.
    pub max_bytes: u64,
}

/// `[worker]`.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Batches of callbacks being routed at once, at least 1.
    pub concurrency: usize,
    /// How long a stop waits for requests in flight.
    pub drain: Duration,
    /// How often the sweeper looks for lost work.
    pub sweep_every: Duration,
    /// How often the rescuer looks for expired leases.
    pub rescue_every: Duration,
}

/// `[admin]`.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// The admin listener's address.
    pub listen: SocketAddr,
    /// The token of `/v1` and `/`; `None`: both answer 404.
    pub token: Option<SecretString>,
}

/// `[retention]`: `None` keeps for ever.
#[derive(Clone, Debug)]
pub struct RetentionConfig {
    /// Raw bodies.
    pub bodies: Option<Duration>,
    /// Attempts.
    pub attempts: Option<Duration>,
    /// Leads.
    pub leads: Option<Duration>,
    /// Decisions.
    pub decisions: Option<Duration>,
    /// Rows.
    pub rows: Option<Duration>,
    /// Idempotency keys.
    pub keys: Option<Duration>,
}

/// `[telemetry]`.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// A `tracing` filter, for example `info` or `info,worker=debug`.
    pub log: String,
    /// Where traces go; `None`: nowhere.
    pub otlp_endpoint: Option<Url>,
}
