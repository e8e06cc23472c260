//! Work that was lost on its way: not ended, not leased, in no outbox entry, and not enqueued for longer than a horizon
//! that doubles each time the same item is found.
//!
//! Every statement reads a bounded stretch: callbacks from `claygate.sweep_marks` on (everything received before the
//! mark has ended), deliveries along the partial index of what is pending. What of it waits in the outbox is found by
//! grouping both, which hashes or sorts whatever the planner believes; a join compared everything with everything when a
//! backlog was younger than its statistics.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

pub use super::page::Position;
use super::{Database, DbError};
use crate::queue::{BATCH_MAX, QueueName};

/// The limits of one step.
#[derive(Clone, Copy, Debug)]
pub struct SweepLimits {
    /// How long an item may be on its way before it is taken for lost, the first time.
    pub horizon: Duration,
    /// Items put back into one queue.
    pub enqueue_max: i64,
    /// Rows read.
    pub read_max: i64,
}

impl Default for SweepLimits {
    fn default() -> Self {
        Self { horizon: Duration::from_secs(10 * 60), enqueue_max: 256, read_max: 20_000 }
    }
}

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept<P> {
    /// Items put back.
    pub requeued: usize,
    /// Where the next step goes on; `None`: at the beginning, which is the mark where there is one.
    pub next: Option<P>,
    /// As much was read as may be, so there may be more behind it.
    pub is_cut: bool,
}

/// Looks for lost callbacks from `from` on (`None`: the mark).
///
/// # Errors
/// [`DbError`]; nothing was done.
pub async fn callbacks(
    database: &Database,
    limits: SweepLimits,
    from: Option<Position>,
) -> Result<Swept<Position>, DbError> {
    let queue = QueueName::callbacks();
    let row = sqlx::query(
        "WITH stretch AS MATERIALIZED (
             SELECT id, received_at, state, GREATEST(received_at, enqueued_at) AS since, sweeps
             FROM claygate.callbacks
             WHERE (received_at, id) > (
                     COALESCE($1, (SELECT position FROM claygate.sweep_marks WHERE queue = $3), '-infinity'),
                     COALESCE($2, '00000000-0000-0000-0000-000000000000'::uuid))
                 AND received_at < now() - $4::interval
             ORDER BY received_at, id LIMIT $5
         ), overdue AS MATERIALIZED (
             SELECT id, received_at FROM stretch
             WHERE state = 'received' AND since < now() - $4::interval * 2 ^ LEAST(sweeps, 10)
         ), lost AS (
             SELECT id, row_number() OVER (ORDER BY received_at, id) - 1 AS n FROM (
                 SELECT id, min(received_at) AS received_at FROM (
                     SELECT id, received_at, false AS waits FROM overdue
                     UNION ALL
                     SELECT unnest(refs), NULL, true FROM claygate.outbox
                     WHERE queue = $3 AND EXISTS (SELECT FROM overdue)
                 ) AS known GROUP BY id HAVING NOT bool_or(waits)
             ) AS found
             ORDER BY received_at, id LIMIT $6
         ), noted AS (
             UPDATE claygate.callbacks AS c SET sweeps = c.sweeps + 1, enqueued_at = now()
             FROM lost WHERE c.id = lost.id AND c.state = 'received'
         ), requeued AS (
             INSERT INTO claygate.outbox (queue, refs) SELECT $3, array_agg(id ORDER BY n) FROM lost GROUP BY n / $7
         )
         SELECT (SELECT count(*) FROM lost) AS lost, (SELECT count(*) FROM stretch) AS read,
             (SELECT min(received_at) FROM stretch WHERE state = 'received') AS oldest,
             (SELECT xmin::text FROM claygate.sweep_marks WHERE queue = $3) AS mark,
             last.received_at AS last_at, last.id AS last_id
         FROM (SELECT 1) AS one
         LEFT JOIN LATERAL (SELECT received_at, id FROM stretch ORDER BY received_at DESC, id DESC LIMIT 1) AS last ON true",
    )
    .bind(from.map(|(at, _)| at))
    .bind(from.map(|(_, id)| id))
    .bind(queue.as_str())
    .bind(limits.horizon)
    .bind(limits.read_max)
    .bind(limits.enqueue_max)
    .bind(batch_max())
    .fetch_one(database.pool())
    .await?;
    let last = position(row.try_get("last_at")?, row.try_get("last_id")?);
    let read: i64 = row.try_get("read")?;
    let is_cut = read >= limits.read_max;
    let requeued = count(row.try_get("lost")?);
    // Only a stretch that starts at the mark can move it: what lies before has been seen to have ended.
    if from.is_none()
        && let Some((last_at, _)) = last
    {
        let oldest: Option<OffsetDateTime> = row.try_get("oldest")?;
        let has_moved = move_mark(database, &queue, row.try_get("mark")?, oldest.unwrap_or(last_at)).await?;
        if is_cut && has_moved && oldest.is_none() {
            return Ok(Swept { requeued, next: None, is_cut });
        }
    }
    Ok(Swept { requeued, next: if is_cut { last } else { None }, is_cut })
}

