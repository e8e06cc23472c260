//! The rescuer: gives leases back whose holders died or hang, so that somebody else sends what they held.
//!
//! Guarantee: a delivery whose lease has run out is due in its queue again within the interval, by an outbox entry written
//! in the statement that clears the lease. Safe to run in every worker at once, and again after any failure. When it
//! dies, leases stay until another worker's rescuer comes by. Never here: a look at what the holder did; its late
//! outcome finds the token gone.
//!
//! After the database was away it waits one full lease first, counted from the database's first answer: holders could
//! not record what they did in the meantime, and their outcomes arrive now. A rescuer that has just started cannot know
//! that the database was not away, and waits too; `claygate up`, alone on its database, frees everything at its start.

use std::collections::BTreeSet;
use std::time::Duration;

use common::config::Config;
use common::db::{Database, DbError, rescue};
use common::queue::{Doorbell, QueueName};
use common::states::Reason;
use common::telemetry::logs::chain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::health::Beat;
use crate::lanes::Lanes;
use crate::telemetry;

/// Leases of one delivery that may run out without an end before it is given up as poison.
pub const CLAIMS_MAX: i16 = 5;
/// Leases given back in one statement.
const BATCH: i64 = 256;

/// Looks for leases that have run out.
#[derive(Clone)]
pub struct Rescuer {
    database: Database,
    doorbell: Doorbell,
    every: Duration,
    lease_max: Duration,
}

impl Rescuer {
    /// A rescuer for the destinations of `config`.
    pub fn new(config: &Config, database: Database, doorbell: Doorbell) -> Self {
        let lanes = Lanes::new(config).0;
        let lease_max = config.destinations.keys().map(|name| lanes.lease_for(name)).max().unwrap_or_default();
        Self { database, doorbell, every: config.worker.rescue_every, lease_max }
    }

    /// Looks until `shutdown`.
    pub async fn run(self, beat: Beat, shutdown: CancellationToken) {
        let mut patience = Patience::of(self.lease_max);
        loop {
            beat.beat();
            let looked = match patience.wants(Instant::now()) {
                Wants::Answer => self.database.ping(self.every).await,
                Wants::Wait => Ok(()),
                Wants::Rescue => self.rescue_all().await,
            };
            match looked {
                Ok(()) => patience.answered(Instant::now()),
                Err(error) => {
                    let again = matches!(error, DbError::Unavailable(_)) && !patience.failed();
                    let error = chain(&error);
                    if again {
                        tracing::debug!(error, "looking for expired leases failed again");
                    } else {
                        tracing::warn!(error, "looking for expired leases failed");
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(self.every) => {}
            }
        }
    }

    /// Gives back what has run out, batch by batch.
    async fn rescue_all(&self) -> Result<(), DbError> {
        while self.rescue_once().await? != rescue::Rescued::default() {}
        Ok(())
    }

    /// Gives back one batch.
    ///
    /// # Errors
    /// [`DbError`]; nothing was done.
    pub async fn rescue_once(&self) -> Result<rescue::Rescued, DbError> {
        let rescued = rescue::give_back(&self.database, BATCH, CLAIMS_MAX).await?;
        if !rescued.requeued.is_empty() {
            tracing::warn!(deliveries = rescued.requeued.len(), "leases ran out and were given back");
        }
        for destination in rescued.requeued.iter().collect::<BTreeSet<_>>() {
            self.doorbell.ring(&QueueName::deliver(destination));
        }
        for (id, destination) in &rescued.poisoned {
            tracing::error!(delivery = %id, destination, "a delivery's leases ran out too often");
            telemetry::count_dead_delivery(destination, Reason::Poison);
        }
        if !rescued.poisoned.is_empty() {
            self.doorbell.ring(&QueueName::released());
        }
        Ok(rescued)
    }
}

/// When leases may be taken away, given what the database answered so far.
struct Patience {
    lease: Duration,
    /// Not before; `None`: the database has not answered since it failed, or since the start.
    not_before: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    /// An answer of the database.
    Answer,
    /// Nothing: holders may still record.
    Wait,
    /// The leases that have run out.
    Rescue,
}

impl Patience {
    fn of(lease: Duration) -> Self {
        Self { lease, not_before: None }
    }

    fn wants(&self, now: Instant) -> Wants {
        match self.not_before {
            None => Wants::Answer,
            Some(not_before) if now < not_before => Wants::Wait,
            Some(_) => Wants::Rescue,
        }
    }

    /// The database answered, or nothing was asked of it.
    fn answered(&mut self, now: Instant) {
        self.not_before.get_or_insert(now + self.lease);
    }

    /// The database failed. Answers whether this is news.
    fn failed(&mut self) -> bool {
        self.not_before.take().is_some()
    }
}

/// Frees everything that a killed predecessor held: claimed outbox entries are due now, leased deliveries are back in
/// their queues. Only for a process that is alone on its database, before its worker runs.
///
/// # Errors
/// [`DbError`]; the call can be repeated.
pub async fn release_all_leases(database: &Database) -> Result<(), DbError> {
    let (claims, leases) = rescue::release_everything(database, CLAIMS_MAX).await?;
    if claims + leases > 0 {
        tracing::info!(claims, leases, "took over from a process that was stopped in its work");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_lease_passes_between_the_first_answer_and_the_first_rescue() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut patience = Patience::of(10 * second);
        assert_eq!(patience.wants(start), Wants::Answer);
        patience.answered(start + 5 * second);
        assert_eq!(patience.wants(start + 14 * second), Wants::Wait);
        patience.answered(start + 14 * second);
        assert_eq!(patience.wants(start + 15 * second), Wants::Rescue);

        // However long it was away: the lease is counted from its return.
        assert!(patience.failed());
        assert!(!patience.failed());
        assert_eq!(patience.wants(start + 99 * second), Wants::Answer);
        patience.answered(start + 99 * second);
        assert_eq!(patience.wants(start + 100 * second), Wants::Wait);
        assert_eq!(patience.wants(start + 109 * second), Wants::Rescue);
    }
}
