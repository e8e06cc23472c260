//! What an operator asks of callbacks: a list, and one callback's whole story. Reads only.
//!
//! Lists are read by key, newest first, never by offset. The story is JSON, made by the database: timestamps are ISO
//! 8601 in UTC, names are the columns'. It holds personal data, because it is what was asked for.

use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use super::page::{LOOKED_AT_MAX, Looked, Page, Position};
use super::{Database, DbError};
use crate::ids::CallbackId;
use crate::person::Person;
use crate::states::CallbackState;

/// Which callbacks a list shows; `None` shows all.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// A source's name.
    pub source: Option<String>,
    /// A [`crate::states::CallbackState`] as a word.
    pub state: Option<String>,
    /// Whom their lead is about. Callbacks that were never routed have no lead.
    pub person: Option<Person>,
    /// Received at or after.
    pub since: Option<OffsetDateTime>,
    /// The last one of the page before: what follows was received before it.
    pub before: Option<CallbackId>,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, serde::Serialize, sqlx::FromRow)]
pub struct Event {
    /// The callback.
    pub id: Uuid,
    /// When it came in.
    #[serde(with = "time::serde::rfc3339")]
    pub received_at: OffsetDateTime,
    /// Who sent it.
    pub source: String,
    /// 0 for the first sighting of its key.
    pub revision: i32,
    /// Where it is.
    pub state: String,
    /// Why, where it was not routed.
    pub reason: Option<String>,
    /// The lead's e-mail address.
    pub email: Option<String>,
    /// The lead's score.
    pub icp_score: Option<f64>,
    /// `destination: state` of each delivery, oldest first.
    pub deliveries: Vec<String>,
}

/// Reads one page, newest first; `None` where the callback of [`EventFilter::before`] is not there (any more).
///
/// No index covers a callback's state (ADR 8) or, in the order of time, its source: a page looks at [`LOOKED_AT_MAX`]
/// callbacks at most. What waits is looked for from the sweeper's mark on, what is dead among the dead decisions while they
/// are fewer, and what is of one person among the leads of that person, [`LOOKED_AT_MAX`] at most.
///
/// # Errors
/// [`DbError`].
pub async fn list(database: &Database, filter: &EventFilter, limit: u32) -> Result<Option<Page<Event>>, DbError> {
    let before = match filter.before {
        Some(id) => match position(database, id).await? {
            Some(position) => Some(position),
            None => return Ok(None),
        },
        None => None,
    };
    let is_dead = filter.state.as_deref() == Some(CallbackState::Dead.as_str());
    let statement = match &filter.person {
        Some(_) => LIST_OF_PERSON,
        None if is_dead && has_few_dead(database).await? => LIST_DEAD,
        None => LIST,
    };
    let mut query = sqlx::query(statement)
        .bind(&filter.source)
        .bind(&filter.state)
        .bind(filter.since)
        .bind(before.map(|(at, _)| at))
        .bind(before.map(|(_, id)| id))
        .bind(i64::from(limit))
        .bind(i64::from(LOOKED_AT_MAX));
    if let Some(person) = &filter.person {
        query = query.bind(&person.0[..]);
    }
    let rows = query.fetch_all(database.pool()).await?;
    let looked: Vec<Looked<Event>> =
        rows.iter().map(|row| Looked::read(row, "received_at")).collect::<Result<_, _>>()?;
    Ok(Some(Page::of(looked, limit)))
}

async fn position(database: &Database, id: CallbackId) -> Result<Option<Position>, DbError> {
    Ok(sqlx::query_as("SELECT received_at, id FROM claygate.callbacks WHERE id = $1")
        .bind(id.0)
        .fetch_optional(database.pool())
        .await?)
}

/// Whether a page may look at every decision that ended a callback as dead.
async fn has_few_dead(database: &Database) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar(
        "SELECT count(*) < $1 FROM (
             SELECT FROM claygate.decisions WHERE outcome = 'dead' ORDER BY decided_at DESC, callback_id DESC LIMIT $1
         ) AS dead",
    )
    .bind(i64::from(LOOKED_AT_MAX))
    .fetch_one(database.pool())
    .await?)
}

