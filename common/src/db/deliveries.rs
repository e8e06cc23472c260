//! `claygate.deliveries`: leases, and giving them and their ids back. What an attempt changes is in [`super::attempts`].

use std::time::Duration;

use serde_json::{Map, Value};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Database, DbError, leads};
use crate::ids::{CallbackId, DeliveryId};
use crate::lead::Lead;
use crate::person::Person;
use crate::queue::{BATCH_MAX, QueueName};
use crate::states::Reason;

/// A delivery whose lease was taken.
#[derive(Clone, Debug)]
pub struct Leased {
    /// Which.
    pub id: DeliveryId,
    /// The callback it was made of.
    pub callback_id: CallbackId,
    /// The rule that named the destination.
    pub rule: Option<String>,
    /// 0 for the first delivery of this callback to this destination.
    pub replay: i32,
    /// Attempts so far.
    pub attempts: i32,
    /// Those of them that used up the retry schedule.
    pub failures: i32,
    /// What earlier steps captured.
    pub captured: Option<Value>,
    /// To whom.
    pub person: Option<Person>,
    /// The callback's source.
    pub source: String,
    /// When the callback came in.
    pub received_at: OffsetDateTime,
    /// The lead; `None` when it was removed.
    pub lead: Option<Lead>,
}

/// Takes the leases of those of `ids` that are due at `destination` and that nobody holds. The others have ended, are
/// leased, or have an outbox entry of their own for the time when they are due.
///
/// That a delivery is pending and made of a callback is asked in other words that constraints hold to be the same: by
/// the words of a partial index, the planner would walk all that waits for the destination to find these few.
///
/// # Errors
/// [`DbError`]; no lease was taken then, unless the connection broke on the way back: that one runs out.
///
/// # Cancel safety
/// A lease that was taken and not returned runs out.
pub async fn lease(
    database: &Database,
    destination: &str,
    ids: &[DeliveryId],
    token: Uuid,
    duration: Duration,
) -> Result<Vec<Leased>, DbError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query(
        "WITH due AS MATERIALIZED (
             SELECT id FROM claygate.deliveries
             WHERE id = ANY($1) AND destination = $2 AND row_id IS NULL AND next_attempt_at <= now()
               AND (lease_until IS NULL OR lease_until < now())
             ORDER BY id FOR UPDATE
         ), leased AS (
             UPDATE claygate.deliveries AS d SET lease_until = now() + make_interval(secs => $4), lease_token = $3
             FROM due WHERE d.id = due.id
             RETURNING d.id, d.callback_id, d.rule, d.replay, d.attempts, d.failures, d.captured, d.person
         )
         SELECT leased.*, c.source, c.received_at, l.callback_id IS NOT NULL AS has_lead, l.email, l.first_name,
             l.last_name, l.company_name, l.job_title, l.employee_count, l.industry, l.linkedin_url, l.icp_score,
             l.personalized_opener, COALESCE(l.extra, '{}') AS extra, COALESCE(l.warnings, '{}') AS warnings
         FROM leased JOIN claygate.callbacks AS c ON c.id = leased.callback_id
         LEFT JOIN claygate.leads AS l ON l.callback_id = leased.callback_id",
    )
    .bind(ids)
    .bind(destination)
    .bind(token)
    .bind(duration.as_secs_f64())
    .fetch_all(database.pool())
    .await?;
    rows.iter().map(|row| leased(row).map_err(DbError::from)).collect()
}

fn leased(row: &PgRow) -> Result<Leased, sqlx::Error> {
    let person: Option<Vec<u8>> = row.try_get("person")?;
    let captured: Option<Json<Value>> = row.try_get("captured")?;
    Ok(Leased {
        id: DeliveryId(row.try_get("id")?),
        callback_id: CallbackId(row.try_get("callback_id")?),
        rule: row.try_get("rule")?,
        replay: row.try_get("replay")?,
        attempts: row.try_get("attempts")?,
        failures: row.try_get("failures")?,
        captured: captured.map(|Json(captured)| captured),
        person: person.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok()).map(Person),
        source: row.try_get("source")?,
        received_at: row.try_get("received_at")?,
        lead: if row.try_get("has_lead")? { Some(leads::read(row)?) } else { None },
    })
}

impl Leased {
    /// The lead's present fields; empty where it was removed.
    pub fn lead_object(&self) -> Map<String, Value> {
        self.lead.as_ref().map(Lead::to_object).unwrap_or_default()
    }
}

