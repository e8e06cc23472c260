//! Postgres itself as the queue: consumers claim due outbox entries, no broker needed.
//!
//! A claim moves the entry's `due_at` ahead by the lease and counts itself; the count is the claim's name, so that an
//! acknowledgement of a claim that ran out in the meantime touches nothing. An entry whose holder died is due again
//! when its lease ends: nobody has to notice the death.
//!
//! Claims walk the index (queue, due_at, id). While somebody holds a long snapshot (a dump, an analyst), finished
//! entries stay in that index as dead ones; so a claim starts at the remembered low-water mark, just below what it
//! took last, and the whole range is read again every few seconds for entries that were committed late.
//!
//! A claim that took all that was due is followed by one only when somebody has rung, when an entry becomes due that was
//! put off, or when the poll interval is over: what comes one by one and is not rung for yet travels together.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::Row;
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::doorbell::Bell;
use super::{Consumer, Doorbell, Message, Queue, QueueError, QueueName, Receipt};
use crate::db::{Database, DbError};
use crate::telemetry::logs::chain;

/// How a [`PostgresQueue`] waits and leases.
#[derive(Clone, Copy, Debug)]
pub struct PostgresQueueSettings {
    /// How long a claimed message belongs to its consumer. Longer than any honest holding: consumers keep messages for
    /// seconds.
    pub lease: Duration,
    /// The longest wait between two looks at the table when no bell rings, and the most by which an entry that was put off
    /// for less may be late.
    pub poll_every: Duration,
    /// How often a claim reads from the beginning instead of from the low-water mark.
    pub rescan_every: Duration,
}

impl Default for PostgresQueueSettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            poll_every: Duration::from_secs(1),
            rescan_every: Duration::from_secs(5),
        }
    }
}

/// How far below the last claimed entry the low-water mark lies: entries committed a little out of order are found at
/// once, the others by the rescan.
const MARK_SLACK: Duration = Duration::from_secs(2);
/// Most entries of one claim.
const CLAIM_MAX: usize = 64;

/// The outbox as a queue.
#[derive(Clone)]
pub struct PostgresQueue {
    database: Database,
    doorbell: Doorbell,
    settings: PostgresQueueSettings,
}

impl PostgresQueue {
    /// A queue over `database`, woken by `doorbell`.
    pub fn new(database: Database, doorbell: Doorbell, settings: PostgresQueueSettings) -> Self {
        Self { database, doorbell, settings }
    }
}

#[async_trait]
impl Queue for PostgresQueue {
    async fn consumer(&self, queue: &QueueName) -> Result<Box<dyn Consumer>, QueueError> {
        Ok(Box::new(PostgresConsumer {
            database: self.database.clone(),
            doorbell: self.doorbell.clone(),
            bell: self.doorbell.of(queue),
            queue: queue.clone(),
            settings: self.settings,
            mark: None,
            rescanned_at: Instant::now(),
            ids_per_entry: 1,
            may_be_due: true,
            look_at: Instant::now(),
            more_may_wait: false,
            claiming: None,
        }))
    }
}

struct PostgresConsumer {
    database: Database,
    doorbell: Doorbell,
    bell: Arc<Bell>,
    queue: QueueName,
    settings: PostgresQueueSettings,
    /// Everything due before it was taken, as far as this consumer saw.
    mark: Option<OffsetDateTime>,
    rescanned_at: Instant,
    /// What the last claimed entries held on average.
    ids_per_entry: usize,
    /// Something may be due that no claim of this consumer has looked for.
    may_be_due: bool,
    /// When an entry becomes due that was put off, or when this is to be asked again.
    look_at: Instant,
    /// The last claim took as much as it was meant to.
    more_may_wait: bool,
    /// A claim that the last receive was cut short in; the next one goes on with it.
    claiming: Option<BoxFuture<'static, Result<Vec<Claimed>, DbError>>>,
}

/// When an entry was due, and its message.
type Claimed = (OffsetDateTime, Message);