/// Looks for lost deliveries of one destination from `from` on. Not to be called for a paused or disabled one: its
/// deliveries wait, they are not lost.
///
/// What was found is changed by its key: a delivery with a next attempt is a pending one, and said by its state, the index of
/// what is pending would be read from end to end.
///
/// # Errors
/// [`DbError`]; nothing was done.
pub async fn deliveries(
    database: &Database,
    limits: SweepLimits,
    destination: &str,
    from: Option<Position>,
) -> Result<Swept<Position>, DbError> {
    let row = sqlx::query(
        "WITH stretch AS MATERIALIZED (
             SELECT id, next_attempt_at, GREATEST(next_attempt_at, enqueued_at) AS since, sweeps, lease_until
             FROM claygate.deliveries
             WHERE state = 'pending' AND destination = $1
                 AND (next_attempt_at, id) > (
                     COALESCE($2, '-infinity'), COALESCE($3, '00000000-0000-0000-0000-000000000000'::uuid))
                 AND next_attempt_at < now() - $4::interval
             ORDER BY next_attempt_at, id LIMIT $5
         ), overdue AS MATERIALIZED (
             SELECT id, next_attempt_at FROM stretch
             WHERE lease_until IS NULL AND since < now() - $4::interval * 2 ^ LEAST(sweeps, 10)
         ), lost AS (
             SELECT id, row_number() OVER (ORDER BY next_attempt_at, id) - 1 AS n FROM (
                 SELECT id, min(next_attempt_at) AS next_attempt_at FROM (
                     SELECT id, next_attempt_at, false AS waits FROM overdue
                     UNION ALL
                     SELECT unnest(refs), NULL, true FROM claygate.outbox
                     WHERE queue = $8 AND EXISTS (SELECT FROM overdue)
                 ) AS known GROUP BY id HAVING NOT bool_or(waits)
             ) AS found
             ORDER BY next_attempt_at, id LIMIT $6
         ), noted AS (
             UPDATE claygate.deliveries AS d SET sweeps = d.sweeps + 1, enqueued_at = now()
             FROM lost WHERE d.id = lost.id AND d.next_attempt_at IS NOT NULL
         ), requeued AS (
             INSERT INTO claygate.outbox (queue, refs) SELECT $8, array_agg(id ORDER BY n) FROM lost GROUP BY n / $7
         )
         SELECT (SELECT count(*) FROM lost) AS lost, (SELECT count(*) FROM stretch) AS read,
             last.next_attempt_at AS last_at, last.id AS last_id
         FROM (SELECT 1) AS one
         LEFT JOIN LATERAL (
             SELECT next_attempt_at, id FROM stretch ORDER BY next_attempt_at DESC, id DESC LIMIT 1) AS last ON true",
    )
    .bind(destination)
    .bind(from.map(|(at, _)| at))
    .bind(from.map(|(_, id)| id))
    .bind(limits.horizon)
    .bind(limits.read_max)
    .bind(limits.enqueue_max)
    .bind(batch_max())
    .bind(QueueName::deliver(destination).as_str())
    .fetch_one(database.pool())
    .await?;
    let read: i64 = row.try_get("read")?;
    let last = position(row.try_get("last_at")?, row.try_get("last_id")?);
    let is_cut = read >= limits.read_max;
    Ok(Swept { requeued: count(row.try_get("lost")?), next: if is_cut { last } else { None }, is_cut })
}

/// The destinations that have pending deliveries; reads one index entry of each.
///
/// # Errors
/// [`DbError`].
pub async fn pending_destinations(database: &Database) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar(
        "WITH RECURSIVE names (name) AS (
             (SELECT destination FROM claygate.deliveries WHERE state = 'pending' ORDER BY destination LIMIT 1)
             UNION ALL
             SELECT (SELECT destination FROM claygate.deliveries
                     WHERE state = 'pending' AND destination > names.name ORDER BY destination LIMIT 1)
             FROM names WHERE names.name IS NOT NULL
         )
         SELECT name FROM names WHERE name IS NOT NULL",
    )
    .fetch_all(database.pool())
    .await?)
}

