//! An operator sends again. What has ended stays as it is: a replayed delivery is a new delivery, a replayed callback is
//! routed once more under the rules of now. As often as wanted.

use std::time::Duration;

use sqlx::{Connection, Row};
use uuid::Uuid;

use super::cooldowns::{self, Contender};
use super::{Database, DbError, outbox, subjects, sweep};
use crate::ids::{CallbackId, DeliveryId};
use crate::person::Person;
use crate::queue::QueueName;

/// Why nothing was replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// No such id.
    #[error("there is no such callback or delivery")]
    Unknown,
    /// It has not ended yet.
    #[error("it has not ended yet: it will be sent without a replay")]
    InProgress,
    /// Retention removed its body.
    #[error("its body has expired (body_expired): only what is still stored can be sent again")]
    BodyExpired,
    /// The database failed; nothing was done.
    #[error("the replay was not stored")]
    Database(#[from] DbError),
}

impl From<sqlx::Error> for ReplayError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// A delivery that may be replayed: what the plan shows.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct PastDelivery {
    /// Its id.
    pub id: Uuid,
    /// Where it went, or should have gone.
    pub destination: String,
    /// Where it is.
    pub state: String,
}

/// The delivery `id`.
///
/// # Errors
/// [`DbError`].
pub async fn find_delivery(database: &Database, id: Uuid) -> Result<Option<PastDelivery>, DbError> {
    Ok(sqlx::query_as("SELECT id, destination, state FROM claygate.deliveries WHERE id = $1")
        .bind(id)
        .fetch_optional(database.pool())
        .await?)
}

/// What the latest routing of a callback made, by destination: what a replay is expected to make again.
///
/// # Errors
/// [`DbError`].
pub async fn last_routing(database: &Database, id: CallbackId) -> Result<Vec<(String, i64)>, DbError> {
    Ok(sqlx::query_as(
        "SELECT destination, count(*) FROM (
             SELECT DISTINCT destination FROM claygate.deliveries WHERE callback_id = $1
         ) AS known GROUP BY destination ORDER BY destination",
    )
    .bind(id.0)
    .fetch_all(database.pool())
    .await?)
}

/// Routes a callback once more.
///
/// # Errors
/// [`ReplayError`]; nothing was done.
///
/// # Cancel safety
/// One transaction.
pub async fn replay_callback(database: &Database, id: CallbackId) -> Result<(), ReplayError> {
    let mut transaction = database.pool().begin().await?;
    let found = sqlx::query(
        "SELECT c.state, c.received_at, EXISTS (
             SELECT FROM claygate.callback_bodies AS b
             WHERE b.callback_id = c.id AND b.received_at = c.received_at
         ) AS has_body
         FROM claygate.callbacks AS c WHERE c.id = $1 FOR UPDATE OF c",
    )
    .bind(id.0)
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or(ReplayError::Unknown)?;
    if found.try_get::<String, _>("state")? == "received" {
        return Err(ReplayError::InProgress);
    }
    if !found.try_get::<bool, _>("has_body")? {
        return Err(ReplayError::BodyExpired);
    }
    sqlx::query(
        "UPDATE claygate.callbacks
         SET state = 'received', reason = NULL, routing = routing + 1, claims = 0, sweeps = 0, enqueued_at = NULL
         WHERE id = $1",
    )
    .bind(id.0)
    .execute(&mut *transaction)
    .await?;
    sweep::pull_mark_back(&mut transaction, found.try_get("received_at")?).await?;
    outbox::push(&mut transaction, &QueueName::callbacks(), &[id.0], None).await?;
    Ok(transaction.commit().await?)
}

/// Sends a delivery that has ended once more, as a new delivery, which takes the destination's cool-down (`once_per`)
/// from whoever has it.
///
/// # Errors
/// [`ReplayError`]; nothing was done.
///
/// # Cancel safety
/// One transaction.
pub async fn replay_delivery(
    database: &Database,
    id: DeliveryId,
    once_per: Option<Duration>,
) -> Result<DeliveryId, ReplayError> {
    let mut connection = database.pool().acquire().await?;
    let mut transaction = connection.begin().await?;
    let stored = subjects::hold(&mut transaction, &[id.0]).await?;
    // Locked, so that two replays of it take different numbers.
    let found = sqlx::query("SELECT destination, state, person FROM claygate.deliveries WHERE id = $1 FOR UPDATE")
        .bind(id.0)
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or(ReplayError::Unknown)?;
    if found.try_get::<String, _>("state")? == "pending" {
        return Err(ReplayError::InProgress);
    }
    if !stored.contains(&id.0) {
        return Err(ReplayError::BodyExpired);
    }
    let destination: String = found.try_get("destination")?;
    let again = DeliveryId::new();
    sqlx::query(
        "INSERT INTO claygate.deliveries (id, callback_id, row_id, destination, replay, rule, person, next_attempt_at)
         SELECT $2, d.callback_id, d.row_id, d.destination, (
                 SELECT max(known.replay) + 1 FROM claygate.deliveries AS known
                 WHERE known.destination = d.destination
                     AND (known.callback_id = d.callback_id OR known.row_id = d.row_id)
             ), d.rule, d.person, now()
         FROM claygate.deliveries AS d WHERE d.id = $1",
    )
    .bind(id.0)
    .bind(again.0)
    .execute(&mut *transaction)
    .await?;
    let person = found.try_get::<Option<Vec<u8>>, _>("person")?.and_then(|hash| hash.try_into().ok()).map(Person);
    if let (Some(person), Some(once_per)) = (person, once_per) {
        let contender = Contender { delivery: again, destination: destination.clone(), person, once_per, forced: true };
        cooldowns::take(&mut transaction, &[contender]).await?;
    }
    outbox::push(&mut transaction, &QueueName::deliver(&destination), &[again.0], None).await?;
    transaction.commit().await?;
    Ok(again)
}
