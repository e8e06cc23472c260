//! What waits in the outbox, looked at every few seconds: for `/metrics` and `/readyz`, which answer from memory.
//!
//! The cost does not grow with the table: counting stops at a bound, and ages are read from the index's edge.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::gauge;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::db::{Database, DbError, outbox};
use crate::telemetry::metrics::{OUTBOX_ENTRIES, OUTBOX_OLDEST_AGE_SECONDS};
use crate::telemetry::{Probe, Verdict};

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Longer than this without a look: the database is away or hangs.
const BLIND_AFTER: Duration = Duration::from_secs(8);
/// The oldest due entry may be this old before the process says that it does not keep up. Destinations' queues do not
/// count: each may have a backlog of its own, and its lane tells whether it is being worked off.
const OLDEST_AGE_MAX: Duration = Duration::from_secs(300);

/// Looks at the outbox from time to time and remembers what it saw.
#[derive(Clone)]
pub struct BacklogWatch {
    seen: Arc<Mutex<Seen>>,
}

struct Seen {
    at: Instant,
    oldest_shared_age: Duration,
}

impl Default for BacklogWatch {
    fn default() -> Self {
        Self::new()
    }
}

impl BacklogWatch {
    /// A watch that has not looked yet; both gauges are there at 0.
    pub fn new() -> Self {
        gauge!(OUTBOX_ENTRIES).set(0.0);
        gauge!(OUTBOX_OLDEST_AGE_SECONDS).set(0.0);
        Self { seen: Arc::new(Mutex::new(Seen { at: Instant::now(), oldest_shared_age: Duration::ZERO })) }
    }

    /// Looks until `shutdown`.
    pub async fn run(self, database: Database, shutdown: CancellationToken) {
        loop {
            // A look that hangs must not count as a look.
            match tokio::time::timeout(BLIND_AFTER, self.look(&database)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(error = %error, "the outbox could not be read"),
                Err(_) => tracing::debug!("reading the outbox took too long"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Looks once.
    ///
    /// # Errors
    /// [`DbError`]; what was seen before stays.
    pub async fn look(&self, database: &Database) -> Result<(), DbError> {
        let backlog = outbox::backlog(database).await?;
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a double, and the count is bounded")]
        gauge!(OUTBOX_ENTRIES).set(backlog.entries as f64);
        gauge!(OUTBOX_OLDEST_AGE_SECONDS).set(backlog.oldest_age.as_secs_f64());
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) =
            Seen { at: Instant::now(), oldest_shared_age: backlog.oldest_shared_age };
        Ok(())
    }
}

impl Probe for BacklogWatch {
    fn name(&self) -> &str {
        "outbox"
    }

    fn check(&self) -> Verdict {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.at.elapsed() > BLIND_AFTER {
            return Verdict::not_ready(format!(
                "Postgres has not answered for {} s; check the database",
                seen.at.elapsed().as_secs()
            ));
        }
        if seen.oldest_shared_age > OLDEST_AGE_MAX {
            return Verdict::not_ready(format!(
                "the oldest due entry has waited for {} s; workers do not keep up",
                seen.oldest_shared_age.as_secs()
            ));
        }
        Verdict::ready()
    }
}
