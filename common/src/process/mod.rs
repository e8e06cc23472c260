//! What a process of ours does around its work: finding its configuration, opening what it stands on, hearing signals,
//! and bringing the schema up to date.

mod arguments;
mod foundation;

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::db::{ConnectSettings, Migrated, migrate};
use crate::telemetry::logs::chain;

pub use arguments::{Arguments, LoadError};
pub use foundation::{Foundation, FoundationError, database_settings};

const MIGRATE_AGAIN: Duration = Duration::from_secs(1);
const MIGRATE_AGAIN_MAX: Duration = Duration::from_secs(30);

/// A token that the first SIGINT or SIGTERM cancels; `stopping` is what the log then says.
///
/// # Errors
/// When the process cannot listen for signals.
pub fn stop_on_signals(stopping: &'static str) -> std::io::Result<CancellationToken> {
    let shutdown = CancellationToken::new();
    let cancelled = shutdown.clone();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("stopping: {stopping}");
        cancelled.cancel();
    });
    Ok(shutdown)
}

/// Brings the schema up to date as soon as Postgres is there, or gives up at `shutdown`.
///
/// # Cancel safety
/// Each migration is a transaction of its own.
pub async fn migrate_when_possible(settings: ConnectSettings, shutdown: CancellationToken) {
    let mut pause = MIGRATE_AGAIN;
    loop {
        let done = tokio::select! {
            () = shutdown.cancelled() => return,
            done = migrate(&settings) => done,
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
                let told = chain(&error);
                tracing::warn!(error = told, "the schema is not current yet; trying again");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    // A try holds others up for a moment. Where Postgres is away meanwhile, the next one says so.
                    _ = error.wait_for_holders(&settings) => {}
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = MIGRATE_AGAIN_MAX.min(pause * 2);
    }
}
