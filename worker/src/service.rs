//! The worker as a process of its own: configuration, logs, metrics, migrations, admin port, signals.
//!
//! Starts without Postgres, says so in `/readyz`, and begins as soon as the schema is there.

use std::sync::Arc;

use common::config::Role;
use common::process::{Arguments, Foundation, migrate_when_possible, stop_on_signals};
use common::queue::{self, BacklogWatch};
use common::telemetry::Probe;
use console::AdminServer;
use tokio_util::sync::CancellationToken;

use crate::Application;

/// Runs until SIGTERM or SIGINT, and then until what is under way has ended, at most `worker.drain` long.
///
/// # Errors
/// When the configuration or the admin listener cannot be used, or a part of the worker ends on its own.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Foundation { config, metrics, database, doorbell } = Foundation::lay(Role::Worker, arguments)?;
    // A second installation in one process is refused; the first stays.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let queue = queue::open(&config, &database, &doorbell);
    let relay = queue.relay(queue::queues_of(&config));
    let shutdown = stop_on_signals("ending what is under way")?;
    let application = Application::build(&config, database.clone(), queue, doorbell.clone(), shutdown.clone())?;
    let backlog = BacklogWatch::new();
    let mut probes = application.probes();
    probes.push(Arc::new(backlog.clone()) as Arc<dyn Probe>);
    let admin = AdminServer::bind(&config, probes, metrics)?;
    tracing::info!(admin_port = admin.port(), "started");

    // The admin port answers until the worker has ended.
    let ended = CancellationToken::new();
    let mut background = vec![
        tokio::spawn(doorbell.run(database.clone(), ended.clone())),
        tokio::spawn(backlog.run(database.clone(), ended.clone())),
    ];
    background.extend(relay.map(|relay| tokio::spawn(relay.run(ended.clone()))));
    let served = tokio::spawn(admin.run_until(ended.clone()));
    migrate_when_possible(database.settings().clone(), shutdown.clone()).await;
    let ran = application.run_until_stopped().await;
    ended.cancel();
    for task in background {
        task.await?;
    }
    served.await??;
    database.close().await;
    Ok(ran?)
}
