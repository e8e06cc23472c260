//! What a service stands on, opened in the order in which it can fail.

use super::{Arguments, LoadError};
use crate::config::{Config, Role};
use crate::db::{ConnectSettings, Database, UrlProblem};
use crate::queue::Doorbell;
use crate::telemetry::logs::{self, LogFilterProblem};
use crate::telemetry::metrics::{self, MetricsHandle, MetricsProblem};

/// The ground of a service that runs as a process of its own. Nothing here waits for Postgres.
pub struct Foundation {
    /// The configuration; its warnings are logged.
    pub config: Config,
    /// What this process counts.
    pub metrics: MetricsHandle,
    /// The database, which may be away.
    pub database: Database,
    /// The bell, which wakes this process alone until somebody runs it.
    pub doorbell: Doorbell,
}

/// Why a service cannot start. Postgres being away is no reason.
#[derive(Debug, thiserror::Error)]
pub enum FoundationError {
    /// There is no configuration.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Nothing can be logged.
    #[error(transparent)]
    Logs(#[from] LogFilterProblem),
    /// Nothing can be counted.
    #[error(transparent)]
    Metrics(#[from] MetricsProblem),
    /// An embedded Postgres is `claygate up`'s alone.
    #[error(
        "a service of its own needs database.url (or CLAYGATE_DATABASE__URL); `claygate up` brings a Postgres of its own"
    )]
    NoDatabase,
    /// The database's URL cannot be used.
    #[error(transparent)]
    Url(#[from] UrlProblem),
}

impl Foundation {
    /// Reads the configuration, starts logging and counting, and opens the database without connecting.
    ///
    /// # Errors
    /// [`FoundationError`], which says what to change.
    pub fn lay(role: Role, arguments: &Arguments) -> Result<Self, FoundationError> {
        let config = arguments.load(role)?;
        logs::init(&config.telemetry.log)?;
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let metrics = metrics::install()?;
        let settings = database_settings(&config)?.ok_or(FoundationError::NoDatabase)?;
        Ok(Self { config, metrics, database: Database::open(settings), doorbell: Doorbell::new() })
    }
}

/// How to connect to the server that `database.url` names; `None`: an embedded one is meant.
///
/// # Errors
/// [`UrlProblem`].
pub fn database_settings(config: &Config) -> Result<Option<ConnectSettings>, UrlProblem> {
    let database = &config.database;
    let of_url = |url| ConnectSettings::from_url(url, database.password.clone(), database.max_connections);
    database.url.as_ref().map(of_url).transpose()
}
