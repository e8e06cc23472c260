//! Wakes consumers without waiting for their next poll.
//!
//! NOTIFY serialises commits over the whole database, so it never runs inside the transactions that make work: whoever
//! committed rings afterwards. A ring wakes this process at once; other processes get one NOTIFY at most every 10 ms,
//! on the connection that hears theirs, unless a relay of this process takes the work from there. A ring that is lost
//! costs latency only: consumers poll as well.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::QueueName;
use crate::db::Database;
use crate::spacing::Spacing;
use crate::telemetry::logs::chain;

const CHANNEL: &str = "claygate_outbox";
/// How far claims of one queue are apart in a process, as long as they leave nothing behind.
const CLAIM_EVERY: Duration = Duration::from_millis(5);
const NOTIFY_EVERY: Duration = Duration::from_millis(10);
const TELL_WITHIN: Duration = Duration::from_secs(5);
const RECONNECT_EVERY: Duration = Duration::from_secs(1);
/// How long what nobody can take at once may wait for others to share its ring.
const LATER: Duration = Duration::from_millis(250);

/// Why processes do not wake each other just now.
#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("the database did not answer in time")]
    Silent,
}

/// The bell of one process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Doorbell {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    bells: Mutex<HashMap<QueueName, Arc<Bell>>>,
    /// Queues rung here that other processes do not know of yet.
    to_tell: Mutex<BTreeSet<QueueName>>,
    /// Queues that are rung within [`LATER`].
    later: Mutex<BTreeSet<QueueName>>,
    told: Notify,
}

/// What the consumers of one queue share in a process.
pub(crate) struct Bell {
    /// Something is due.
    pub(crate) rung: Notify,
    /// What becomes due one by one is claimed together.
    pub(crate) claims: Spacing,
    /// A relay of this process brings to the broker what it is rung for: no other has to be woken, which would only look for
    /// what is gone. While it cannot, others find it when they poll.
    pub(crate) is_relayed: AtomicBool,
}

impl Default for Bell {
    fn default() -> Self {
        Self { rung: Notify::new(), claims: Spacing::new(CLAIM_EVERY), is_relayed: AtomicBool::new(false) }
    }
}

impl Doorbell {
    /// A bell that wakes this process only, until [`Doorbell::run`] connects it with the others.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that `queue` has something due. Never blocks; call it after the commit.
    pub fn ring(&self, queue: &QueueName) {
        let is_relayed = self.ring_here(queue);
        if is_relayed {
            return;
        }
        lock(&self.inner.to_tell).insert(queue.clone());
        self.inner.told.notify_one();
    }

    /// The same a quarter of a second from now, once for all who say so of this queue until then: for what has no room yet
    /// where it goes, so that it travels with others. Call it inside the runtime.
    pub fn ring_later(&self, queue: &QueueName) {
        if lock(&self.inner.later).insert(queue.clone()) {
            let (bell, queue) = (self.clone(), queue.clone());
            // One that a stop cuts short costs latency only, as every lost ring.
            tokio::spawn(async move {
                tokio::time::sleep(LATER).await;
                lock(&bell.inner.later).remove(&queue);
                bell.ring(&queue);
            });
        }
    }

    /// The bell of one queue, for a consumer to wait on.
    pub(crate) fn of(&self, queue: &QueueName) -> Arc<Bell> {
        Arc::clone(lock(&self.inner.bells).entry(queue.clone()).or_default())
    }

    /// Wakes who waits here. Answers whether a relay of this process does.
    fn ring_here(&self, queue: &QueueName) -> bool {
        let bell = lock(&self.inner.bells).get(queue).cloned();
        bell.is_some_and(|bell| {
            // One waiter takes what is there and rings on if there is more than it can carry.
            bell.rung.notify_one();
            bell.is_relayed.load(Ordering::Relaxed)
        })
    }

    /// Tells and hears other processes until `shutdown`. A lost connection is dialled again; nothing depends on it.
    pub async fn run(self, database: Database, shutdown: CancellationToken) {
        let exchanging = async {
            loop {
                if let Err(error) = self.exchange(&database).await {
                    tracing::debug!(error = %chain(&error), "other processes cannot be woken; all poll meanwhile");
                }
                tokio::time::sleep(RECONNECT_EVERY).await;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = exchanging => {}
        }
    }

    /// Tells and hears on one connection, until it breaks.
    async fn exchange(&self, database: &Database) -> Result<(), ExchangeError> {
        // A pool of its own: a listening connection is never given back.
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(1)
            .connect_with(database.settings().sqlx_options())
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        let own: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut listener).await?;
        let spacing = Spacing::new(NOTIFY_EVERY);
        loop {
            tokio::select! {
                heard = listener.try_recv() => {
                    let Some(notification) = heard? else { return Ok(()) };
                    // Who rang here is awake already, and would look once more for nothing.
                    if u32::try_from(own).ok() != Some(notification.process_id()) {
                        self.ring_here(&QueueName(notification.payload().to_owned()));
                    }
                }
                () = self.something_to_tell(&spacing) => {
                    let queues = std::mem::take(&mut *lock(&self.inner.to_tell));
                    let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
                    let telling = sqlx::query("SELECT pg_notify($1, name) FROM unnest($2::text[]) AS name")
                        .bind(CHANNEL)
                        .bind(names)
                        .execute(&mut listener);
                    // A connection whose other end has gone without a word is found out here.
                    tokio::time::timeout(TELL_WITHIN, telling).await.map_err(|_| ExchangeError::Silent)??;
                }
            }
        }
    }

    /// Waits until a queue was rung here and it is time to tell of it. What is to be told stays so when this is cut short.
    async fn something_to_tell(&self, spacing: &Spacing) {
        while lock(&self.inner.to_tell).is_empty() {
            self.inner.told.notified().await;
        }
        spacing.turn().await;
    }
}

/// The maps behind the locks are whole at every point where a panic could happen.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_rings_later_shares_one_ring() {
        let (doorbell, queue) = (Doorbell::new(), QueueName::callbacks());
        let bell = doorbell.of(&queue);
        for _ in 0..2 {
            let said_at = tokio::time::Instant::now();
            for _ in 0..5 {
                doorbell.ring_later(&queue);
            }
            bell.rung.notified().await;
            assert!(said_at.elapsed() >= LATER);
            assert_eq!(bell.rung.notified().now_or_never(), None, "once");
        }
    }
}