impl PostgresConsumer {
    /// Takes due entries of together about `want` ids, in the order in which they were due.
    async fn claim(&mut self, want: usize) -> Result<Vec<Message>, DbError> {
        if self.rescanned_at.elapsed() >= self.settings.rescan_every {
            self.mark = None;
            self.rescanned_at = Instant::now();
        }
        // Entries that are locked and not taken cost a write for nothing, so the limit follows what entries hold.
        let entries = want.div_ceil(self.ids_per_entry).clamp(1, CLAIM_MAX);
        let claiming = self.claiming.get_or_insert_with(|| {
            Box::pin(claim_due(
                self.database.clone(),
                self.queue.clone(),
                self.mark,
                entries,
                want,
                self.settings.lease,
            ))
        });
        let claimed = claiming.await;
        self.claiming = None;
        let claimed = claimed?;
        let ids: usize = claimed.iter().map(|(_, message)| message.refs.len()).sum();
        self.more_may_wait = claimed.len() == entries || ids >= want;
        self.may_be_due = self.more_may_wait;
        if let Some((due_at, _)) = claimed.last() {
            self.ids_per_entry = (ids / claimed.len()).max(1);
            self.mark = Some(*due_at - MARK_SLACK);
            if self.more_may_wait {
                // There may be more than this consumer can carry.
                self.bell.rung.notify_one();
            }
        }
        Ok(claimed.into_iter().map(|(_, message)| message).collect())
    }

    /// Finds out when to look again: when the next entry becomes due, or after the poll interval.
    async fn look_for_next(&mut self) -> Result<(), DbError> {
        let seconds: Option<f64> = sqlx::query_scalar(
            "SELECT EXTRACT(EPOCH FROM due_at - clock_timestamp())::float8 FROM claygate.outbox
             WHERE queue = $1 AND due_at > now() ORDER BY due_at LIMIT 1",
        )
        .bind(self.queue.as_str())
        .fetch_optional(self.database.pool())
        .await?;
        let next = seconds.map_or(self.settings.poll_every, |s| Duration::try_from_secs_f64(s).unwrap_or_default());
        self.look_at = Instant::now() + next.min(self.settings.poll_every);
        Ok(())
    }
}

#[async_trait]
impl Consumer for PostgresConsumer {
    async fn receive(&mut self, want: usize) -> Result<Vec<Message>, QueueError> {
        if !self.may_be_due {
            // A ring since the last claim is kept by the bell.
            tokio::select! {
                () = self.bell.rung.notified() => {}
                () = tokio::time::sleep_until(self.look_at) => {}
            }
            self.may_be_due = true;
        }
        let looks = self.look_at <= Instant::now();
        if looks {
            // Before the claim: what becomes due between the two is claimed, or looked for again at once.
            self.look_for_next().await?;
        }
        if !self.more_may_wait {
            self.bell.claims.turn().await;
        }
        let claimed = self.claim(want.max(1)).await?;
        if claimed.is_empty() && !looks {
            // Who rang may have put something off.
            self.look_for_next().await?;
        }
        Ok(claimed)
    }

    fn more_may_wait(&self) -> bool {
        self.more_may_wait
    }

    async fn ack(&mut self, receipts: &[Receipt]) -> Result<usize, QueueError> {
        let (ids, claims) = split(receipts.iter());
        let gone = sqlx::query(
            "DELETE FROM claygate.outbox AS entry USING unnest($1::bigint[], $2::integer[]) AS done (id, claims)
             WHERE entry.id = done.id AND entry.claims = done.claims",
        )
        .bind(ids)
        .bind(claims)
        .execute(self.database.pool())
        .await
        .map_err(DbError::from)?;
        Ok(usize::try_from(gone.rows_affected()).unwrap_or(usize::MAX))
    }

    async fn release(&mut self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let (ids, claims) = split(receipts.iter());
        sqlx::query(
            "UPDATE claygate.outbox AS entry SET due_at = now()
             FROM unnest($1::bigint[], $2::integer[]) AS given (id, claims)
             WHERE entry.id = given.id AND entry.claims = given.claims",
        )
        .bind(ids)
        .bind(claims)
        .execute(self.database.pool())
        .await
        .map_err(DbError::from)?;
        self.bell.rung.notify_one();
        Ok(())
    }
}

