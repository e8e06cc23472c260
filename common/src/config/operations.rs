//! The sections about processes and machines: database, listeners, spool, worker, admin, telemetry.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::ActiveSecret;
use super::read::Reader;
use super::schema::{Key, Kind, Preset, Section};
use super::tree::Origin;
use crate::db::ConnectSettings;

/// `[database]`.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// `postgres://user@host:port/database?sslmode=…`, never with a password; `None`: the embedded Postgres.
    pub url: Option<Url>,
    /// The password, wherever it was given.
    pub password: Option<SecretString>,
    /// The embedded Postgres' TCP port on 127.0.0.1; `None`: a free one, kept in the data folder.
    pub port: Option<u16>,
    /// Connections of one process, at least 4.
    pub max_connections: u32,
}

/// `[ingest]`.
#[derive(Clone, Debug)]
pub struct IngestConfig {
    /// The public listener's address.
    pub listen: SocketAddr,
    /// The URL under which Clay reaches it, without a path.
    pub public_url: Option<Url>,
    /// Largest body in bytes.
    pub max_body_bytes: usize,
    /// Bearer tokens of `POST /v1/rows/…`; none: the path answers 404.
    pub rows_tokens: Vec<ActiveSecret>,
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
    /// Requests being worked on at once; beyond: 429 with Retry-After.
    pub in_flight: usize,
    /// Bytes of their bodies; beyond: 429 with Retry-After.
    pub in_flight_bytes: usize,
    /// Requests of rows being read at once; beyond: 429 with Retry-After.
    pub rows_in_flight: usize,
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

/// `[telemetry]`.
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// A `tracing` filter, for example `info` or `info,worker=debug`.
    pub log: String,
}

const fn seconds(from: u64, to: u64) -> Kind {
    Kind::Duration { min: Duration::from_secs(from), max: Duration::from_secs(to) }
}

const HOUR: u64 = 3_600;

pub(super) static DATABASE: Section = Section {
    title: "[database]",
    doc: "Where Postgres is. `claygate up` brings its own when there is no `url`; `ingest` and `worker` need one.",
    keys: &[
        Key::new(
            "url",
            Kind::Secret,
            Preset::Said("the embedded Postgres"),
            "`postgres://user:password@host:port/database`; parameters: `sslmode` (disable, prefer, require, verify-ca, \
             verify-full) and `sslrootcert`.",
        ),
        Key::new("password", Kind::Secret, Preset::Said("none"), "The password, where `url` has none."),
        Key::new(
            "port",
            Kind::Integer { min: 1, max: 65_535 },
            Preset::Said("a free one, kept"),
            "TCP port of the embedded Postgres on 127.0.0.1. Only without `url`.",
        ),
        Key::new(
            "max_connections",
            Kind::Integer { min: 4, max: 1_000 },
            Preset::Is("16"),
            "Connections of one process.",
        ),
    ],
};

pub(super) static INGEST: Section = Section {
    title: "[ingest]",
    doc: "The public listener, which Clay sends callbacks to.",
    keys: &[
        Key::new("listen", Kind::Address, Preset::Is("127.0.0.1:8080"), "Address and port; port 0 takes a free one."),
        Key::new(
            "public_url",
            Kind::Url,
            Preset::Said("none"),
            "The URL under which Clay reaches the listener (a reverse proxy, a tunnel), without a path.",
        ),
        Key::new(
            "max_body",
            Kind::Size { min: 1_000, max: 64 << 20 },
            Preset::Is("1MiB"),
            "Largest body of a callback; larger ones are answered 413.",
        ),
        Key::new(
            "rows_tokens",
            Kind::Secrets,
            Preset::Said("none: the path answers 404"),
            "Tokens of `POST /v1/rows/{destination}`, by which rows for a `clay` destination are handed in: \
             `Authorization: Bearer …`.",
        ),
        Key::new(
            "writers",
            Kind::Integer { min: 1, max: 32 },
            Preset::Is("2"),
            "Connections that commit callbacks, each on its own. More than two help only where a flush to disk is slow.",
        ),
        Key::new(
            "threads",
            Kind::Integer { min: 1, max: 256 },
            Preset::Said("one per processor, at most 8"),
            "HTTP threads.",
        ),
        Key::new("limits", Kind::Table(&LIMITS), Preset::Said(""), ""),
    ],
};

