//! Makes the weekly partitions ahead of time: whenever the intake starts, once a day, and at once after a commit that
//! found one missing.
//!
//! Guarantee: as long as Postgres is reachable once in eight weeks, no commit has to wait for its partition. Safe to run
//! in every process at once; what dies half-way is made up for by the next turn.

use std::time::Duration;

use common::db::DbError;
use common::db::intake::IntakeConnection;
use tokio_util::sync::CancellationToken;

use super::session::within;
use super::writer::Shared;
use common::telemetry::logs::chain;

const EVERY: Duration = Duration::from_secs(24 * 60 * 60);
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// For all of them: each may wait five seconds for its lock.
const LIMIT: Duration = Duration::from_secs(120);

/// Keeps them made until `shutdown`.
pub(crate) async fn keep(shared: &Shared, shutdown: &CancellationToken) {
    let work = async {
        loop {
            shared.health.wait_until_up().await;
            if let Err(error) = within(LIMIT, ensure(shared)).await {
                tracing::warn!(error = %chain(&error), "the partitions to come could not be made; trying again");
                tokio::time::sleep(AGAIN_AFTER).await;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = shared.partition_missing.notified() => {}
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

async fn ensure(shared: &Shared) -> Result<(), DbError> {
    let mut connection = IntakeConnection::open(&shared.settings).await?;
    connection.ensure_partitions().await?;
    connection.close().await;
    Ok(())
}
