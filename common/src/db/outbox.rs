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