pub(super) static LIMITS: Section = Section {
    title: "[ingest.limits]",
    doc: "What is taken at once. Beyond it the sender is told to come back.",
    keys: &[
        Key::new(
            "in_flight",
            Kind::Integer { min: 1, max: 1_000_000 },
            Preset::Is("1024"),
            "Requests being worked on at once; beyond: 429 with Retry-After.",
        ),
        Key::new(
            "in_flight_bytes",
            Kind::Size { min: 1_000, max: 16 << 30 },
            Preset::Is("32MiB"),
            "Bytes of their bodies; beyond: 429 with Retry-After. At least the largest `max_body`.",
        ),
        Key::new(
            "rows_in_flight",
            Kind::Integer { min: 1, max: 1_000 },
            Preset::Is("8"),
            "Requests of rows being read at once, each of which may be of any length; beyond: 429 with Retry-After. Each \
             takes a connection to Postgres and up to 4 MiB.",
        ),
        Key::new(
            "headers",
            Kind::Integer { min: 8, max: 96 },
            Preset::Is("64"),
            "Header fields of one request; beyond: 431.",
        ),
        Key::new("header_timeout", seconds(1, 300), Preset::Is("10s"), "Time for a client to send its headers."),
        Key::new(
            "body_timeout",
            seconds(1, 300),
            Preset::Is("30s"),
            "Time for a client to send its body; of a request of rows: to send its next part.",
        ),
        Key::new(
            "commit_timeout",
            Kind::Duration { min: Duration::from_millis(100), max: Duration::from_secs(60) },
            Preset::Is("5s"),
            "Time for one commit; after it the callback goes to the spool.",
        ),
    ],
};

pub(super) static SPOOL: Section = Section {
    title: "[spool]",
    doc: "The local files that take callbacks while Postgres is away. Each process needs a folder of its own on a disk \
          that survives it.",
    keys: &[
        Key::new("dir", Kind::Path, Preset::Said("`spool` in the data folder"), "Its folder."),
        Key::new(
            "max_bytes",
            Kind::Size { min: 1 << 20, max: 1 << 50 },
            Preset::Is("1GiB"),
            "What it may take. When it is full, callbacks are answered 503 with Retry-After.",
        ),
    ],
};

pub(super) static WORKER: Section = Section {
    title: "[worker]",
    doc: "Routing, and what keeps deliveries going.",
    keys: &[
        Key::new(
            "concurrency",
            Kind::Integer { min: 1, max: 256 },
            Preset::Is("4"),
            "Batches of callbacks being routed at once.",
        ),
        Key::new("drain", seconds(0, HOUR), Preset::Is("30s"), "How long a stop waits for requests in flight."),
        Key::new("sweep_every", seconds(1, 24 * HOUR), Preset::Is("1m"), "How often lost work is looked for."),
        Key::new("rescue_every", seconds(1, HOUR), Preset::Is("5s"), "How often expired leases are looked for."),
    ],
};

pub(super) static ADMIN: Section = Section {
    title: "[admin]",
    doc: "The listener for operators and monitoring. `/livez`, `/readyz` and `/metrics` are open, so keep it private.",
    keys: &[
        Key::new("listen", Kind::Address, Preset::Is("127.0.0.1:8081"), "Address and port; port 0 takes a free one."),
        Key::new(
            "token",
            Kind::Secret,
            Preset::Said("`up`: `secrets/admin` in the data folder; else none"),
            "The token of `/v1` and `/`, neither of which this version has yet: both answer 404.",
        ),
    ],
};

pub(super) static TELEMETRY: Section = Section {
    title: "[telemetry]",
    doc: "What the process says about itself.",
    keys: &[
        Key::new(
            "log",
            Kind::Text,
            Preset::Is("info"),
            "What is logged: `error`, `warn`, `info`, `debug`, `trace`, also per crate: `info,worker=debug`.",
        ),
        Key::new(
            "otlp_endpoint",
            Kind::NotYet("traces are not supported yet by this version; leave otlp_endpoint out"),
            Preset::Said(""),
            "",
        ),
    ],
};

pub(super) fn read_database(reader: &Reader<'_>) -> DatabaseConfig {
    let mut password = reader.secret("password");
    let max_connections = reader.integer("max_connections");
    let url = reader.secret("url").and_then(|text| read_database_url(reader, &text, &mut password, max_connections));
    let port: u16 = reader.integer("port");
    if url.is_some() && port != 0 {
        reader.wrong("port", "belongs to the embedded Postgres and has no meaning beside url: remove one of them");
    }
    DatabaseConfig { url, password, port: (port != 0).then_some(port), max_connections }
}

