//! Leases whose holders died, on their way back: the outbox entry is written in the statement that clears the lease.

use sqlx::Row;

use super::{Database, DbError};
use crate::ids::DeliveryId;
use crate::queue::{BATCH_MAX, QueueName};

/// What one step of the rescue did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Destinations of the deliveries that are due again, one entry per delivery.
    pub requeued: Vec<String>,
    /// Deliveries whose leases ran out too often, with their destinations: dead, reason `poison`.
    pub poisoned: Vec<(DeliveryId, String)>,
}

/// Gives back up to `limit` leases that have run out. A delivery that this happens to for more than `claims_max` times
/// ends as dead, gives its cool-down back, and what it blocked is looked at again.
///
/// Safe to run from many processes at once: each lease is cleared by one of them. Only what is pending has a lease (a CHECK
/// holds that), so its state is not asked for: the index of what is pending would be read from end to end.
///
/// # Errors
/// [`DbError`]; nothing was done.
pub async fn give_back(database: &Database, limit: i64, claims_max: i16) -> Result<Rescued, DbError> {
    let rows = sqlx::query(
        "WITH expired AS (
             SELECT id FROM claygate.deliveries
             WHERE lease_until < now()
             ORDER BY lease_until LIMIT $1 FOR UPDATE SKIP LOCKED
         ), cleared AS (
             UPDATE claygate.deliveries AS d
             SET lease_until = NULL, lease_token = NULL, claims = d.claims + 1,
                 state = CASE WHEN d.claims < $2 THEN 'pending' ELSE 'dead' END,
                 reason = CASE WHEN d.claims < $2 THEN NULL ELSE 'poison' END,
                 ended_at = CASE WHEN d.claims < $2 THEN NULL ELSE now() END,
                 next_attempt_at = CASE WHEN d.claims < $2 THEN now() END
             FROM expired WHERE d.id = expired.id
             RETURNING d.id, d.destination, d.person, d.state
         ), requeued AS (
             INSERT INTO claygate.outbox (queue, refs)
             SELECT $3 || destination, array_agg(id) FROM (
                 SELECT id, destination, (row_number() OVER (PARTITION BY destination ORDER BY id) - 1) / $4 AS chunk
                 FROM cleared WHERE state = 'pending'
             ) AS numbered GROUP BY destination, chunk
         ), released AS (
             DELETE FROM claygate.cooldowns AS held USING cleared
             WHERE (held.destination, held.person) = (cleared.destination, cleared.person)
                 AND held.delivery_id = cleared.id AND cleared.state = 'dead'
             RETURNING held.delivery_id
         ), told AS (
             INSERT INTO claygate.outbox (queue, refs) SELECT $5, ARRAY[delivery_id] FROM released
         )
         SELECT id, destination, state FROM cleared",
    )
    .bind(limit)
    .bind(claims_max)
    .bind(QueueName::deliver("").as_str())
    .bind(i64::try_from(BATCH_MAX).unwrap_or(i64::MAX))
    .bind(QueueName::released().as_str())
    .fetch_all(database.pool())
    .await?;
    let mut rescued = Rescued::default();
    for row in &rows {
        let destination: String = row.try_get("destination")?;
        if row.try_get::<&str, _>("state")? == "pending" {
            rescued.requeued.push(destination);
        } else {
            rescued.poisoned.push((DeliveryId(row.try_get("id")?), destination));
        }
    }
    Ok(rescued)
}

/// Makes everything that anybody holds free at once: claimed outbox entries are due now, leased deliveries are given
/// back as [`give_back`] does it.
///
/// Only for a process that knows itself to be alone on its database: what it frees belonged to a killed predecessor.
/// Answers how many claims and leases there were.
///
/// # Errors
/// [`DbError`]; the call can be repeated.
pub async fn release_everything(database: &Database, claims_max: i16) -> Result<(u64, u64), DbError> {
    // A claim has moved `due_at` ahead by its lease; an entry that was never claimed keeps its own time.
    let claims = sqlx::query("UPDATE claygate.outbox SET due_at = now() WHERE claims > 0 AND due_at > now()")
        .execute(database.pool())
        .await?;
    let leases = sqlx::query(
        "UPDATE claygate.deliveries SET lease_until = now() - interval '1 second' WHERE lease_until >= now()",
    )
    .execute(database.pool())
    .await?;
    while give_back(database, RELEASE_BATCH, claims_max).await? != Rescued::default() {}
    Ok((claims.rows_affected(), leases.rows_affected()))
}

/// Leases given back in one statement by [`release_everything`].
const RELEASE_BATCH: i64 = 1_000;
