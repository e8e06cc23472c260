//! Routing: from a stored callback to its deliveries.
//!
//! A batch goes: load what still waits → normalise → judge by the rules → plan → take slots → one commit → start the
//! slots, ring for what was queued. Nothing is acknowledged here; [`consume`] does that after the commit.
//!
//! Safe to run twice on the same ids, one after the other or at once: the commit fences each callback, and whoever
//! comes second finds nothing to do. A worker that dies before its commit has done nothing; one that dies after it
//! leaves leased deliveries to [`crate::rescue`]. Never here: requests to destinations, acknowledgements.

mod batch;
pub mod consume;
pub mod plan;

use std::sync::Arc;
use std::time::Duration;

use common::config::Config;
use common::db::{Database, DbError, routing};
use common::ids::CallbackId;
use common::queue::Doorbell;
use common::rules::{RuleSet, RuleThreads};
use common::states::Reason;

use crate::lanes::Lanes;

/// Claims of one callback after which it is given up as poison.
pub const CLAIMS_MAX: i16 = 5;
/// How often a batch that collided with another is tried again before the message is left to come again.
const COLLISIONS_MAX: usize = 8;

/// Routes batches of callbacks. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    inner: Arc<Inner>,
}

struct Inner {
    config: Arc<Config>,
    database: Database,
    doorbell: Doorbell,
    lanes: Arc<Lanes>,
    rules: Arc<RuleSet>,
    threads: RuleThreads,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchReport {
    /// Callbacks that this call ended, one way or another.
    pub ended: usize,
    /// Those of them that are dead.
    pub dead: usize,
    /// Deliveries started at once.
    pub started: usize,
    /// Deliveries put into their destinations' queues.
    pub queued: usize,
    /// Deliveries recorded and not sent.
    pub skipped: usize,
}

impl std::ops::AddAssign for BatchReport {
    fn add_assign(&mut self, other: Self) {
        self.ended += other.ended;
        self.dead += other.dead;
        self.started += other.started;
        self.queued += other.queued;
        self.skipped += other.skipped;
    }
}

impl Router {
    /// A router for `rules`, which `threads` evaluate.
    pub fn new(
        config: Arc<Config>,
        database: Database,
        doorbell: Doorbell,
        lanes: Arc<Lanes>,
        rules: Arc<RuleSet>,
        threads: RuleThreads,
    ) -> Self {
        Self { inner: Arc::new(Inner { config, database, doorbell, lanes, rules, threads }) }
    }

    /// Routes the callbacks among `ids` that still wait. One that the database refuses is found by halving the batch and
    /// ends as dead (`unreadable`); its neighbours are routed.
    ///
    /// # Errors
    /// [`DbError`] when the database is away or keeps colliding: nothing is lost, the same call can be repeated.
    ///
    /// # Cancel safety
    /// Safe: each part of the batch is committed as a whole or not at all.
    pub async fn route_batch(&self, ids: &[CallbackId]) -> Result<BatchReport, DbError> {
        let mut report = BatchReport::default();
        let mut parts = vec![ids.to_vec()];
        while let Some(part) = parts.pop() {
            match self.route_part(&part).await {
                Ok(done) => report += done,
                Err(DbError::Refused { constraint, .. }) if part.len() > 1 => {
                    tracing::warn!(size = part.len(), constraint, "a batch was refused; halving it");
                    let (first, second) = part.split_at(part.len() / 2);
                    // The earlier half first: of two leads of one person the first wins the cool-down.
                    parts.push(second.to_vec());
                    parts.push(first.to_vec());
                }
                Err(DbError::Refused { constraint, .. }) => {
                    for id in part {
                        tracing::warn!(callback = %id, constraint, "a callback was refused by the database");
                        report += self.give_up(id, Reason::Unreadable).await?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }

    /// Routes one callback of a redelivered message, after [`Router::count_redelivery`].
    ///
    /// # Errors
    /// [`DbError`], as [`Router::route_batch`].
    pub async fn route_redelivered(&self, id: CallbackId) -> Result<BatchReport, DbError> {
        if self.count_redelivery(id).await? { self.route_batch(&[id]).await } else { Ok(BatchReport::default()) }
    }

    /// Counts and commits that a callback was given out again, before the work on it; one time too many ends it as dead
    /// (`poison`). Answers whether it is still to be routed. Once per message: what is tried again because the database
    /// is away does not count.
    ///
    /// # Errors
    /// [`DbError`]; nothing was counted.
    pub async fn count_redelivery(&self, id: CallbackId) -> Result<bool, DbError> {
        match routing::count_claim(&self.inner.database, id).await? {
            None => Ok(false),
            Some(claims) if claims > CLAIMS_MAX => {
                tracing::error!(callback = %id, claims, "a callback was claimed too often without an end");
                self.give_up(id, Reason::Poison).await?;
                Ok(false)
            }
            Some(_) => Ok(true),
        }
    }

    /// Ends a callback that waits as dead.
    pub(crate) async fn give_up(&self, id: CallbackId, reason: Reason) -> Result<BatchReport, DbError> {
        let ended = routing::give_up(&self.inner.database, id, self.inner.rules.version(), reason).await?;
        if !ended {
            return Ok(BatchReport::default());
        }
        crate::telemetry::count_dead_callback(reason);
        Ok(BatchReport { ended: 1, dead: 1, ..BatchReport::default() })
    }

    /// Routes a part of a batch, again at once where it collided with another worker's.
    async fn route_part(&self, ids: &[CallbackId]) -> Result<BatchReport, DbError> {
        let mut collisions = 0;
        loop {
            match self.try_part(ids).await {
                Err(DbError::Collision(source)) if collisions < COLLISIONS_MAX => {
                    collisions += 1;
                    tracing::debug!(error = %source, collisions, "a routing transaction collided; trying again");
                    tokio::time::sleep(Duration::from_millis(rand::random_range(1..20))).await;
                }
                other => return other,
            }
        }
    }
}