/// What a line says, of the callbacks of a statement that have `matches` and `is_bound`.
macro_rules! lines_of {
    ($callbacks:literal) => {
        concat!(
            "SELECT c.id, c.received_at, c.source, c.revision, c.state, c.reason, l.email, l.icp_score,
                 ARRAY(
                     SELECT d.destination || ': ' || d.state FROM claygate.deliveries AS d
                     WHERE d.callback_id = c.id ORDER BY d.created_at, d.id
                 ) AS deliveries, c.matches, c.is_bound
             FROM (",
            $callbacks,
            ") AS c
             LEFT JOIN claygate.leads AS l ON l.callback_id = c.id
             ORDER BY c.received_at DESC, c.id DESC"
        )
    };
}

/// The list's statement, for the test that holds its plan.
pub const LIST: &str = lines_of!(
    "SELECT * FROM (
         SELECT *, row_number() OVER (ORDER BY received_at DESC, id DESC) = $7 AS is_bound,
             ($1::text IS NULL OR source = $1) AND ($2::text IS NULL OR state = $2) AS matches
         FROM (
             SELECT id, received_at, source, revision, state, reason FROM claygate.callbacks
             WHERE received_at >= GREATEST($3::timestamptz, '-infinity', CASE WHEN $2 = 'received' THEN (
                     SELECT position FROM claygate.sweep_marks WHERE queue = 'callbacks') END)
                 AND (received_at, id) < (
                     COALESCE($4::timestamptz, 'infinity'), COALESCE($5::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
             ORDER BY received_at DESC, id DESC LIMIT $7
         ) AS stretch
     ) AS looked_at
     WHERE matches OR is_bound ORDER BY received_at DESC, id DESC LIMIT $6"
);

/// The same for what is dead, while few decisions ended so; some more may have since they were counted.
// One by one (LIMIT 1): as a join, it could be a scan of all callbacks.
pub const LIST_DEAD: &str = lines_of!(
    "SELECT c.*, true AS matches, false AS is_bound
     FROM (
         SELECT DISTINCT callback_id FROM (
             SELECT callback_id FROM claygate.decisions WHERE outcome = 'dead'
             ORDER BY decided_at DESC, callback_id DESC LIMIT 2 * $7
         ) AS latest
     ) AS dead
     CROSS JOIN LATERAL (
         SELECT id, received_at, source, revision, state, reason FROM claygate.callbacks
         WHERE id = dead.callback_id AND state = $2 AND ($1::text IS NULL OR source = $1)
             AND received_at >= COALESCE($3::timestamptz, '-infinity') AND (received_at, id) < (
                 COALESCE($4::timestamptz, 'infinity'), COALESCE($5::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
         LIMIT 1
     ) AS c
     ORDER BY c.received_at DESC, c.id DESC LIMIT $6"
);

/// The same for one person, along the index of that person's leads.
// One by one (LIMIT 1), as above. A lead whose callback is gone, if there is one, is no line and no bound: callbacks go by age,
// so that there is nothing behind it either.
pub const LIST_OF_PERSON: &str = lines_of!(
    "SELECT * FROM (
         SELECT l.callback_id AS id, l.received_at, c.source, c.revision, c.state, c.reason, l.is_bound,
             ($1::text IS NULL OR c.source = $1) AND ($2::text IS NULL OR c.state = $2) AS matches
         FROM (
             SELECT *, row_number() OVER (ORDER BY received_at DESC, callback_id DESC) = $7 AS is_bound
             FROM (
                 SELECT callback_id, received_at FROM claygate.leads
                 WHERE person = $8 AND received_at >= COALESCE($3::timestamptz, '-infinity')
                     AND (received_at, callback_id) < (
                         COALESCE($4::timestamptz, 'infinity'),
                         COALESCE($5::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
                 ORDER BY received_at DESC, callback_id DESC LIMIT $7
             ) AS stretch
         ) AS l
         CROSS JOIN LATERAL (
             SELECT source, revision, state, reason FROM claygate.callbacks WHERE id = l.callback_id LIMIT 1
         ) AS c
     ) AS looked_at
     WHERE matches OR is_bound ORDER BY received_at DESC, id DESC LIMIT $6"
);

/// What an id that a sender was given stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A callback; the id itself, or the one that an alias leads to.
    Callback(CallbackId),
    /// Something in quarantine.
    Quarantined(Uuid),
}

/// Finds what `id` stands for: a callback, an alias of one (a spooled repeat), or something in quarantine.
///
/// # Errors
/// [`DbError`].
pub async fn resolve(database: &Database, id: Uuid) -> Result<Option<Found>, DbError> {
    let found: Option<(String, Uuid)> = sqlx::query_as(
        "SELECT 'callback', id FROM claygate.callbacks WHERE id = $1
         UNION ALL SELECT 'callback', callback_id FROM claygate.callback_aliases WHERE alias_id = $1
         UNION ALL SELECT 'quarantine', id FROM claygate.quarantine WHERE id = $1
         LIMIT 1",
    )
    .bind(id)
    .fetch_optional(database.pool())
    .await?;
    Ok(found.map(|(kind, id)| match kind.as_str() {
        "callback" => Found::Callback(CallbackId(id)),
        _ => Found::Quarantined(id),
    }))
}

/// Everything that is known of one callback.
///
/// # Errors
/// [`DbError`].
pub async fn story(database: &Database, id: CallbackId) -> Result<Option<Value>, DbError> {
    Ok(sqlx::query_scalar(
        "SELECT json_build_object(
            'callback', (SELECT json_build_object('id', c.id, 'source', c.source, 'received_at', c.received_at,
                'key_kind', c.key_kind, 'revision', c.revision, 'spooled', c.spooled, 'row_id', c.row_id,
                'state', c.state, 'reason', c.reason, 'routing', c.routing)),
            'aliases', ARRAY(SELECT alias_id FROM claygate.callback_aliases WHERE callback_id = c.id),
            'revisions', (SELECT json_agg(json_build_object('id', r.id, 'revision', r.revision,
                    'received_at', r.received_at, 'state', r.state) ORDER BY r.revision)
                FROM claygate.callbacks AS r WHERE r.source = c.source AND r.key = c.key),
            'headers', (SELECT b.headers FROM claygate.callback_bodies AS b
                WHERE b.callback_id = c.id AND b.received_at = c.received_at),
            'lead', (SELECT to_jsonb(l) - 'callback_id' - 'received_at' - 'person' FROM claygate.leads AS l
                WHERE l.callback_id = c.id),
            'decisions', (SELECT COALESCE(json_agg(json_build_object('routing', d.routing, 'decided_at', d.decided_at,
                    'rules_version', d.rules_version, 'outcome', d.outcome, 'reason', d.reason, 'trace', d.trace)
                    ORDER BY d.routing), '[]')
                FROM claygate.decisions AS d WHERE d.callback_id = c.id),
            'deliveries', (SELECT COALESCE(json_agg(json_build_object('id', d.id, 'destination', d.destination,
                    'replay', d.replay, 'rule', d.rule, 'state', d.state, 'reason', d.reason,
                    'blocked_by', d.blocked_by, 'created_at', d.created_at, 'ended_at', d.ended_at,
                    'next_attempt_at', d.next_attempt_at, 'attempts', (
                        SELECT COALESCE(json_agg(json_build_object('number', a.number, 'started_at', a.started_at,
                            'duration_ms', a.duration_ms, 'step', a.step, 'class', a.class, 'status', a.status,
                            'error', a.error, 'response', encode(a.response, 'escape'), 'owned', a.owned)
                            ORDER BY a.number), '[]')
                        FROM claygate.attempts AS a WHERE a.delivery_id = d.id))
                    ORDER BY d.created_at, d.id), '[]')
                FROM claygate.deliveries AS d WHERE d.callback_id = c.id))
         FROM claygate.callbacks AS c WHERE c.id = $1",
    )
    .bind(id.0)
    .fetch_optional(database.pool())
    .await?)
}

/// The raw body of a callback, byte for byte; `None` where there is none (any more).
///
/// # Errors
/// [`DbError`].
pub async fn body(database: &Database, id: CallbackId) -> Result<Option<Vec<u8>>, DbError> {
    Ok(sqlx::query_scalar(
        "SELECT b.body FROM claygate.callbacks AS c
         JOIN claygate.callback_bodies AS b ON b.callback_id = c.id AND b.received_at = c.received_at
         WHERE c.id = $1",
    )
    .bind(id.0)
    .fetch_optional(database.pool())
    .await?)
}
