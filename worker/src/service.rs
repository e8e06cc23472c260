//! The worker as a process of its own: configuration, logs, metrics, migrations, admin port, signals.
//!
//! Starts without Postgres, says so in `/readyz`, and begins as soon as the schema is there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use common::config::{Config, Environment, Locations, Role};
use common::db::{ConnectSettings, Database, Migrated, migrate};
use common::queue::postgres::{PostgresQueue, PostgresQueueSettings};
use common::queue::{BacklogWatch, Doorbell};
use common::telemetry::logs::{self, chain};
use common::telemetry::{Probe, metrics};
use console::AdminServer;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::Application;

const MIGRATE_AGAIN: Duration = Duration::from_secs(1);
const MIGRATE_AGAIN_MAX: Duration = Duration::from_secs(30);

/// Route stored callbacks and deliver what comes of them.
#[derive(Parser, Clone, Debug)]
#[command(name = "worker", version, after_help = "Example:\n  worker --config /etc/claygate.toml")]
pub struct Arguments {
    /// The configuration file [default: $CLAYGATE_CONFIG, else ./claygate.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data folder [default: $CLAYGATE_DATA, else claygate-data beside the file]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Runs until SIGTERM or SIGINT, and then until what is under way has ended, at most `worker.drain` long.
///
/// # Errors
/// When the configuration or the admin listener cannot be used, or a part of the worker ends on its own.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let environment = Environment::from_process();
    let locations = Locations::of_process(arguments.config.as_deref(), arguments.data.as_deref(), &environment)
        .context("the working folder cannot be read")?;
    let config = Config::load(Role::Worker, &locations, &environment)?;
    logs::init(&config.telemetry.log)?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let metrics = metrics::install()?;
    // A second installation in one process is refused; the first stays.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();

    let database = Database::open(settings(&config)?);
    let doorbell = Doorbell::new();
    let queue = Arc::new(PostgresQueue::new(database.clone(), doorbell.clone(), PostgresQueueSettings::default()));
    let shutdown = cancelled_by_signals()?;
    let application = Application::build(&config, database.clone(), queue, doorbell.clone(), shutdown.clone())?;
    let backlog = BacklogWatch::new();
    let mut probes = application.probes();
    probes.push(Arc::new(backlog.clone()) as Arc<dyn Probe>);
    let admin = AdminServer::bind(config.admin.listen, probes, metrics)?;
    tracing::info!(admin_port = admin.port(), "started");

    // The admin port answers until the worker has ended.
    let ended = CancellationToken::new();
    let background = [
        tokio::spawn(doorbell.run(database.clone(), ended.clone())),
        tokio::spawn(backlog.run(database.clone(), ended.clone())),
    ];
    let served = tokio::spawn(admin.run_until(ended.clone()));
    migrate_when_possible(database.settings(), &shutdown).await;
    let ran = application.run_until_stopped().await;
    ended.cancel();
    for task in background {
        task.await?;
    }
    served.await??;
    database.close().await;
    Ok(ran?)
}

fn settings(config: &Config) -> anyhow::Result<ConnectSettings> {
    let database = &config.database;
    let url = database
        .url
        .as_ref()
        .context("worker needs database.url (or CLAYGATE_DATABASE__URL); `claygate up` brings a Postgres of its own")?;
    Ok(ConnectSettings::from_url(url, database.password.clone(), database.max_connections)?)
}

fn cancelled_by_signals() -> anyhow::Result<CancellationToken> {
    let shutdown = CancellationToken::new();
    let cancelled = shutdown.clone();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping: ending what is under way");
        cancelled.cancel();
    });
    Ok(shutdown)
}

/// Brings the schema up to date, and waits for Postgres where it is away.
async fn migrate_when_possible(settings: &ConnectSettings, shutdown: &CancellationToken) {
    let mut pause = MIGRATE_AGAIN;
    loop {
        let done = tokio::select! {
            () = shutdown.cancelled() => return,
            done = migrate(settings) => done,
        };
        match done {
            Ok(Migrated::Current { version, applied }) => {
                tracing::info!(version, applied, "the schema is current");
                return;
            }
            Ok(Migrated::Newer { schema, binary }) => {
                tracing::warn!(schema, binary, "the schema is newer than this binary; it is left as it is");
                return;
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "the schema is not current yet; trying again");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = MIGRATE_AGAIN_MAX.min(pause * 2);
    }
}
