//! The sweeper: puts work back into its queue that was lost on the way there.
//!
//! Guarantee: a callback or delivery that waits, has no lease and no outbox entry, and has not been enqueued for longer
//! than a horizon is enqueued once; the horizon doubles with each time that the same one is found, so that what only waits
//! long in a broker is not published again and again. Paused destinations are left alone: their deliveries wait. Safe
//! to run in every worker at once. When it dies, nothing is lost; it is the net below a net.
//!
//! What waits for a destination that is in the configuration no more ends here as dead (`unknown_destination`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use common::config::Config;
use common::db::sweep::{self, Position, SweepLimits};
use common::db::{Database, DbError, destination_state, rule_sets};
use common::queue::{Doorbell, QueueName};
use common::states::{DestinationState, Reason};
use common::telemetry::logs::chain;
use tokio_util::sync::CancellationToken;

use crate::health::Beat;
use crate::telemetry;

/// How long deliveries of a destination that this process does not know are left to other workers, which may know it.
const UNKNOWN_GRACE: Duration = Duration::from_secs(600);
/// Stretches of callbacks that one sweep reads: a million callbacks with the usual limits.
const STRETCHES_MAX: u32 = 50;
/// Such deliveries ended in one step.
const UNKNOWN_MAX: i64 = 256;

/// Where the sweeps have got to, and what they need.
pub struct Sweeper {
    config: Arc<Config>,
    database: Database,
    doorbell: Doorbell,
    limits: SweepLimits,
    callbacks_from: Option<Position>,
    deliveries_from: HashMap<String, Position>,
}

/// What one step found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Callbacks enqueued again.
    pub callbacks: usize,
    /// Deliveries enqueued again.
    pub deliveries: usize,
    /// Deliveries ended because nobody serves their destination.
    pub unknown: usize,
}

impl Sweeper {
    /// A sweeper that begins at the mark.
    pub fn new(config: Arc<Config>, database: Database, doorbell: Doorbell, limits: SweepLimits) -> Self {
        Self { config, database, doorbell, limits, callbacks_from: None, deliveries_from: HashMap::new() }
    }

    /// Sweeps every `worker.sweep_every` until `shutdown`.
    pub async fn run(mut self, beat: Beat, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(self.config.worker.sweep_every) => {}
            }
            beat.beat();
            let swept = tokio::select! {
                () = shutdown.cancelled() => return,
                swept = self.sweep_once() => swept,
            };
            if let Err(error) = swept {
                tracing::warn!(error = %chain(&error), "a sweep was cut short");
            }
        }
    }

    /// One step: some bounded stretches of callbacks, and one of each destination's deliveries.
    ///
    /// # Errors
    /// [`DbError`]; what was enqueued before stays so, and the next step goes on.
    pub async fn sweep_once(&mut self) -> Result<SweepReport, DbError> {
        let mut report = SweepReport { callbacks: self.sweep_callbacks().await?, ..SweepReport::default() };
        let held = self.held().await?;
        for destination in sweep::pending_destinations(&self.database).await? {
            if held.contains(&destination) {
                continue;
            }
            if self.config.destinations.contains_key(&destination) {
                report.deliveries += self.sweep_destination(&destination).await?;
            } else {
                report.unknown += self.end_unknown(&destination).await?;
            }
        }
        Ok(report)
    }

    /// Keeps up with what comes in: the mark that it moves says what retention may remove.
    async fn sweep_callbacks(&mut self) -> Result<usize, DbError> {
        let mut requeued = 0;
        for _ in 0..STRETCHES_MAX {
            let swept = sweep::callbacks(&self.database, self.limits, self.callbacks_from).await?;
            self.callbacks_from = swept.next;
            requeued += swept.requeued;
            if swept.requeued > 0 {
                tracing::warn!(callbacks = swept.requeued, "found callbacks that were lost on their way");
                self.doorbell.ring(&QueueName::callbacks());
            }
            // What was put back waits for the next sweep, so that a backlog is not put back all at once.
            if !swept.is_cut || swept.requeued > 0 {
                break;
            }
        }
        Ok(requeued)
    }

    /// The destinations that are not sent to just now.
    async fn held(&self) -> Result<HashSet<String>, DbError> {
        let known = destination_state::list(&self.database).await?;
        Ok(known.into_iter().filter(|one| one.state != DestinationState::Running).map(|one| one.destination).collect())
    }

    async fn sweep_destination(&mut self, destination: &str) -> Result<usize, DbError> {
        let from = self.deliveries_from.remove(destination);
        let swept = sweep::deliveries(&self.database, self.limits, destination, from).await?;
        if let Some(next) = swept.next {
            self.deliveries_from.insert(destination.to_owned(), next);
        }
        if swept.requeued > 0 {
            tracing::warn!(destination, deliveries = swept.requeued, "found deliveries that were lost on their way");
            self.doorbell.ring(&QueueName::deliver(destination));
        }
        Ok(swept.requeued)
    }

    /// Ends what waits for a destination that nobody knows. While two rule sets are in use some other worker may know
    /// it: a rolling deployment is no reason to give anything up.
    async fn end_unknown(&self, destination: &str) -> Result<usize, DbError> {
        if rule_sets::active(&self.database, crate::duties::ACTIVE_WITHIN).await?.len() > 1 {
            return Ok(0);
        }
        let ended = sweep::end_unknown(&self.database, destination, UNKNOWN_GRACE, UNKNOWN_MAX).await?;
        if ended > 0 {
            tracing::error!(
                destination,
                deliveries = ended,
                "ended what waits for a destination that is not configured"
            );
            for _ in 0..ended {
                telemetry::count_dead_delivery(destination, Reason::UnknownDestination);
            }
            self.doorbell.ring(&QueueName::released());
        }
        Ok(ended)
    }
}