/// Counts a claim of a redelivered delivery, before the work on it. Answers how many there were since its last attempt,
/// with this one; `None` when it has ended.
///
/// # Errors
/// [`DbError`].
pub async fn count_claim(database: &Database, id: DeliveryId) -> Result<Option<i16>, DbError> {
    Ok(sqlx::query_scalar(
        "UPDATE claygate.deliveries SET claims = claims + 1 WHERE id = $1 AND state = 'pending' RETURNING claims",
    )
    .bind(id.0)
    .fetch_optional(database.pool())
    .await?)
}

/// What giving a delivery up did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// It was pending, and nobody held a lease on it.
    pub ended: bool,
    /// Its cool-down was given back, so there is an entry in the queue `released`.
    pub released: bool,
}

/// Ends a pending delivery that nobody holds as dead, without an attempt, and gives its cool-down back.
///
/// # Errors
/// [`DbError`].
pub async fn give_up(database: &Database, id: DeliveryId, reason: Reason) -> Result<GivenUp, DbError> {
    let (ended, released): (bool, bool) = sqlx::query_as(
        "WITH ended AS (
             UPDATE claygate.deliveries SET state = 'dead', reason = $2, ended_at = now(), next_attempt_at = NULL,
                 lease_until = NULL, lease_token = NULL
             WHERE id = $1 AND state = 'pending' AND (lease_until IS NULL OR lease_until < now())
             RETURNING id, destination, person
         ), released AS (
             DELETE FROM claygate.cooldowns AS c USING ended
             WHERE (c.destination, c.person) = (ended.destination, ended.person) AND c.delivery_id = ended.id
             RETURNING c.delivery_id
         ), told AS (
             INSERT INTO claygate.outbox (queue, refs)
             SELECT $3, array_agg(DISTINCT delivery_id) FROM released HAVING count(*) > 0
         )
         SELECT EXISTS (SELECT FROM ended), EXISTS (SELECT FROM released)",
    )
    .bind(id.0)
    .bind(reason.as_str())
    .bind(QueueName::released().as_str())
    .fetch_one(database.pool())
    .await?;
    Ok(GivenUp { ended, released })
}

/// Gives the leases of deliveries back that were not attempted: they are due again after `wait`. Answers how many still
/// had `token`.
///
/// # Errors
/// [`DbError`]; the leases run out then.
pub async fn give_back(
    database: &Database,
    destination: &str,
    ids: &[DeliveryId],
    token: Uuid,
    wait: Duration,
) -> Result<usize, DbError> {
    let mut given = 0;
    for ids in ids.chunks(BATCH_MAX) {
        let n: i64 = sqlx::query_scalar(
            "WITH held AS MATERIALIZED (
                 SELECT id FROM claygate.deliveries WHERE id = ANY($1) AND lease_token = $2 ORDER BY id FOR UPDATE
             ), freed AS (
                 UPDATE claygate.deliveries AS d SET lease_until = NULL, lease_token = NULL
                 FROM held WHERE d.id = held.id RETURNING d.id
             ), queued AS (
                 INSERT INTO claygate.outbox (queue, refs, due_at)
                 SELECT $3, array_agg(id), now() + make_interval(secs => $4) FROM freed HAVING count(*) > 0
             )
             SELECT count(*) FROM freed",
        )
        .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(token)
        .bind(QueueName::deliver(destination).as_str())
        .bind(wait.as_secs_f64())
        .fetch_one(database.pool())
        .await?;
        given += usize::try_from(n).unwrap_or_default();
    }
    Ok(given)
}

/// Puts ids that cannot start now back into their queue, due after `wait` on the database's clock.
///
/// # Errors
/// [`DbError`]; nothing was put back then.
pub async fn put_back(
    database: &Database,
    destination: &str,
    ids: &[DeliveryId],
    wait: Duration,
) -> Result<(), DbError> {
    for ids in ids.chunks(BATCH_MAX) {
        sqlx::query(
            "INSERT INTO claygate.outbox (queue, refs, due_at) VALUES ($1, $2, now() + make_interval(secs => $3))",
        )
        .bind(QueueName::deliver(destination).as_str())
        .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(wait.as_secs_f64())
        .execute(database.pool())
        .await?;
    }
    Ok(())
}