/// The URL without its password, which goes to `password`.
fn read_database_url(
    reader: &Reader<'_>,
    text: &SecretString,
    password: &mut Option<SecretString>,
    max_connections: u32,
) -> Option<Url> {
    if text.expose_secret().is_empty() {
        return None;
    }
    let mut url =
        Url::parse(text.expose_secret()).map_err(|error| reader.wrong("url", format!("is not a URL: {error}"))).ok()?;
    let settings = ConnectSettings::from_url(&url, None, max_connections)
        .map_err(|error| reader.wrong("url", error.to_string()))
        .ok()?;
    if let Some(own) = settings.password {
        if password.is_some() {
            reader.wrong("password", "is given beside a url that has one: keep one of them");
        }
        *password = Some(own);
        // Fails only for URLs without a host, which were refused above.
        let _ = url.set_password(None);
    }
    reader.show_as("url", url.to_string());
    Some(url)
}

pub(super) fn read_ingest(reader: &Reader<'_>, processors: usize) -> IngestConfig {
    let threads: usize = reader.integer("threads");
    let max_body_bytes = reader.size("max_body").unwrap_or_default() as usize;
    let limits = read_limits(&reader.table("limits"));
    IngestConfig {
        listen: read_address(reader),
        public_url: read_public_url(reader),
        max_body_bytes,
        rows_tokens: reader.secrets("rows_tokens"),
        writers: reader.integer("writers"),
        threads: if threads == 0 { processors.clamp(1, 8) } else { threads },
        limits,
    }
}

fn read_limits(reader: &Reader<'_>) -> IngestLimits {
    IngestLimits {
        in_flight: reader.integer("in_flight"),
        in_flight_bytes: reader.size("in_flight_bytes").unwrap_or_default() as usize,
        rows_in_flight: reader.integer("rows_in_flight"),
        headers: reader.integer("headers"),
        header_timeout: reader.duration("header_timeout").unwrap_or_default(),
        body_timeout: reader.duration("body_timeout").unwrap_or_default(),
        commit_timeout: reader.duration("commit_timeout").unwrap_or_default(),
    }
}

fn read_address(reader: &Reader<'_>) -> SocketAddr {
    reader
        .parsed("listen", |text| {
            text.parse::<SocketAddr>()
                .map_err(|_| "is not an address: write IP and port, for example \"127.0.0.1:8080\" or \"0.0.0.0:8080\"")
        })
        .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn read_public_url(reader: &Reader<'_>) -> Option<Url> {
    reader.parsed("public_url", |text| {
        let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let has_user = !url.username().is_empty() || url.password().is_some();
        match url.scheme() {
            "https" | "http" if is_bare && !has_user && url.host_str().is_some() => Ok(url),
            _ => Err("has to be https://host without a path: the sources' own paths are appended".to_owned()),
        }
    })
}

pub(super) fn read_spool(reader: &Reader<'_>, data: &Path) -> SpoolConfig {
    SpoolConfig {
        dir: reader.file_path("dir").unwrap_or_else(|| data.join("spool")),
        max_bytes: reader.size("max_bytes").unwrap_or_default(),
    }
}

pub(super) fn read_worker(reader: &Reader<'_>) -> WorkerConfig {
    WorkerConfig {
        concurrency: reader.integer("concurrency"),
        drain: reader.duration("drain").unwrap_or_default(),
        sweep_every: reader.duration("sweep_every").unwrap_or_default(),
        rescue_every: reader.duration("rescue_every").unwrap_or_default(),
    }
}

/// Reads `[admin]`; `made` is the token file that `claygate up` makes, where that is the one running.
pub(super) fn read_admin(reader: &Reader<'_>, made: Option<&Path>) -> AdminConfig {
    let made = made.filter(|file| !reader.has("token") && file.exists());
    if reader.has("token") && reader.strict {
        let path = reader.path_of("token");
        reader
            .context
            .warn(format!("{path}: this version has no console and no /v1 yet, so nothing asks for the token"));
    }
    let token = match made {
        Some(file) => {
            reader.note("token", format!("*** ({})", file.display()).into(), &Origin::Default);
            reader.made_secret("token", file)
        }
        None => reader.secret("token"),
    };
    AdminConfig { listen: read_address(reader), token: token.filter(|token| !token.expose_secret().trim().is_empty()) }
}

pub(super) fn read_telemetry(reader: &Reader<'_>) -> TelemetryConfig {
    let log = reader.parsed("log", |text| match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("is not a filter: write for example \"info\" or \"info,worker=debug\""),
    });
    TelemetryConfig { log: log.unwrap_or_default() }
}
