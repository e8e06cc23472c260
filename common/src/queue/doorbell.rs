//! Wakes consumers without waiting for their next poll.
//!
//! NOTIFY serialises commits over the whole database, so it never runs inside the transactions that make work: whoever
//! committed rings afterwards. A ring wakes this process at once; other processes get one NOTIFY at most every 10 ms,
//! on a connection of its own. A ring that is lost costs latency only: consumers poll as well.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::QueueName;
use crate::db::Database;
use crate::spacing::Spacing;

const CHANNEL: &str = "claygate_outbox";
/// How far claims of one queue are apart in a process, as long as they leave nothing behind.
const CLAIM_EVERY: Duration = Duration::from_millis(5);
const NOTIFY_EVERY: Duration = Duration::from_millis(10);
const RECONNECT_EVERY: Duration = Duration::from_secs(1);
/// How long what nobody can take at once may wait for others to share its ring.
const LATER: Duration = Duration::from_millis(250);

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
}

impl Default for Bell {
    fn default() -> Self {
        Self { rung: Notify::new(), claims: Spacing::new(CLAIM_EVERY) }
    }
}

impl Doorbell {
    /// A bell that wakes this process only, until [`Doorbell::run`] connects it with the others.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that `queue` has something due. Never blocks; call it after the commit.
    pub fn ring(&self, queue: &QueueName) {
        self.ring_here(queue);
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

    fn ring_here(&self, queue: &QueueName) {
        let bell = lock(&self.inner.bells).get(queue).cloned();
        if let Some(bell) = bell {
            // One waiter takes what is there and rings on if there is more than it can carry.
            bell.rung.notify_one();
        }
    }

    /// Tells and hears other processes until `shutdown`. A lost connection is dialled again; nothing depends on it.
    pub async fn run(self, database: Database, shutdown: CancellationToken) {
        let telling = self.tell(&database);
        let hearing = self.hear(&database);
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = telling => {}
            () = hearing => {}
        }
    }

    async fn tell(&self, database: &Database) {
        loop {
            self.inner.told.notified().await;
            let queues = std::mem::take(&mut *lock(&self.inner.to_tell));
            let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
            let told = sqlx::query("SELECT pg_notify($1, name) FROM unnest($2::text[]) AS name")
                .bind(CHANNEL)
                .bind(names)
                .execute(database.pool())
                .await;
            if let Err(error) = told {
                tracing::debug!(error = %error, "other processes could not be woken; they will poll");
                tokio::time::sleep(RECONNECT_EVERY).await;
            }
            tokio::time::sleep(NOTIFY_EVERY).await;
        }
    }

    async fn hear(&self, database: &Database) {
        loop {
            if let Err(error) = self.hear_until_broken(database).await {
                tracing::debug!(error = %error, "listening for other processes was interrupted");
            }
            tokio::time::sleep(RECONNECT_EVERY).await;
        }
    }

    async fn hear_until_broken(&self, database: &Database) -> Result<(), sqlx::Error> {
        // A pool of its own: a listening connection is never given back.
        let pool = sqlx::postgres::PgPoolOptions::new()
            .max_connections(1)
            .connect_with(database.settings().sqlx_options())
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        while let Some(notification) = listener.try_recv().await? {
            self.ring_here(&QueueName(notification.payload().to_owned()));
        }
        Ok(())
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
