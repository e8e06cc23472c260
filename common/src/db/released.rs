//! What happens after a cool-down was given back: what had been skipped for it goes on, oldest first.
//!
//! Safe to run twice: a skip that was followed by a later delivery of the same subject to the same destination is left
//! alone, and a skip that still is blocked names its new blocker.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::cooldowns::{self, Contender};
use super::{Database, DbError, outbox, subjects};
use crate::ids::DeliveryId;
use crate::person::Person;
use crate::queue::QueueName;

/// Skips looked at in one transaction.
const SKIPS_MAX: i64 = 1_000;

/// What became of the deliveries that one delivery had blocked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Destinations of the deliveries that were made, one entry per delivery.
    pub made: Vec<String>,
    /// Skips that are blocked by another delivery now.
    pub still_blocked: usize,
}

struct Skip {
    id: DeliveryId,
    /// One of them: what the delivery was made of.
    callback_id: Option<Uuid>,
    row_id: Option<Uuid>,
    destination: String,
    rule: Option<String>,
    person: Person,
}

/// Makes the deliveries that `blocker` had kept from being sent: the oldest takes the cool-down, the others wait for it.
/// `once_per` gives each destination's cool-down; where a destination has none (any more), all are sent.
///
/// # Errors
/// [`DbError`]; nothing was done.
///
/// # Cancel safety
/// One transaction.
pub async fn route_blocked(
    database: &Database,
    blocker: DeliveryId,
    once_per: &HashMap<String, Duration>,
) -> Result<Released, DbError> {
    let mut transaction = database.pool().begin().await?;
    let skips = load(&mut transaction, blocker).await?;
    // A new id each: a delivery that has ended stays as it is.
    let renewed: Vec<(Skip, DeliveryId)> = skips.into_iter().map(|skip| (skip, DeliveryId::new())).collect();
    let contenders: Vec<Contender> = renewed
        .iter()
        .filter_map(|(skip, id)| {
            Some(Contender {
                delivery: *id,
                destination: skip.destination.clone(),
                person: skip.person,
                once_per: *once_per.get(&skip.destination)?,
                forced: false,
            })
        })
        .collect();
    let blocked = cooldowns::take(&mut transaction, &contenders).await?;
    let (waiting, going): (Vec<_>, Vec<_>) = renewed.iter().partition(|(_, id)| blocked.contains_key(id));
    block_again(&mut transaction, &waiting, &blocked).await?;
    make(&mut transaction, &going).await?;
    transaction.commit().await?;
    Ok(Released {
        made: going.iter().map(|(skip, _)| skip.destination.clone()).collect(),
        still_blocked: waiting.len(),
    })
}

async fn load(connection: &mut PgConnection, blocker: DeliveryId) -> Result<Vec<Skip>, DbError> {
    // The skipped deliveries are locked, as by every replay of one, and so are the callbacks' rows, so that two replays
    // never take one number.
    let rows = sqlx::query(
        "WITH blocked AS MATERIALIZED (
             SELECT d.id, d.callback_id, d.row_id, d.destination, d.rule, d.person, d.created_at
             FROM claygate.deliveries AS d
             WHERE d.blocked_by = $1 AND d.person IS NOT NULL
                 AND NOT EXISTS (
                     SELECT 1 FROM claygate.deliveries AS later
                     WHERE later.callback_id = d.callback_id AND later.destination = d.destination
                         AND later.replay > d.replay)
                 AND NOT EXISTS (
                     SELECT 1 FROM claygate.deliveries AS later
                     WHERE later.row_id = d.row_id AND later.destination = d.destination AND later.replay > d.replay)
             ORDER BY d.created_at, d.id LIMIT $2 FOR UPDATE OF d
         ), callbacks AS MATERIALIZED (
             SELECT c.id FROM claygate.callbacks AS c
             WHERE c.id IN (SELECT callback_id FROM blocked) ORDER BY c.id FOR UPDATE
         )
         SELECT id, callback_id, row_id, destination, rule, person, (SELECT count(*) FROM callbacks) AS locked
         FROM blocked ORDER BY created_at, id",
    )
    .bind(blocker.0)
    .bind(SKIPS_MAX)
    .fetch_all(&mut *connection)
    .await?;
    let mut skips = Vec::with_capacity(rows.len());
    for row in &rows {
        let person: Vec<u8> = row.try_get("person")?;
        let Ok(person) = <[u8; 32]>::try_from(person) else { continue };
        skips.push(Skip {
            id: DeliveryId(row.try_get("id")?),
            callback_id: row.try_get("callback_id")?,
            row_id: row.try_get("row_id")?,
            destination: row.try_get("destination")?,
            rule: row.try_get("rule")?,
            person: Person(person),
        });
    }
    // What retention has removed cannot be sent any more: it stays skipped.
    let stored = subjects::hold(connection, &skips.iter().map(|skip| skip.id.0).collect::<Vec<_>>()).await?;
    skips.retain(|skip| stored.contains(&skip.id.0));
    Ok(skips)
}

