//! The relay: brings what is due in the outbox to the broker. The only publisher there is.
//!
//! Guarantee: an entry is deleted only after the broker has confirmed its message. An entry whose fate is not known is
//! published again: consumers work by state, so a second message finds nothing to do. Safe to run in every process at
//! once: an entry is claimed by one of them, and a claim whose holder died runs out. When all of them die, the outbox
//! grows and nothing is lost.
//!
//! What is due together travels together: a message costs the broker the same whatever it carries. Only what was
//! published before goes alone, as it may be in the broker already.
//!
//! Each queue has a relay of its own, with its own window and its own back-off, so that a full or missing queue stalls
//! no other. While the broker is away or short of memory, nothing is claimed and nothing is rewritten. What belongs to
//! a destination that is paused or disabled stays in the outbox.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use metrics::counter;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::publisher::{Published, Publisher};
use super::{BrokerError, RabbitQueue, Shared};
use crate::crash::{self, Point};
use crate::db::{DbError, destination_state, outbox};
use crate::queue::postgres::{PostgresQueue, PostgresQueueSettings};
use crate::queue::{BATCH_MAX, Message, Queue, QueueError, QueueName, Receipt};
use crate::states::DestinationState;
use crate::telemetry::logs::chain;
use crate::telemetry::metrics::PUBLISHED;

/// Ids that are published and not confirmed, per queue.
const WINDOW: usize = 64 * BATCH_MAX;
/// A claim is longer than publishing may take, so that no other relay takes the entry meanwhile.
const CLAIM_MARGIN: Duration = Duration::from_secs(5);
const HELD_EVERY: Duration = Duration::from_secs(1);
const BLOCKED_EVERY: Duration = Duration::from_millis(250);
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
const BACK_OFF_MIN: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(60);

/// Publishes for some queues.
pub struct Relay {
    shared: Arc<Shared>,
    queues: Vec<QueueName>,
}

impl Relay {
    /// A relay for `queues` over the broker of `queue`.
    pub fn new(queue: &RabbitQueue, queues: impl IntoIterator<Item = QueueName>) -> Self {
        for result in Published::ALL {
            counter!(PUBLISHED, "result" => result.as_str()).increment(0);
        }
        let (shared, queues) = (Arc::clone(&queue.shared), queues.into_iter().collect::<Vec<_>>());
        for queue in &queues {
            shared.doorbell.of(queue).is_relayed.store(true, Ordering::Relaxed);
        }
        Self { shared, queues }
    }

    /// Publishes until `shutdown`; what is under way then is finished first.
    pub async fn run(self, shutdown: CancellationToken) {
        let (tell, held) = watch::channel(HashSet::new());
        let database = self.shared.database.clone();
        let lanes = self.queues.into_iter().map(|queue| {
            let (shared, held, shutdown) = (Arc::clone(&self.shared), held.clone(), shutdown.clone());
            Lane { shared, queue, held, back_off: BACK_OFF_MIN }.run(shutdown)
        });
        let watching = async {
            loop {
                match held_queues(&database).await {
                    Ok(queues) => drop(tell.send_replace(queues)),
                    Err(error) => tracing::debug!(error = %chain(&error), "paused destinations could not be read"),
                }
                tokio::time::sleep(HELD_EVERY).await;
            }
        };
        tokio::select! {
            _ = join_all(lanes) => {}
            () = watching => {}
        }
    }
}

/// The queues of destinations that are not sent to just now.
async fn held_queues(database: &crate::db::Database) -> Result<HashSet<QueueName>, DbError> {
    let known = destination_state::list(database).await?;
    let held = known.into_iter().filter(|one| one.state != DestinationState::Running);
    Ok(held.map(|one| QueueName::deliver(&one.destination)).collect())
}

/// The relay of one queue.
struct Lane {
    shared: Arc<Shared>,
    queue: QueueName,
    held: watch::Receiver<HashSet<QueueName>>,
    back_off: Duration,
}

