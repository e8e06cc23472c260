//! What every command shares: `--config`, `--data`, and a way to the database.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::config::{Config, Role};
use common::db::{ConnectSettings, Database, PgSslMode, migrate};
use common::process::database_settings;
use embedded::{Cluster, Home, Lock, Settings};

use crate::run_file::{RunFile, RunningPostgres};

/// How long a command waits for an `up` that is just starting, or for another command that uses the folder.
const BUSY_LIMIT: Duration = Duration::from_secs(30);
const POLL_EVERY: Duration = Duration::from_millis(100);

/// The options of every command.
pub(crate) use common::process::Arguments as Globals;

/// A database that a command may use until it closes it.
pub(crate) struct OpenDatabase {
    database: Database,
    /// The server that was started for this command alone.
    own: Option<(Cluster, Lock)>,
}

impl OpenDatabase {
    /// A way to the database: the one of `database.url`, of a running `up`, or an embedded one that runs until
    /// [`OpenDatabase::close`]. An embedded one has the current schema.
    pub(crate) async fn reach(globals: &Globals) -> anyhow::Result<Self> {
        let open = Self::open(&globals.load(Role::Tool)?).await?;
        if open.own.is_some() {
            migrate(open.database.settings()).await?;
        }
        Ok(open)
    }

    /// As [`OpenDatabase::reach`], for a command that has the configuration already and does not need the schema.
    pub(crate) async fn open(config: &Config) -> anyhow::Result<Self> {
        if let Some(settings) = database_settings(config)? {
            return Ok(Self { database: Database::open(settings), own: None });
        }
        std::fs::create_dir_all(&config.data).with_context(|| format!("making {}", config.data.display()))?;
        let deadline = Instant::now() + BUSY_LIMIT;
        loop {
            if let Some(postgres) = RunFile::of_live(&config.data)?.and_then(|run| run.postgres) {
                let settings = running_settings(&postgres, config)?;
                return Ok(Self { database: Database::open(settings), own: None });
            }
            match Lock::take(&config.data, "a claygate command") {
                Ok(lock) => return Self::start(config, lock).await,
                Err(embedded::Error::InUse { .. }) if Instant::now() < deadline => tokio::time::sleep(POLL_EVERY).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Starts the embedded server, whose schema may be missing or old yet.
    async fn start(config: &Config, lock: Lock) -> anyhow::Result<Self> {
        let cluster = start_cluster(config).await?;
        let settings = cluster_settings(&cluster, config);
        Ok(Self { database: Database::open(settings), own: Some((cluster, lock)) })
    }

    /// The database.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// Whether its server runs for this command alone.
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Closes the connections, and stops the server if this command started it.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.database.close().await;
        match self.own {
            Some((cluster, _lock)) => stop_cluster(cluster).await,
            None => Ok(()),
        }
    }
}

/// Starts the embedded Postgres of the data folder, whose lock the caller holds.
pub(crate) async fn start_cluster(config: &Config) -> anyhow::Result<Cluster> {
    let (data, port) = (config.data.clone(), config.database.port);
    let start = move || Cluster::start(&Settings::durable(Home::of_data(&data)?, port));
    Ok(tokio::task::spawn_blocking(start).await??)
}

/// Stops it, waiting until it has stopped.
pub(crate) async fn stop_cluster(cluster: Cluster) -> anyhow::Result<()> {
    Ok(tokio::task::spawn_blocking(move || cluster.stop()).await??)
}

/// How to connect to a server of our own: by its Unix socket.
pub(crate) fn cluster_settings(cluster: &Cluster, config: &Config) -> ConnectSettings {
    socket_settings(cluster.socket(), cluster.port(), cluster.password(), config)
}

fn running_settings(postgres: &RunningPostgres, config: &Config) -> anyhow::Result<ConnectSettings> {
    let file = &postgres.password_file;
    let password = std::fs::read_to_string(file).with_context(|| {
        format!("reading {} (run this as the user who runs `claygate up`, or as root)", file.display())
    })?;
    Ok(socket_settings(&postgres.socket, postgres.port, &password, config))
}

fn socket_settings(socket: &Path, port: u16, password: &str, config: &Config) -> ConnectSettings {
    ConnectSettings {
        host: socket.to_string_lossy().into_owned(),
        port,
        user: embedded::USER.to_owned(),
        password: Some(password.to_owned().into()),
        database: embedded::DATABASE.to_owned(),
        ssl_mode: PgSslMode::Disable,
        ssl_root_cert: None,
        max_connections: config.database.max_connections,
    }
}
