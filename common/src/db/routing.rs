//! The routing transaction: what becomes of a batch of callbacks, in one commit.
//!
//! Fence (`received` → end, for the routing that was read), leads, decisions, cool-downs, deliveries and their outbox
//! entries, and which rows came back, stand or fall together. A callback that somebody else routed in the meantime is left out as a whole, so two
//! workers on one batch make every delivery once. All multi-row writes are sorted by key.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::cooldowns::{self, Contender};
use super::row_loop::{self, Return};
use super::{Database, DbError};
use crate::ids::{CallbackId, DeliveryId, RowId};
use crate::lead::Lead;
use crate::person::Person;
use crate::queue::{BATCH_MAX, QueueName};
use crate::states::{CallbackState, Reason};

/// A callback that waits for its routing.
#[derive(Clone, Debug)]
pub struct Unrouted {
    /// Which.
    pub id: CallbackId,
    /// Who sent it.
    pub source: String,
    /// Which rule gave its idempotency key.
    pub key_kind: String,
    /// 0 for the first sighting of its key.
    pub revision: i32,
    /// When it came in.
    pub received_at: OffsetDateTime,
    /// 0 the first time; one more with every replay.
    pub routing: i32,
    /// The raw body; `None` when retention removed it.
    pub body: Option<Vec<u8>>,
    /// The row that it says it came back from; it may not exist.
    pub row_id: Option<RowId>,
    /// The workspace of that row.
    pub workspace: Option<String>,
}

/// What was decided for one callback.
#[derive(Clone, Debug)]
pub struct Decided {
    /// Which callback.
    pub id: CallbackId,
    /// The routing that was read with it.
    pub routing: i32,
    /// When it came in.
    pub received_at: OffsetDateTime,
    /// The row that it says it came back from; it may not exist.
    pub row_id: Option<RowId>,
    /// Its end.
    pub state: CallbackState,
    /// Why, where it was not routed.
    pub reason: Option<Reason>,
    /// The normalised lead, where the body could be read as one.
    pub lead: Option<Lead>,
    /// Every rule's result, as JSON.
    pub trace: String,
    /// What is to be made of it.
    pub deliveries: Vec<NewDelivery>,
}

/// A delivery to be made.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// Where it goes.
    pub destination: String,
    /// The rule that named the destination.
    pub rule: Option<String>,
    /// To whom.
    pub person: Option<Person>,
    /// It ends at once, unsent, because of this.
    pub skip: Option<Reason>,
    /// The destination's cool-down.
    pub once_per: Option<Duration>,
    /// The reason by which it is held back where somebody else has the cool-down.
    pub blocked_as: Reason,
    /// It is created already leased, because its sender has a slot for it.
    pub lease: Option<NewLease>,
}

/// A lease to be created with its delivery.
#[derive(Clone, Copy, Debug)]
pub struct NewLease {
    /// Its token.
    pub token: Uuid,
    /// How long it lasts, from the transaction's start.
    pub duration: Duration,
}

/// What a routing transaction did.
#[derive(Debug, Default)]
pub struct Routed {
    /// The callbacks that it routed; the others had been routed by somebody else.
    pub callbacks: HashSet<CallbackId>,
    /// The deliveries that it made.
    pub deliveries: HashMap<DeliveryId, Made>,
}

/// A delivery that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// 0 for the first delivery of this callback to this destination.
    pub replay: i32,
    /// Why it ended at once, where it did.
    pub skipped: Option<Reason>,
}

/// Reads the callbacks among `ids` that still wait, in the order in which they came in.
///
/// # Errors
/// [`DbError`].
pub async fn load(database: &Database, ids: &[CallbackId]) -> Result<Vec<Unrouted>, DbError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query(
        "SELECT c.id, c.source, c.key_kind, c.revision, c.received_at, c.routing, c.row_id, b.body, r.workspace
         FROM claygate.callbacks AS c
         LEFT JOIN claygate.callback_bodies AS b ON b.callback_id = c.id AND b.received_at = c.received_at
         LEFT JOIN claygate.rows AS r ON r.id = c.row_id
         WHERE c.id = ANY($1) AND c.state = 'received'
         ORDER BY c.received_at, c.id",
    )
    .bind(ids)
    .fetch_all(database.pool())
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Unrouted {
                id: CallbackId(row.try_get("id")?),
                source: row.try_get("source")?,
                key_kind: row.try_get("key_kind")?,
                revision: row.try_get("revision")?,
                received_at: row.try_get("received_at")?,
                routing: row.try_get("routing")?,
                body: row.try_get("body")?,
                row_id: row.try_get::<Option<Uuid>, _>("row_id")?.map(RowId),
                workspace: row.try_get("workspace")?,
            })
        })
        .collect()
}

