//! The intake as a process of its own: configuration, logs, metrics, migrations, admin port, signals.
//!
//! Starts, listens and spools without Postgres; the migrations wait for it in the background.

use std::path::PathBuf;

use clap::Parser;
use common::config::Role;
use common::process::{Foundation, migrate_when_possible, stop_on_signals};
use console::AdminServer;
use tokio_util::sync::CancellationToken;

use crate::Application;

/// Take callbacks in: verify, key, commit, answer.
#[derive(Parser, Clone, Debug)]
#[command(name = "ingest", version, after_help = "Example:\n  ingest --config /etc/claygate.toml")]
pub struct Arguments {
    /// The configuration file [default: $CLAYGATE_CONFIG, else ./claygate.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The data folder [default: $CLAYGATE_DATA, else claygate-data beside the file]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Runs until SIGTERM or SIGINT, and then until everything that was taken is answered.
///
/// # Errors
/// When the configuration, the spool or a listener cannot be used, or a part of the intake ends on its own.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Foundation { config, metrics, database, doorbell } =
        Foundation::lay(Role::Ingest, arguments.config.as_deref(), arguments.data.as_deref())?;
    let shutdown = stop_on_signals("answering what has been taken")?;
    let application = Application::build(&config, database.clone(), doorbell.clone(), shutdown.clone()).await?;
    let admin = AdminServer::bind(config.admin.listen, application.probes(), metrics)?;
    tracing::info!(port = application.port(), admin_port = admin.port(), "started");

    // The admin port answers until the intake has ended.
    let ended = CancellationToken::new();
    let background = [
        tokio::spawn(migrate_when_possible(database.settings().clone(), shutdown.clone())),
        tokio::spawn(doorbell.run(database.clone(), ended.clone())),
    ];
    let served = tokio::spawn(admin.run_until(ended.clone()));
    let ran = application.run_until_stopped().await;
    shutdown.cancel();
    ended.cancel();
    for task in background {
        task.await?;
    }
    served.await??;
    database.close().await;
    Ok(ran?)
}
