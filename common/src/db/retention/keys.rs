//! Callbacks and rows themselves, with everything of them that is left: their keys are free again.

use sqlx::Connection;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Place, STEP, Step, delete_locked};
use crate::db::DbError;
use crate::db::page::Position;
use crate::ids::first_id_of;

/// Locks a stretch of callbacks behind ($1, $2), received before $3.
pub const LOCK_CALLBACKS: &str = "
    SELECT received_at, id FROM claygate.callbacks
    WHERE (received_at, id) > (COALESCE($1::timestamptz, '-infinity'), $2) AND received_at < $3
    ORDER BY received_at, id LIMIT $4 FOR UPDATE SKIP LOCKED";

/// Removes the deliveries of what has ended, by the column that names it, with their attempts and their cool-downs. A cool-down
/// that still holds is longer than its delivery is kept only where the configuration was changed: it goes on holding.
macro_rules! deliveries_of {
    ($column:literal) => {
        concat!(
            ", deliveries AS (
        DELETE FROM claygate.deliveries AS d USING ended WHERE d.",
            $column,
            " = ended.id
        RETURNING d.id, d.destination, d.person
    ), attempts AS (
        DELETE FROM claygate.attempts AS a USING deliveries AS d WHERE a.delivery_id = d.id
    ), cooldowns AS (
        DELETE FROM claygate.cooldowns AS held USING deliveries AS d
        WHERE (held.destination, held.person) = (d.destination, d.person) AND held.delivery_id = d.id
            AND held.until < now()
    )"
        )
    };
}

/// Removes those of them that have ended, and whose deliveries have.
pub const DELETE_CALLBACKS: &str = concat!(
    "
    WITH ended AS MATERIALIZED (
        SELECT c.id, c.received_at FROM claygate.callbacks AS c
        WHERE c.id = ANY($1) AND c.state <> 'received' AND NOT EXISTS (
            SELECT FROM claygate.deliveries AS d WHERE d.callback_id = c.id AND d.next_attempt_at IS NOT NULL)
    )",
    deliveries_of!("callback_id"),
    ", rows AS (
        DELETE FROM claygate.rows AS r USING deliveries AS d WHERE r.id = d.id
    ), bodies AS (
        DELETE FROM claygate.callback_bodies AS b USING ended
        WHERE b.callback_id = ended.id AND b.received_at = ended.received_at
    ), leads AS (
        DELETE FROM claygate.leads AS l USING ended WHERE l.callback_id = ended.id
    ), decisions AS (
        DELETE FROM claygate.decisions AS d USING ended WHERE d.callback_id = ended.id
    )
    DELETE FROM claygate.callbacks AS c USING ended WHERE c.id = ended.id"
);

/// Locks a stretch of rows behind $1 that were handed in: ids that begin before $2, taken in before $3.
pub const LOCK_ROWS: &str = "
    SELECT id FROM claygate.rows
    WHERE id > $1 AND id < $2 AND created_at < $3 AND callback_id IS NULL
    ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED";

/// Removes those of them whose deliveries have ended.
pub const DELETE_ROWS: &str = concat!(
    "
    WITH ended AS MATERIALIZED (
        SELECT r.id FROM claygate.rows AS r
        WHERE r.id = ANY($1) AND NOT EXISTS (
            SELECT FROM claygate.deliveries AS d WHERE d.row_id = r.id AND d.next_attempt_at IS NOT NULL)
    )",
    deliveries_of!("row_id"),
    "
    DELETE FROM claygate.rows AS r USING ended WHERE r.id = ended.id"
);

// What is left when callbacks and rows are gone: $1 is the cutoff, $2 the first id that can be made then, $3 how many at once.

pub(super) const ALIASES: &str = "
    DELETE FROM claygate.callback_aliases WHERE alias_id IN (
        SELECT alias_id FROM claygate.callback_aliases WHERE alias_id < $2 AND received_at < $1
        ORDER BY alias_id LIMIT $3)";

pub(super) const QUARANTINE: &str = "
    DELETE FROM claygate.quarantine WHERE id IN (
        SELECT id FROM claygate.quarantine WHERE received_at < $1 AND last_seen_at < $1 AND $2::uuid IS NOT NULL
        ORDER BY received_at, id LIMIT $3)";

pub(super) const BATCHES: &str = "
    DELETE FROM claygate.row_batches WHERE id IN (
        SELECT id FROM claygate.row_batches AS b
        WHERE id < $2 AND COALESCE(finished_at, started_at) < $1
            AND NOT EXISTS (SELECT FROM claygate.rows AS r WHERE r.batch_id = b.id)
        ORDER BY id LIMIT $3)";

pub(super) const COUNTS: &str = "
    DELETE FROM claygate.intake_counts WHERE (instance, writer, source, hour, result) IN (
        SELECT instance, writer, source, hour, result FROM claygate.intake_counts
        WHERE hour < $1 AND $2::uuid IS NOT NULL LIMIT $3)";

/// Callbacks and rows that are old enough.
pub(super) async fn count(connection: &mut PgConnection, until: OffsetDateTime) -> Result<u64, DbError> {
    let n: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM claygate.callbacks WHERE received_at < $1)
             + (SELECT count(*) FROM claygate.rows WHERE id < $2 AND created_at < $1 AND callback_id IS NULL)",
    )
    .bind(until)
    .bind(first_id_of(until))
    .fetch_one(connection)
    .await?;
    Ok(n.unsigned_abs())
}

/// Removes a stretch of callbacks with everything of them.
pub(super) async fn remove_callbacks(
    connection: &mut PgConnection,
    from: Place,
    until: OffsetDateTime,
) -> Result<Step, DbError> {
    let mut transaction = connection.begin().await?;
    let locked: Vec<Position> = sqlx::query_as(LOCK_CALLBACKS)
        .bind(from.received_at)
        .bind(from.id)
        .bind(until)
        .bind(STEP)
        .fetch_all(&mut *transaction)
        .await?;
    let ids: Vec<Uuid> = locked.iter().map(|(_, id)| *id).collect();
    let next = locked.last().map(|(at, id)| Place { received_at: Some(*at), id: *id, ..Place::START });
    let step = delete_locked(&mut transaction, DELETE_CALLBACKS, &ids, next).await?;
    transaction.commit().await?;
    Ok(step)
}

/// One step of what is nobody's key, and therefore not counted.
pub(super) async fn remove_rest(
    connection: &mut PgConnection,
    until: OffsetDateTime,
    statement: &'static str,
) -> Result<Step, DbError> {
    let gone = sqlx::query(statement)
        .bind(until)
        .bind(first_id_of(until))
        .bind(STEP)
        .execute(connection)
        .await?
        .rows_affected();
    Ok(Step { removed: 0, held: 0, next: (gone >= STEP.unsigned_abs()).then_some(Place::START) })
}
