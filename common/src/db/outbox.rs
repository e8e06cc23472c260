//! `claygate.outbox`: everything that has to happen, written in the transaction that made it necessary.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Database, DbError};
use crate::queue::{BATCH_MAX, QueueName};

/// Puts `refs` into `queue`, due at `due_at` (`None`: now), in batches of at most [`BATCH_MAX`].
///
/// To be called inside the transaction that makes the work necessary; ring the [`crate::queue::Doorbell`] after its
/// commit.
///
/// # Errors
/// [`DbError`]; the surrounding transaction is then lost as a whole.
pub async fn push(
    connection: &mut PgConnection,
    queue: &QueueName,
    refs: &[Uuid],
    due_at: Option<OffsetDateTime>,
) -> Result<(), DbError> {
    for batch in refs.chunks(BATCH_MAX) {
        sqlx::query("INSERT INTO claygate.outbox (queue, refs, due_at) VALUES ($1, $2, COALESCE($3, now()))")
            .bind(queue.as_str())
            .bind(batch)
            .bind(due_at)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// How long ago something may have been enqueued without that being written down anew. Far below the sweeper's horizon,
/// and fresh work, which is nearly all of it, costs no write.
const STAMP_AFTER: Duration = Duration::from_secs(60);

/// Removes entries whose messages are in the broker, each under the claim by which it was taken, and notes on `refs`, what
/// they refer to, that it is on its way. `entries`: (id, claims), sorted.
///
/// # Errors
/// [`DbError`]; the entries are published again then.
pub async fn published(
    database: &Database,
    queue: &QueueName,
    entries: &[(i64, i32)],
    refs: &[Uuid],
) -> Result<(), DbError> {
    if entries.is_empty() {
        return Ok(());
    }
    // First the note: what has neither an entry nor a fresh note would be taken for lost.
    // A delivery with a next attempt is a pending one. Said by its state, the index of what is pending could serve, too,
    // and be read from end to end.
    let stamp = if queue.destination().is_some() {
        Some(
            "UPDATE claygate.deliveries AS d SET enqueued_at = now() FROM (
             SELECT id FROM claygate.deliveries
             WHERE id = ANY($1) AND next_attempt_at IS NOT NULL
                 AND GREATEST(next_attempt_at, enqueued_at) < now() - $2::interval
             ORDER BY id FOR UPDATE SKIP LOCKED
         ) AS stale WHERE d.id = stale.id",
        )
    } else if *queue == QueueName::callbacks() {
        Some(
            "UPDATE claygate.callbacks AS c SET enqueued_at = now() FROM (
             SELECT id FROM claygate.callbacks
             WHERE id = ANY($1) AND state = 'received' AND GREATEST(received_at, enqueued_at) < now() - $2::interval
             ORDER BY id FOR UPDATE SKIP LOCKED
         ) AS stale WHERE c.id = stale.id",
        )
    } else {
        None
    };
    if let Some(stamp) = stamp {
        sqlx::query(stamp).bind(refs).bind(STAMP_AFTER).execute(database.pool()).await?;
    }
    let (ids, claims): (Vec<i64>, Vec<i32>) = entries.iter().copied().unzip();
    sqlx::query(
        "DELETE FROM claygate.outbox AS entry USING unnest($1::bigint[], $2::integer[]) AS done (id, claims)
         WHERE entry.id = done.id AND entry.claims = done.claims",
    )
    .bind(ids)
    .bind(claims)
    .execute(database.pool())
    .await?;
    Ok(())
}

/// Makes entries that could not be published due in `delay`, each under the claim by which it was taken. `entries`:
/// (id, claims), sorted.
///
/// # Errors
/// [`DbError`]; their claims run out then.
pub async fn put_off(database: &Database, entries: &[(i64, i32)], delay: Duration) -> Result<(), DbError> {
    let (ids, claims): (Vec<i64>, Vec<i32>) = entries.iter().copied().unzip();
    sqlx::query(
        "UPDATE claygate.outbox AS entry SET due_at = now() + $3::interval
         FROM unnest($1::bigint[], $2::integer[]) AS given (id, claims)
         WHERE entry.id = given.id AND entry.claims = given.claims",
    )
    .bind(ids)
    .bind(claims)
    .bind(delay)
    .execute(database.pool())
    .await?;
    Ok(())
}

/// What waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Entries, due and scheduled; counting stops at [`COUNT_MAX`].
    pub entries: u64,
    /// Age of the oldest due entry of a queue that is not paused.
    pub oldest_age: Duration,
    /// The same without the destinations' queues: a slow or limited destination may have a backlog for hours, while
    /// callbacks are routed within seconds or something is wrong.
    pub oldest_shared_age: Duration,
}

/// Counting entries stops here.
pub const COUNT_MAX: i64 = 100_000;

/// Looks at what waits, in bounded time: queues are enumerated by jumping through the index.
///
/// # Errors
/// [`DbError`].
pub async fn backlog(database: &Database) -> Result<Backlog, DbError> {
    let (entries, oldest_age, oldest_shared_age): (i64, f64, f64) = sqlx::query_as(
        "WITH RECURSIVE queues AS (
             (SELECT queue FROM claygate.outbox ORDER BY queue LIMIT 1)
             UNION ALL
             SELECT (SELECT later.queue FROM claygate.outbox AS later
                     WHERE later.queue > queues.queue ORDER BY later.queue LIMIT 1)
             FROM queues WHERE queues.queue IS NOT NULL
         ), ages AS (
             SELECT queues.queue, EXTRACT(EPOCH FROM now() - oldest.due_at)::float8 AS age
             FROM queues
             CROSS JOIN LATERAL (
                 SELECT due_at FROM claygate.outbox
                 WHERE queue = queues.queue AND due_at <= now() ORDER BY due_at LIMIT 1
             ) AS oldest
             WHERE NOT EXISTS (
                 SELECT FROM claygate.destination_state AS held
                 WHERE 'deliver.' || held.destination = queues.queue AND held.state <> 'running'
             )
         )
         SELECT (SELECT count(*) FROM (SELECT FROM claygate.outbox LIMIT $1) AS bounded),
                COALESCE((SELECT max(age) FROM ages), 0),
                COALESCE((SELECT max(age) FROM ages WHERE queue NOT LIKE 'deliver.%'), 0)",
    )
    .bind(COUNT_MAX)
    .fetch_one(database.pool())
    .await?;
    Ok(Backlog {
        entries: u64::try_from(entries).unwrap_or_default(),
        oldest_age: Duration::try_from_secs_f64(oldest_age).unwrap_or_default(),
        oldest_shared_age: Duration::try_from_secs_f64(oldest_shared_age).unwrap_or_default(),
    })
}
