//! `claygate up`: everything in one process, on an embedded Postgres unless `database.url` names another.
//!
//! Start: lock → secrets → Postgres → schema → listeners → `run.json` → banner. Stop, on SIGINT, SIGTERM or the failure
//! of any part: intake first (it answers what it has taken), then the worker (it ends what is in flight), the admin
//! port, Postgres last. A second signal ends the process at once; Postgres then hears of its parent's death.

mod banner;
mod parts;

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use common::config::{Config, Environment, Locations, Role, make_secret, missing_secrets};
use common::db::{ConnectSettings, Database, migrate};
use common::process::{database_settings, migrate_when_possible};
use common::telemetry::{logs, metrics};
use embedded::{Cluster, Lock};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use worker::rescue::release_all_leases;

pub(crate) use self::parts::Parts;
use crate::globals::{Globals, cluster_settings, start_cluster, stop_cluster};
use crate::run_file::{RunFile, RunningPostgres};

/// Run everything in one process: intake, worker, admin port, and a Postgres of its own.
///
/// Without a configuration file it makes the secrets in the data folder and uses the default rules. Ctrl-C stops it;
/// whatever it answered with 200 is there when it starts again.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate up --data /srv/claygate")]
pub(crate) struct Up {}

impl Up {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let environment = Environment::from_process();
        let locations = globals.locations(&environment)?;
        let data = &locations.data;
        std::fs::create_dir_all(data).with_context(|| format!("making the data folder {}", data.display()))?;
        let _lock = Lock::take(data, "claygate up")?;
        // One that a killed process left would send other commands to a server that is gone.
        RunFile::remove(data)?;
        let config = load(&locations, &environment)?;
        logs::init(&config.telemetry.log)?;
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));

        let shutdown = listen_for_signals()?;
        let postgres = Postgres::start(&config).await?;
        let served = serve(&config, &postgres, shutdown).await;
        let removed = RunFile::remove(data);
        let stopped = postgres.stop().await;
        served.and(stopped).and(removed)?;
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes the secrets that are missing, and reads the configuration with them.
fn load(locations: &Locations, environment: &Environment) -> anyhow::Result<Config> {
    for file in missing_secrets(locations, environment)? {
        make_secret(&file).with_context(|| format!("making the secret {}", file.display()))?;
    }
    Ok(Config::load(Role::Up, locations, environment)?)
}

/// Starts every part, and runs until `shutdown` or until one of them ends.
async fn serve(config: &Config, postgres: &Postgres, shutdown: CancellationToken) -> anyhow::Result<()> {
    let handle = metrics::install()?;
    if postgres.cluster.is_some() {
        migrate(&postgres.settings).await?;
        take_over(&postgres.settings).await?;
    } else {
        // It may be away: the intake spools until it is there.
        tokio::spawn(migrate_when_possible(postgres.settings.clone(), shutdown.clone()));
    }
    let parts = Parts::build(config, &postgres.settings, handle).await?;
    let run = RunFile {
        pid: std::process::id(),
        port: parts.port(),
        admin_port: parts.admin_port(),
        postgres: postgres.describe(),
    };
    run.write(&config.data)?;
    banner::print(config, &run);
    tracing::info!(port = run.port, admin_port = run.admin_port, "started");
    tokio::select! {
        ended = parts.run_until(shutdown.clone()) => ended,
        status = postgres.ended() => anyhow::bail!("Postgres ended on its own ({status}); see {}", postgres.log()),
    }
}

/// Frees what a killed predecessor held. The data folder's lock says that nobody else works on this database.
async fn take_over(settings: &ConnectSettings) -> anyhow::Result<()> {
    let database = Database::open(settings.clone());
    let released = release_all_leases(&database).await;
    database.close().await;
    Ok(released?)
}

/// A token that the first SIGINT or SIGTERM cancels. A second one ends the process at once.
fn listen_for_signals() -> anyhow::Result<CancellationToken> {
    let shutdown = CancellationToken::new();
    let cancelled = shutdown.clone();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        for _ in 0..2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if cancelled.is_cancelled() {
                tracing::warn!("stopping at once");
                std::process::exit(1);
            }
            tracing::info!("stopping: ending what has been taken; a second signal stops at once");
            cancelled.cancel();
        }
    });
    Ok(shutdown)
}

/// The database of this process.
struct Postgres {
    settings: ConnectSettings,
    /// The embedded server; `None` with `database.url`.
    cluster: Option<Cluster>,
}

impl Postgres {
    async fn start(config: &Config) -> anyhow::Result<Self> {
        if let Some(settings) = database_settings(config)? {
            return Ok(Self { settings, cluster: None });
        }
        let cluster = start_cluster(config).await?;
        Ok(Self { settings: cluster_settings(&cluster, config), cluster: Some(cluster) })
    }

    fn describe(&self) -> Option<RunningPostgres> {
        self.cluster.as_ref().map(|cluster| RunningPostgres {
            socket: cluster.socket().to_owned(),
            port: cluster.port(),
            pid: cluster.pid(),
            password_file: cluster.password_file(),
        })
    }

    /// Waits until the embedded server ends; for ever, where there is none.
    async fn ended(&self) -> String {
        let Some(cluster) = &self.cluster else { return std::future::pending().await };
        let end = cluster.end();
        match tokio::task::spawn_blocking(move || end.wait()).await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    fn log(&self) -> String {
        self.cluster.as_ref().map(|cluster| cluster.log().display().to_string()).unwrap_or_default()
    }

    async fn stop(self) -> anyhow::Result<()> {
        match self.cluster {
            Some(cluster) => stop_cluster(cluster).await,
            None => Ok(()),
        }
    }
}