/// Ends up to `limit` deliveries that have been due for longer than `grace` at a destination that nobody serves any
/// more (dead, `unknown_destination`), and removes their outbox entries. Answers how many.
///
/// # Errors
/// [`DbError`]; nothing was done.
pub async fn end_unknown(
    database: &Database,
    destination: &str,
    grace: Duration,
    limit: i64,
) -> Result<usize, DbError> {
    let ended: i64 = sqlx::query_scalar(
        "WITH orphans AS (
             SELECT id, destination, person FROM claygate.deliveries
             WHERE state = 'pending' AND destination = $1 AND lease_until IS NULL
                 AND next_attempt_at < now() - $2::interval
             ORDER BY next_attempt_at, id LIMIT $3 FOR UPDATE SKIP LOCKED
         ), ended AS (
             UPDATE claygate.deliveries AS d
             SET state = 'dead', reason = 'unknown_destination', ended_at = now(), next_attempt_at = NULL
             FROM orphans WHERE d.id = orphans.id
         ), emptied AS (
             DELETE FROM claygate.outbox WHERE queue = $4 AND due_at < now() - $2::interval
         ), released AS (
             DELETE FROM claygate.cooldowns AS held USING orphans
             WHERE (held.destination, held.person) = (orphans.destination, orphans.person)
                 AND held.delivery_id = orphans.id
             RETURNING held.delivery_id
         ), told AS (
             INSERT INTO claygate.outbox (queue, refs) SELECT $5, ARRAY[delivery_id] FROM released
         )
         SELECT count(*) FROM orphans",
    )
    .bind(destination)
    .bind(grace)
    .bind(limit)
    .bind(QueueName::deliver(destination).as_str())
    .bind(QueueName::released().as_str())
    .fetch_one(database.pool())
    .await?;
    Ok(count(ended))
}

/// Says that a callback received at `received_at` waits, so that the sweeper's mark must not lie behind it. Belongs
/// into the transaction that makes it wait, where `received_at` may be long ago: a replay, a drained spool.
///
/// # Errors
/// [`DbError`]; the surrounding transaction is then lost as a whole.
pub async fn pull_mark_back(connection: &mut PgConnection, received_at: OffsetDateTime) -> Result<(), DbError> {
    // The row is written even where the mark lies far enough back: a sweep that reads just now must not move it.
    sqlx::query(
        "INSERT INTO claygate.sweep_marks AS mark (queue, position) VALUES ($1, '-infinity')
         ON CONFLICT (queue) DO UPDATE SET position = LEAST(mark.position, $2)",
    )
    .bind(QueueName::callbacks().as_str())
    .bind(received_at)
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether everything that was received before `moment` has ended, as far as has been looked.
///
/// # Errors
/// [`DbError`].
pub(super) async fn has_ended_before(connection: &mut PgConnection, moment: OffsetDateTime) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM claygate.sweep_marks WHERE queue = $1 AND position >= $2)")
        .bind(QueueName::callbacks().as_str())
        .bind(moment)
        .fetch_one(connection)
        .await?)
}

/// [`has_ended_before`], and nobody makes anything older wait before the surrounding transaction ends.
///
/// # Errors
/// [`DbError`].
pub(super) async fn hold_ended_before(connection: &mut PgConnection, moment: OffsetDateTime) -> Result<bool, DbError> {
    let has_ended: Option<bool> =
        sqlx::query_scalar("SELECT position >= $2 FROM claygate.sweep_marks WHERE queue = $1 FOR UPDATE")
            .bind(QueueName::callbacks().as_str())
            .bind(moment)
            .fetch_optional(connection)
            .await?;
    Ok(has_ended.unwrap_or(false))
}

/// Moves the mark to `position`, unless somebody wrote it since `version` was read. Answers whether it was moved.
async fn move_mark(
    database: &Database,
    queue: &QueueName,
    version: Option<String>,
    position: OffsetDateTime,
) -> Result<bool, DbError> {
    let statement = if version.is_some() {
        "UPDATE claygate.sweep_marks SET position = $2 WHERE queue = $1 AND xmin::text = $3 AND position < $2"
    } else {
        "INSERT INTO claygate.sweep_marks (queue, position) SELECT $1, $2 WHERE $3::text IS NULL ON CONFLICT DO NOTHING"
    };
    let done =
        sqlx::query(statement).bind(queue.as_str()).bind(position).bind(version).execute(database.pool()).await?;
    Ok(done.rows_affected() == 1)
}

fn position(at: Option<OffsetDateTime>, id: Option<Uuid>) -> Option<Position> {
    Some((at?, id?))
}

fn count(n: i64) -> usize {
    usize::try_from(n).unwrap_or_default()
}

fn batch_max() -> i64 {
    i64::try_from(BATCH_MAX).unwrap_or(i64::MAX)
}