/// Counts a claim of a redelivered callback, before the work on it. Answers how many there were, with this one; `None`
/// when it waits no more.
///
/// # Errors
/// [`DbError`].
pub async fn count_claim(database: &Database, id: CallbackId) -> Result<Option<i16>, DbError> {
    Ok(sqlx::query_scalar(
        "UPDATE claygate.callbacks SET claims = claims + 1 WHERE id = $1 AND state = 'received' RETURNING claims",
    )
    .bind(id.0)
    .fetch_optional(database.pool())
    .await?)
}

/// Ends a callback that cannot be routed. Answers whether it still waited.
///
/// # Errors
/// [`DbError`].
pub async fn give_up(
    database: &Database,
    id: CallbackId,
    rules_version: &str,
    reason: Reason,
) -> Result<bool, DbError> {
    let done = sqlx::query(
        "WITH ended AS (
             UPDATE claygate.callbacks SET state = 'dead', reason = $3 WHERE id = $1 AND state = 'received'
             RETURNING id, routing
         )
         INSERT INTO claygate.decisions (callback_id, routing, rules_version, outcome, reason, trace)
         SELECT id, routing, $2, 'dead', $3, '[]' FROM ended",
    )
    .bind(id.0)
    .bind(rules_version)
    .bind(reason.as_str())
    .execute(database.pool())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Commits what was decided, which stands in the order in which the callbacks came in.
///
/// # Errors
/// [`DbError::Collision`]: the same again at once; [`DbError::Refused`]: one of the rows is refused, nothing was done.
///
/// # Cancel safety
/// Either everything is committed or nothing.
pub async fn commit(database: &Database, rules_version: &str, decided: &[Decided]) -> Result<Routed, DbError> {
    let mut transaction = database.pool().begin().await?;
    let callbacks = fence(&mut transaction, rules_version, decided).await?;
    let decided: Vec<&Decided> = decided.iter().filter(|one| callbacks.contains(&one.id)).collect();
    let blocked = cooldowns::take(&mut transaction, &contenders(&decided)).await?;
    let deliveries = insert_deliveries(&mut transaction, &decided, &blocked).await?;
    // Last, so that the rows, which their senders want too, are held the shortest.
    row_loop::mark_returned(&mut transaction, &returns(&decided)).await?;
    transaction.commit().await?;
    Ok(Routed { callbacks, deliveries })
}

