//! The intake as a process of its own: configuration, logs, metrics, migrations, admin port, signals.
//!
//! Starts, listens and spools without Postgres; the migrations wait for it in the background.

use common::config::Role;
use common::process::{Arguments, Foundation, migrate_when_possible, stop_on_signals};
use common::queue::{self, QueueName};
use console::AdminServer;
use tokio_util::sync::CancellationToken;

use crate::Application;

/// Runs until SIGTERM or SIGINT, and then until everything that was taken is answered.
///
/// # Errors
/// When the configuration, the spool or a listener cannot be used, or a part of the intake ends on its own.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Foundation { config, metrics, database, doorbell } = Foundation::lay(Role::Ingest, arguments)?;
    // Only what is written here: the rest is the workers', and worth nothing without them.
    let relay = queue::open(&config, &database, &doorbell).relay(vec![QueueName::callbacks()]);
    let shutdown = stop_on_signals("answering what has been taken")?;
    let application = Application::build(&config, database.clone(), doorbell.clone(), shutdown.clone()).await?;
    let admin = AdminServer::bind(&config, application.probes(), metrics)?;
    tracing::info!(port = application.port(), admin_port = admin.port(), "started");

    // The admin port answers until the intake has ended.
    let ended = CancellationToken::new();
    let mut background = vec![
        tokio::spawn(migrate_when_possible(database.settings().clone(), shutdown.clone())),
        tokio::spawn(doorbell.run(database.clone(), ended.clone())),
    ];
    background.extend(relay.map(|relay| tokio::spawn(relay.run(ended.clone()))));
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
