//! Says in the database what the spool holds, so that whoever reads the books knows whether they are complete.
//!
//! Guarantee: while Postgres takes commits, the last word of a running intake is seconds old. Safe to repeat: there is one
//! row per spool. When it dies, its last word grows old, which is what readers look for.

use std::time::Duration;

use common::db::{Database, books::spools};
use common::telemetry::logs::chain;
use tokio_util::sync::CancellationToken;

use crate::commit::session::within;
use crate::commit::writer::Shared;

/// For one word.
const LIMIT: Duration = Duration::from_secs(2);

/// Speaks every few seconds until `shutdown`.
pub(crate) async fn keep_saying(shared: &Shared, database: &Database, shutdown: &CancellationToken) {
    let work = async {
        loop {
            shared.health.wait_until_up().await;
            say(shared, database, false).await;
            tokio::time::sleep(spools::SPEAK_EVERY).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = work => {}
    }
}

/// Says what is left in the spool of an intake that has ended.
pub(crate) async fn say_last(shared: &Shared, database: &Database) {
    if shared.health.is_up() {
        say(shared, database, true).await;
    }
}

async fn say(shared: &Shared, database: &Database, stopped: bool) {
    let (instance, entries) = (shared.spool.instance(), shared.spool.entries());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let said = within(LIMIT, spools::speak(database, &instance, &host, entries, stopped)).await;
    if let Err(error) = said {
        // Nothing but the books depends on it, and they say so.
        tracing::debug!(error = %chain(&error), "what the spool holds could not be noted");
    }
}