impl Drop for PostgresConsumer {
    /// What a claim under way takes, nobody will see: it is undone, and does not have to run out.
    fn drop(&mut self) {
        let (Some(claiming), Ok(runtime)) = (self.claiming.take(), Handle::try_current()) else { return };
        let (database, doorbell, queue) = (self.database.clone(), self.doorbell.clone(), self.queue.clone());
        runtime.spawn(async move {
            let undone = async {
                let claimed = claiming.await?;
                if !claimed.is_empty() {
                    undo(&database, &claimed).await?;
                    doorbell.ring(&queue);
                }
                Ok::<_, DbError>(())
            };
            if let Err(error) = undone.await {
                tracing::debug!(%queue, error = %chain(&error), "what a stop cut short has to run out");
            }
        });
    }
}

/// Takes at most `entries` due entries of together about `want` ids, in the order in which they were due.
async fn claim_due(
    database: Database,
    queue: QueueName,
    mark: Option<OffsetDateTime>,
    entries: usize,
    want: usize,
    lease: Duration,
) -> Result<Vec<Claimed>, DbError> {
    let rows = sqlx::query(
        "WITH due AS MATERIALIZED (
             SELECT id, due_at, cardinality(refs) AS ids FROM claygate.outbox
             WHERE queue = $1 AND due_at >= COALESCE($2, '-infinity') AND due_at <= now()
             ORDER BY due_at, id LIMIT $3 FOR UPDATE SKIP LOCKED
         ), taken AS (
             SELECT id, due_at FROM (SELECT id, due_at, sum(ids) OVER (ORDER BY due_at, id) - ids AS ahead FROM due) AS d
             WHERE ahead < $4
         )
         UPDATE claygate.outbox AS entry
         SET due_at = now() + $5, claims = entry.claims + 1
         FROM taken WHERE entry.id = taken.id
         RETURNING entry.id, entry.refs, entry.claims, taken.due_at",
    )
    .bind(queue.as_str())
    .bind(mark)
    .bind(i64::try_from(entries).unwrap_or(i64::MAX))
    .bind(i64::try_from(want).unwrap_or(i64::MAX))
    .bind(lease)
    .fetch_all(database.pool())
    .await?;
    let mut claimed = rows
        .iter()
        .map(|row| {
            let claim: i32 = row.try_get("claims")?;
            let receipt = Receipt { id: row.try_get("id")?, claim };
            let refs = row.try_get("refs")?;
            let message = Message { queue: queue.clone(), refs, redelivered: claim > 1, receipt };
            Ok((row.try_get("due_at")?, message))
        })
        .collect::<Result<Vec<Claimed>, sqlx::Error>>()?;
    claimed.sort_by_key(|(due_at, message)| (*due_at, message.receipt.id));
    Ok(claimed)
}

/// Puts entries back as if they had not been claimed.
async fn undo(database: &Database, claimed: &[Claimed]) -> Result<(), DbError> {
    let receipts = || claimed.iter().map(|(_, message)| message.receipt);
    sqlx::query(
        "UPDATE claygate.outbox AS entry SET due_at = given.due_at, claims = entry.claims - 1
         FROM unnest($1::bigint[], $2::integer[], $3::timestamptz[]) AS given (id, claims, due_at)
         WHERE entry.id = given.id AND entry.claims = given.claims",
    )
    .bind(receipts().map(|receipt| receipt.id).collect::<Vec<_>>())
    .bind(receipts().map(|receipt| receipt.claim).collect::<Vec<_>>())
    .bind(claimed.iter().map(|(due_at, _)| *due_at).collect::<Vec<_>>())
    .execute(database.pool())
    .await?;
    Ok(())
}

/// Receipts as two arrays, sorted by id: two writers over the same entries must not wait for each other in a circle.
fn split<'a>(receipts: impl Iterator<Item = &'a Receipt>) -> (Vec<i64>, Vec<i32>) {
    let mut pairs: Vec<(i64, i32)> = receipts.map(|receipt| (receipt.id, receipt.claim)).collect();
    pairs.sort_unstable();
    pairs.into_iter().unzip()
}
