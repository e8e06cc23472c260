//! One configuration, two dialects: a pool for the services, single connections for migrations, LISTEN and locks.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use url::Url;

use super::DbError;

/// Where Postgres is and how to get in.
#[derive(Clone, Debug)]
pub struct ConnectSettings {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: Option<SecretString>,
    /// Database.
    pub database: String,
    /// `disable`, `prefer`, `require`, `verify-ca` or `verify-full`.
    pub ssl_mode: PgSslMode,
    /// Root certificate file for the verify modes.
    pub ssl_root_cert: Option<std::path::PathBuf>,
    /// Connections of the pool.
    pub max_connections: u32,
}

/// Why a database URL cannot be used. Never shows the URL, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlProblem {
    /// Not `postgres://` or `postgresql://`.
    #[error("the database URL has to start with postgres:// or postgresql://")]
    Scheme,
    /// No host.
    #[error("the database URL names no host")]
    Host,
    /// A query parameter that is not known.
    #[error("the database URL has the unknown parameter `{0}` (known: sslmode, sslrootcert)")]
    Parameter(String),
    /// An `sslmode` that is not known.
    #[error("sslmode has to be disable, prefer, require, verify-ca or verify-full")]
    SslMode,
    /// Percent-encoding that is not UTF-8.
    #[error("the database URL's user, password or database name is not valid percent-encoded UTF-8")]
    Encoding,
}

impl ConnectSettings {
    /// Reads a `postgres://user:password@host:port/database?sslmode=…` URL; `password` counts where the URL has none.
    ///
    /// # Errors
    /// [`UrlProblem`] names the part that cannot be used, never its value.
    pub fn from_url(url: &Url, password: Option<SecretString>, max_connections: u32) -> Result<Self, UrlProblem> {
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(UrlProblem::Scheme);
        }
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| UrlProblem::Encoding)
        };
        let mut ssl_mode = PgSslMode::Prefer;
        let mut ssl_root_cert = None;
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "sslmode" => ssl_mode = value.parse().map_err(|_| UrlProblem::SslMode)?,
                "sslrootcert" => ssl_root_cert = Some(value.into_owned().into()),
                other => return Err(UrlProblem::Parameter(other.to_owned())),
            }
        }
        let user = if url.username().is_empty() { "claygate".to_owned() } else { decode(url.username())? };
        let database = match url.path().trim_start_matches('/') {
            "" => user.clone(),
            name => decode(name)?,
        };
        let url_password = url.password().map(decode).transpose()?.map(SecretString::from);
        Ok(Self {
            host: url.host_str().filter(|host| !host.is_empty()).ok_or(UrlProblem::Host)?.to_owned(),
            port: url.port().unwrap_or(5432),
            user,
            password: url_password.or(password),
            database,
            ssl_mode,
            ssl_root_cert,
            max_connections,
        })
    }

    /// The sqlx dialect. Statements are not logged: their parameters are people's data.
    pub fn sqlx_options(&self) -> PgConnectOptions {
        let mut options = PgConnectOptions::new_without_pgpass()
            .host(self.host.trim_start_matches('[').trim_end_matches(']'))
            .port(self.port)
            .username(&self.user)
            .database(&self.database)
            .ssl_mode(self.ssl_mode)
            .application_name("claygate")
            // A server in another time zone must not change what we read or write.
            .options([("timezone", "UTC"), ("idle_in_transaction_session_timeout", "60s")])
            .disable_statement_logging();
        if let Some(password) = &self.password {
            options = options.password(password.expose_secret());
        }
        if let Some(file) = &self.ssl_root_cert {
            options = options.ssl_root_cert(file);
        }
        options
    }

    /// [`ConnectSettings::sqlx_options`] for the services' own statements. Each of them finds its rows by an index; while a
    /// table is young, the planner would rather read it whole, and keep to that plan until the table is analysed.
    pub fn work_options(&self) -> PgConnectOptions {
        self.sqlx_options().options([("enable_seqscan", "off"), ("random_page_cost", "1.1"), ("jit", "off")])
    }

    /// One connection outside the pool: for LISTEN and for advisory locks, which belong to a session.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] when the server cannot be reached.
    pub async fn connect_directly(&self) -> Result<PgConnection, DbError> {
        Ok(PgConnection::connect_with(&self.sqlx_options()).await?)
    }
}

/// A pool of connections on one database.
#[derive(Clone, Debug)]
pub struct Database {
    pool: PgPool,
    settings: ConnectSettings,
}

impl Database {
    /// A pool that connects when it is first used; never fails, so that ingest starts while Postgres is away.
    pub fn open(settings: ConnectSettings) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(settings.max_connections)
            .acquire_timeout(Duration::from_secs(5))
            // A ping before each use costs a round trip; a broken connection shows itself at its first statement.
            .test_before_acquire(false)
            .max_lifetime(Duration::from_secs(30 * 60))
            .connect_lazy_with(settings.work_options());
        Self { pool, settings }
    }

    /// The pool, for the modules of `db` and `queue`.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// What it was opened with.
    pub fn settings(&self) -> &ConnectSettings {
        &self.settings
    }

    /// Whether a statement goes through within `limit`.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] when it does not.
    pub async fn ping(&self, limit: Duration) -> Result<(), DbError> {
        let ping = sqlx::query("SELECT 1").execute(&self.pool);
        match tokio::time::timeout(limit, ping).await {
            Ok(result) => result.map(|_| ()).map_err(DbError::from),
            Err(_) => Err(DbError::Unavailable(sqlx::Error::PoolTimedOut)),
        }
    }

    /// Closes every connection and waits until they are closed.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}