/// Ends the callbacks that still wait and writes their leads and decisions.
async fn fence(
    connection: &mut PgConnection,
    rules_version: &str,
    decided: &[Decided],
) -> Result<HashSet<CallbackId>, DbError> {
    let mut sorted: Vec<&Decided> = decided.iter().collect();
    sorted.sort_unstable_by_key(|one| one.id);
    let leads: Vec<(&Decided, &Lead)> = sorted.iter().filter_map(|one| Some((*one, one.lead.as_ref()?))).collect();
    let text = |field: fn(&Lead) -> &Option<String>| -> Vec<Option<&str>> {
        leads.iter().map(|(_, lead)| field(lead).as_deref()).collect()
    };
    let fenced: Vec<Uuid> = sqlx::query_scalar(
        "WITH input AS (
             SELECT unnest($1::uuid[]) AS id, unnest($2::integer[]) AS routing, unnest($3::text[]) AS state,
                 unnest($4::text[]) AS reason, unnest($5::text[]) AS trace
         ), fenced AS (
             UPDATE claygate.callbacks AS c SET state = i.state, reason = i.reason
             FROM input AS i WHERE c.id = i.id AND c.routing = i.routing AND c.state = 'received'
             RETURNING c.id
         ), decided AS (
             INSERT INTO claygate.decisions (callback_id, routing, rules_version, outcome, reason, trace)
             SELECT i.id, i.routing, $6, i.state, i.reason, i.trace::json FROM input AS i JOIN fenced USING (id)
         ), led AS (
             INSERT INTO claygate.leads (callback_id, received_at, person, email, first_name, last_name, company_name,
                 job_title, employee_count, industry, linkedin_url, icp_score, personalized_opener, extra, warnings)
             SELECT l.id, l.received_at, l.person, l.email, l.first_name, l.last_name, l.company_name, l.job_title,
                 l.employee_count, l.industry, l.linkedin_url, l.icp_score, l.personalized_opener, l.extra::jsonb,
                 string_to_array(l.warnings, E'\\n')
             FROM (
                 SELECT unnest($7::uuid[]) AS id, unnest($8::timestamptz[]) AS received_at, unnest($9::bytea[]) AS person,
                     unnest($10::text[]) AS email, unnest($11::text[]) AS first_name, unnest($12::text[]) AS last_name,
                     unnest($13::text[]) AS company_name, unnest($14::text[]) AS job_title,
                     unnest($15::bigint[]) AS employee_count, unnest($16::text[]) AS industry,
                     unnest($17::text[]) AS linkedin_url, unnest($18::float8[]) AS icp_score,
                     unnest($19::text[]) AS personalized_opener, unnest($20::text[]) AS extra,
                     unnest($21::text[]) AS warnings
             ) AS l JOIN fenced USING (id)
             ON CONFLICT (callback_id) DO UPDATE SET person = EXCLUDED.person, email = EXCLUDED.email,
                 first_name = EXCLUDED.first_name, last_name = EXCLUDED.last_name,
                 company_name = EXCLUDED.company_name, job_title = EXCLUDED.job_title,
                 employee_count = EXCLUDED.employee_count, industry = EXCLUDED.industry,
                 linkedin_url = EXCLUDED.linkedin_url, icp_score = EXCLUDED.icp_score,
                 personalized_opener = EXCLUDED.personalized_opener, extra = EXCLUDED.extra,
                 warnings = EXCLUDED.warnings
         )
         SELECT id FROM fenced",
    )
    .bind(sorted.iter().map(|one| one.id.0).collect::<Vec<_>>())
    .bind(sorted.iter().map(|one| one.routing).collect::<Vec<_>>())
    .bind(sorted.iter().map(|one| one.state.as_str()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|one| one.reason.map(Reason::as_str)).collect::<Vec<_>>())
    .bind(sorted.iter().map(|one| one.trace.as_str()).collect::<Vec<_>>())
    .bind(rules_version)
    .bind(leads.iter().map(|(one, _)| one.id.0).collect::<Vec<_>>())
    .bind(leads.iter().map(|(one, _)| one.received_at).collect::<Vec<_>>())
    .bind(leads.iter().map(|(_, lead)| lead.person().map(|p| p.0.to_vec())).collect::<Vec<_>>())
    .bind(text(|lead| &lead.email))
    .bind(text(|lead| &lead.first_name))
    .bind(text(|lead| &lead.last_name))
    .bind(text(|lead| &lead.company_name))
    .bind(text(|lead| &lead.job_title))
    .bind(leads.iter().map(|(_, lead)| lead.employee_count).collect::<Vec<_>>())
    .bind(text(|lead| &lead.industry))
    .bind(text(|lead| &lead.linkedin_url))
    .bind(leads.iter().map(|(_, lead)| lead.icp_score.map(|score| score.get())).collect::<Vec<_>>())
    .bind(text(|lead| &lead.personalized_opener))
    .bind(leads.iter().map(|(_, lead)| json(&lead.extra)).collect::<Vec<_>>())
    .bind(leads.iter().map(|(_, lead)| one_per_line(&lead.warnings)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(fenced.into_iter().map(CallbackId).collect())
}

fn json(object: &serde_json::Map<String, serde_json::Value>) -> String {
    // A map of strings to values always serialises; an empty object stands for "no further fields".
    serde_json::to_string(object).unwrap_or_else(|_| "{}".to_owned())
}

/// Arrays of arrays do not travel, so each lead's warnings go as lines.
fn one_per_line(warnings: &[String]) -> String {
    warnings.iter().map(|warning| warning.replace('\n', " ")).collect::<Vec<_>>().join("\n")
}

fn returns(decided: &[&Decided]) -> Vec<Return> {
    let back = |one: &&Decided| Some(Return { row: one.row_id?, callback: one.id, received_at: one.received_at });
    decided.iter().filter_map(back).collect()
}

fn contenders(decided: &[&Decided]) -> Vec<Contender> {
    let wants = |one: &Decided, delivery: &NewDelivery| {
        delivery.skip.is_none().then_some(())?;
        Some(Contender {
            delivery: delivery.id,
            destination: delivery.destination.clone(),
            person: delivery.person?,
            once_per: delivery.once_per?,
            forced: one.routing > 0,
        })
    };
    decided.iter().flat_map(|one| one.deliveries.iter().filter_map(|d| wants(one, d))).collect()
}

/// Inserts the deliveries, and an outbox entry for each that is neither leased nor skipped.
async fn insert_deliveries(
    connection: &mut PgConnection,
    decided: &[&Decided],
    blocked: &HashMap<DeliveryId, DeliveryId>,
) -> Result<HashMap<DeliveryId, Made>, DbError> {
    let mut rows: Vec<(&Decided, &NewDelivery)> =
        decided.iter().flat_map(|one| one.deliveries.iter().map(|delivery| (*one, delivery))).collect();
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    rows.sort_unstable_by(|(a, x), (b, y)| (a.id, &x.destination).cmp(&(b.id, &y.destination)));
    let skip = |delivery: &NewDelivery| delivery.skip.or(blocked.get(&delivery.id).map(|_| delivery.blocked_as));
    let lease = |delivery: &NewDelivery| delivery.lease.filter(|_| skip(delivery).is_none());
    let chunks = chunk_queued(rows.iter().map(|(_, delivery)| {
        (skip(delivery).is_none() && delivery.lease.is_none()).then_some(delivery.destination.as_str())
    }));
    let made = sqlx::query(
        "WITH input AS (
             SELECT unnest($1::uuid[]) AS id, unnest($2::uuid[]) AS callback_id, unnest($3::text[]) AS destination,
                 unnest($4::boolean[]) AS again, unnest($5::text[]) AS rule, unnest($6::bytea[]) AS person,
                 unnest($7::text[]) AS reason, unnest($8::uuid[]) AS blocked_by, unnest($9::uuid[]) AS token,
                 unnest($10::float8[]) AS seconds, unnest($11::text[]) AS queue, unnest($12::integer[]) AS chunk
         ), made AS (
             INSERT INTO claygate.deliveries (id, callback_id, destination, replay, rule, person, state, reason,
                 blocked_by, ended_at, next_attempt_at, lease_until, lease_token)
             SELECT id, callback_id, destination,
                 CASE WHEN again THEN (
                     SELECT COALESCE(max(d.replay) + 1, 0) FROM claygate.deliveries AS d
                     WHERE d.callback_id = i.callback_id AND d.destination = i.destination
                 ) ELSE 0 END,
                 rule, person, CASE WHEN reason IS NULL THEN 'pending' ELSE 'skipped' END, reason, blocked_by,
                 CASE WHEN reason IS NOT NULL THEN now() END, CASE WHEN reason IS NULL THEN now() END,
                 now() + make_interval(secs => seconds), token
             FROM input AS i
             RETURNING id, replay
         ), queued AS (
             INSERT INTO claygate.outbox (queue, refs)
             SELECT queue, array_agg(id) FROM input WHERE chunk IS NOT NULL GROUP BY queue, chunk
         )
         SELECT id, replay FROM made",
    )
    .bind(rows.iter().map(|(_, delivery)| delivery.id.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|(one, _)| one.id.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, delivery)| delivery.destination.as_str()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(one, _)| one.routing > 0).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, delivery)| delivery.rule.as_deref()).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, delivery)| delivery.person.map(|p| p.0.to_vec())).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, delivery)| skip(delivery).map(Reason::as_str)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, delivery)| blocked.get(&delivery.id).map(|id| id.0)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, delivery)| lease(delivery).map(|l| l.token)).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, delivery)| lease(delivery).map(|l| l.duration.as_secs_f64())).collect::<Vec<_>>())
    .bind(rows.iter().map(|(_, d)| QueueName::deliver(&d.destination).as_str().to_owned()).collect::<Vec<_>>())
    .bind(chunks)
    .fetch_all(connection)
    .await
    .map_err(|error| collided(DbError::from(error)))?;
    let reasons: HashMap<DeliveryId, Option<Reason>> = rows.iter().map(|(_, d)| (d.id, skip(d))).collect();
    made.iter()
        .map(|row| {
            let id = DeliveryId(row.try_get("id")?);
            let skipped = reasons.get(&id).copied().flatten();
            Ok((id, Made { replay: row.try_get("replay")?, skipped }))
        })
        .collect()
}

/// For each row the number of its outbox entry among those of its destination; `None` where it needs none.
fn chunk_queued<'a>(rows: impl Iterator<Item = Option<&'a str>>) -> Vec<Option<i32>> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    rows.map(|queued| {
        let count = counts.entry(queued?).or_default();
        let chunk = *count / BATCH_MAX;
        *count += 1;
        i32::try_from(chunk).ok()
    })
    .collect()
}

/// Two replays that took the same number: the next try sees the other's.
fn collided(error: DbError) -> DbError {
    match error {
        DbError::Refused { constraint: Some(constraint), source } if constraint == "deliveries_once_per_callback" => {
            DbError::Collision(source)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_hold_at_most_a_batch_of_one_destination() {
        let rows = (0..2 * BATCH_MAX + 1).map(|n| if n % 2 == 0 { Some("a") } else { None });
        let chunks = chunk_queued(rows);
        assert_eq!(chunks.first(), Some(&Some(0)));
        assert_eq!(chunks.get(1), Some(&None));
        assert_eq!(chunks.last(), Some(&Some(1)));
    }
}
