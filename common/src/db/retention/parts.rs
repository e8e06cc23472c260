//! What belongs to callbacks and rows and may go before them: leads, decisions, the objects of rows that were handed in.

use sqlx::Connection;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Place, STEP, Step, delete_locked};
use crate::db::DbError;
use crate::ids::first_id_of;
use crate::retention::What;

/// Locks a stretch of leads behind $1: those of callbacks whose ids begin before $2, received before $3.
pub const LOCK_LEADS: &str = "
    SELECT callback_id FROM claygate.leads
    WHERE callback_id > $1 AND callback_id < $2 AND received_at < $3
    ORDER BY callback_id LIMIT $4 FOR UPDATE SKIP LOCKED";

/// Removes those of them that no pending delivery needs. A pending delivery is said by its next attempt, so that it is looked
/// up by its callback and never among all that wait.
pub const DELETE_LEADS: &str = "
    DELETE FROM claygate.leads AS l
    WHERE l.callback_id = ANY($1) AND NOT EXISTS (
        SELECT FROM claygate.deliveries AS d WHERE d.callback_id = l.callback_id AND d.next_attempt_at IS NOT NULL)";

/// Locks a stretch of rows behind $1 that still have their object.
pub const LOCK_OBJECTS: &str = "
    SELECT id FROM claygate.rows
    WHERE body IS NOT NULL AND id > $1 AND id < $2 AND created_at < $3
    ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED";

/// Removes the objects of those of them that no pending delivery needs.
pub const DELETE_OBJECTS: &str = "
    UPDATE claygate.rows AS r SET body = NULL
    WHERE r.id = ANY($1) AND NOT EXISTS (
        SELECT FROM claygate.deliveries AS d WHERE d.row_id = r.id AND d.next_attempt_at IS NOT NULL)";

/// Removes a stretch of decisions behind ($1, $2), and answers how many and which was the last.
pub const DELETE_DECISIONS: &str = "
    WITH stretch AS MATERIALIZED (
        SELECT callback_id, routing FROM claygate.decisions
        WHERE (callback_id, routing) > ($1, $2) AND callback_id < $3 AND decided_at < $4 AND outcome <> 'dead'
        ORDER BY callback_id, routing LIMIT $5
    ), gone AS (
        DELETE FROM claygate.decisions AS d USING stretch
        WHERE d.callback_id = stretch.callback_id AND d.routing = stretch.routing
        RETURNING d.callback_id
    )
    SELECT (SELECT count(*) FROM gone), last.callback_id, last.routing
    FROM (SELECT 1) AS one
    LEFT JOIN LATERAL (
        SELECT callback_id, routing FROM stretch ORDER BY callback_id DESC, routing DESC LIMIT 1) AS last ON true";

/// How much is old enough.
pub(super) async fn count(connection: &mut PgConnection, what: What, until: OffsetDateTime) -> Result<u64, DbError> {
    let statement = match what {
        What::Leads => "SELECT count(*) FROM claygate.leads WHERE callback_id < $1 AND received_at < $2",
        What::Decisions => {
            "SELECT count(*) FROM claygate.decisions WHERE callback_id < $1 AND decided_at < $2 AND outcome <> 'dead'"
        }
        _ => "SELECT count(*) FROM claygate.rows WHERE body IS NOT NULL AND id < $1 AND created_at < $2",
    };
    let n: i64 = sqlx::query_scalar(statement).bind(first_id_of(until)).bind(until).fetch_one(connection).await?;
    Ok(n.unsigned_abs())
}

/// Removes a stretch of decisions.
pub(super) async fn remove_decisions(
    connection: &mut PgConnection,
    from: Place,
    until: OffsetDateTime,
) -> Result<Step, DbError> {
    let (removed, id, routing): (i64, Option<Uuid>, Option<i32>) = sqlx::query_as(DELETE_DECISIONS)
        .bind(from.id)
        .bind(from.routing)
        .bind(first_id_of(until))
        .bind(until)
        .bind(STEP)
        .fetch_one(connection)
        .await?;
    let next = id.zip(routing).map(|(id, routing)| Place { id, routing, ..Place::START });
    Ok(Step { removed: removed.unsigned_abs(), held: 0, next })
}

/// Locks a stretch of what has an id as its key, and removes of it what nothing needs.
pub(super) async fn remove_unneeded(
    connection: &mut PgConnection,
    from: Place,
    until: OffsetDateTime,
    lock: &'static str,
    delete: &'static str,
) -> Result<Step, DbError> {
    let mut transaction = connection.begin().await?;
    let locked: Vec<Uuid> = sqlx::query_scalar(lock)
        .bind(from.id)
        .bind(first_id_of(until))
        .bind(until)
        .bind(STEP)
        .fetch_all(&mut *transaction)
        .await?;
    let next = locked.last().map(|id| Place { id: *id, ..Place::START });
    let step = delete_locked(&mut transaction, delete, &locked, next).await?;
    transaction.commit().await?;
    Ok(step)
}