impl Lane {
    async fn run(mut self, shutdown: CancellationToken) {
        let settings = PostgresQueueSettings {
            lease: self.shared.settings.confirm_timeout + CLAIM_MARGIN,
            ..PostgresQueueSettings::default()
        };
        let outbox = PostgresQueue::new(self.shared.database.clone(), self.shared.doorbell.clone(), settings);
        let mut pause = PAUSE_MIN;
        while !shutdown.is_cancelled() {
            match self.publish_until_broken(&outbox, &shutdown, &mut pause).await {
                Ok(()) => return,
                // The connection says in the log that it is gone, and the database's users say it of the database.
                Err(error) => tracing::debug!(queue = %self.queue, error = %chain(&error), "relaying was interrupted"),
            }
            if wait(pause, &shutdown).await {
                return;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn publish_until_broken(
        &mut self,
        outbox: &PostgresQueue,
        shutdown: &CancellationToken,
        pause: &mut Duration,
    ) -> Result<(), QueueError> {
        let publisher = Publisher::open(&self.shared, &self.queue).await?;
        let mut entries = outbox.consumer(&self.queue).await?;
        while !shutdown.is_cancelled() {
            if !publisher.is_open() {
                return Err(BrokerError::Down.into());
            }
            if !publisher.is_ready() {
                wait(BLOCKED_EVERY, shutdown).await;
                continue;
            }
            if self.held.borrow().contains(&self.queue) {
                wait(HELD_EVERY, shutdown).await;
                continue;
            }
            // Not cut short by a stop: what was claimed would wait for its claim to run out.
            let claimed = entries.receive(WINDOW).await?;
            if !claimed.is_empty() {
                self.publish(&publisher, claimed).await?;
            }
            *pause = PAUSE_MIN;
        }
        Ok(())
    }

    /// Publishes a window and settles its entries.
    async fn publish(&mut self, publisher: &Publisher, entries: Vec<Message>) -> Result<(), QueueError> {
        let parcels = pack(entries);
        let published = publisher.publish(&parcels).await;
        if published.contains(&Published::Confirmed) {
            crash::point(Point::AfterPublish);
        }
        let (mut done, mut failed, mut refs) = (Vec::new(), Vec::new(), Vec::new());
        for (parcel, published) in parcels.into_iter().zip(&published) {
            if *published == Published::Confirmed {
                done.extend(parcel.entries);
                refs.extend(parcel.refs);
            } else {
                failed.extend(parcel.entries);
            }
        }
        outbox::published(&self.shared.database, &self.queue, &pairs(&done), &refs).await?;
        let Some(worst) = published.iter().copied().find(|one| *one != Published::Confirmed) else {
            self.back_off = BACK_OFF_MIN;
            return Ok(());
        };
        tracing::warn!(
            queue = %self.queue,
            entries = failed.len(),
            reason = worst.as_str(),
            again_in = ?self.back_off,
            "messages could not be published"
        );
        outbox::put_off(&self.shared.database, &pairs(&failed), self.back_off).await?;
        self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
        if published.contains(&Published::Unroutable) {
            publisher.declare().await?;
        }
        Ok(())
    }
}

/// The content of one message, and the entries that it is of.
pub(super) struct Parcel {
    /// 1 to 64 ids.
    pub(super) refs: Vec<Uuid>,
    entries: Vec<Receipt>,
}

/// Puts entries that follow each other into one message, as far as they have room in it.
fn pack(entries: Vec<Message>) -> Vec<Parcel> {
    let mut parcels: Vec<Parcel> = Vec::with_capacity(entries.len());
    let mut is_open = false;
    for Message { refs, receipt, redelivered, .. } in entries {
        match parcels.last_mut() {
            Some(parcel) if is_open && !redelivered && parcel.refs.len() + refs.len() <= BATCH_MAX => {
                parcel.refs.extend(refs);
                parcel.entries.push(receipt);
            }
            _ => parcels.push(Parcel { refs, entries: vec![receipt] }),
        }
        is_open = !redelivered;
    }
    parcels
}

/// Entries with the claims under which they were taken, sorted.
fn pairs(receipts: &[Receipt]) -> Vec<(i64, i32)> {
    let mut pairs: Vec<(i64, i32)> = receipts.iter().map(|receipt| (receipt.id, receipt.claim)).collect();
    pairs.sort_unstable();
    pairs
}

/// Waits; answers whether the process stops.
async fn wait(pause: Duration, shutdown: &CancellationToken) -> bool {
    tokio::time::timeout(pause, shutdown.cancelled()).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: i64, refs: usize, redelivered: bool) -> Message {
        let receipt = Receipt { id, claim: 1 };
        Message { queue: QueueName::callbacks(), refs: vec![Uuid::nil(); refs], redelivered, receipt }
    }

    #[test]
    fn what_is_due_together_travels_together_but_for_what_was_published_before() {
        let entries =
            [(1, 1, false), (2, BATCH_MAX - 1, false), (3, 1, false), (4, 1, true), (5, 2, false), (6, 2, false)];
        let parcels = pack(entries.map(|(id, refs, again)| entry(id, refs, again)).to_vec());
        let packed: Vec<(Vec<i64>, usize)> = parcels
            .iter()
            .map(|parcel| (parcel.entries.iter().map(|receipt| receipt.id).collect(), parcel.refs.len()))
            .collect();
        assert_eq!(packed, [(vec![1, 2], BATCH_MAX), (vec![3], 1), (vec![4], 1), (vec![5, 6], 4)]);
    }
}