/// Names the new blocker of what still has to wait.
async fn block_again(
    connection: &mut PgConnection,
    waiting: &[&(Skip, DeliveryId)],
    blocked: &HashMap<DeliveryId, DeliveryId>,
) -> Result<(), DbError> {
    let pairs: Vec<(Uuid, Uuid)> =
        waiting.iter().filter_map(|(skip, id)| Some((skip.id.0, blocked.get(id)?.0))).collect();
    if pairs.is_empty() {
        return Ok(());
    }
    let (skips, blockers): (Vec<Uuid>, Vec<Uuid>) = pairs.into_iter().unzip();
    sqlx::query(
        "UPDATE claygate.deliveries AS d SET blocked_by = i.blocker
         FROM unnest($1::uuid[], $2::uuid[]) AS i (id, blocker) WHERE d.id = i.id AND d.state = 'skipped'",
    )
    .bind(skips)
    .bind(blockers)
    .execute(connection)
    .await?;
    Ok(())
}

async fn make(connection: &mut PgConnection, going: &[&(Skip, DeliveryId)]) -> Result<(), DbError> {
    if going.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO claygate.deliveries (id, callback_id, row_id, destination, replay, rule, person, next_attempt_at)
         SELECT i.id, i.callback_id, i.row_id, i.destination, 1 + GREATEST(
                 (SELECT max(d.replay) FROM claygate.deliveries AS d
                  WHERE d.callback_id = i.callback_id AND d.destination = i.destination),
                 (SELECT max(d.replay) FROM claygate.deliveries AS d
                  WHERE d.row_id = i.row_id AND d.destination = i.destination)),
             i.rule, i.person, now()
         FROM unnest($1::uuid[], $2::uuid[], $6::uuid[], $3::text[], $4::text[], $5::bytea[])
             AS i (id, callback_id, row_id, destination, rule, person)",
    )
    .bind(going.iter().map(|(_, id)| id.0).collect::<Vec<_>>())
    .bind(going.iter().map(|(skip, _)| skip.callback_id).collect::<Vec<_>>())
    .bind(going.iter().map(|(skip, _)| skip.destination.as_str()).collect::<Vec<_>>())
    .bind(going.iter().map(|(skip, _)| skip.rule.as_deref()).collect::<Vec<_>>())
    .bind(going.iter().map(|(skip, _)| skip.person.0.to_vec()).collect::<Vec<_>>())
    .bind(going.iter().map(|(skip, _)| skip.row_id).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    let mut destinations: Vec<&str> = going.iter().map(|(skip, _)| skip.destination.as_str()).collect();
    destinations.sort_unstable();
    destinations.dedup();
    for destination in destinations {
        let ids: Vec<Uuid> =
            going.iter().filter(|(skip, _)| skip.destination == destination).map(|(_, id)| id.0).collect();
        outbox::push(connection, &QueueName::deliver(destination), &ids, None).await?;
    }
    Ok(())
}
