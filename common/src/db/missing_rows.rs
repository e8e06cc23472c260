//! Rows that Clay took and that never came back: listing them, and sending them again.
//!
//! What is sent again is a new delivery with the next replay number, as [`super::replay`] makes it, and the same row: its
//! `claygate_id` stays, so that a late callback of the first sending ties to it like one of the second.

use std::time::Duration;

use serde::Serialize;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::cooldowns::{self, Contender};
use super::{Database, DbError, outbox, subjects};
use crate::ids::DeliveryId;
use crate::person::Person;
use crate::queue::QueueName;

/// Rows of one transaction of [`resend`].
const GROUP_MAX: i64 = 500;
const COLLISIONS_MAX: u32 = 8;

/// Which rows are missing.
#[derive(Clone, Debug)]
pub struct Missing {
    /// Each destination, and the moment until which its rows were sent that should be back.
    pub due_until: Vec<(String, OffsetDateTime)>,
    /// Sent at or after.
    pub since: OffsetDateTime,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct MissingRow {
    /// The row's id, which Clay has as `claygate_id`.
    pub id: Uuid,
    /// Where it was sent.
    pub destination: String,
    /// When Clay took it last.
    #[serde(with = "time::serde::rfc3339")]
    pub sent_at: OffsetDateTime,
    /// How often it did.
    pub times_sent: i32,
    /// The callback that a rule made it of.
    pub callback_id: Option<Uuid>,
    /// The file that it was handed in with, or `http`.
    pub batch: Option<String>,
    /// Its place in that.
    pub line: Option<i64>,
    /// What it is known by, where it was handed in.
    pub key_kind: Option<String>,
    /// The state of its latest delivery: `pending` is being sent again.
    pub delivery: Option<String>,
}

/// What is missing at one destination, as the plan of [`resend`] shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be sent again.
    pub again: u64,
    /// On their way again already.
    pub on_the_way: u64,
    /// Nothing is stored any more that could be sent.
    pub expired: u64,
}

/// Reads one page, the latest first. `before`: the last one of the page before, with its `sent_at`.
///
/// # Errors
/// [`DbError`].
pub async fn list(
    database: &Database,
    missing: &Missing,
    before: Option<(OffsetDateTime, Uuid)>,
    limit: u32,
) -> Result<Vec<MissingRow>, DbError> {
    Ok(sqlx::query_as(LIST)
        .bind(missing.due_until.iter().map(|(destination, _)| destination.as_str()).collect::<Vec<_>>())
        .bind(missing.due_until.iter().map(|(_, until)| *until).collect::<Vec<_>>())
        .bind(missing.since)
        .bind(before.map(|(sent_at, _)| sent_at))
        .bind(before.map(|(_, id)| id))
        .bind(i64::from(limit))
        .fetch_all(database.pool())
        .await?)
}

/// Counts what [`resend`] would send, per destination.
///
/// # Errors
/// [`DbError`].
pub async fn plan(database: &Database, missing: &Missing) -> Result<Vec<(String, Plan)>, DbError> {
    let mut plans = Vec::new();
    for (destination, until) in &missing.due_until {
        let (again, on_the_way, expired): (i64, i64, i64) =
            sqlx::query_as(PLAN).bind(destination).bind(until).bind(missing.since).fetch_one(database.pool()).await?;
        let count = |n: i64| u64::try_from(n).unwrap_or_default();
        let plan = Plan { again: count(again), on_the_way: count(on_the_way), expired: count(expired) };
        plans.push((destination.clone(), plan));
    }
    Ok(plans)
}

/// Sends what is missing at `destination` again, oldest first, in groups; tells `progress` after each how many it is
/// by then. `once_per`: the destination's cool-down, which the new deliveries take over.
///
/// Twice at once sends nothing twice: a row whose latest delivery has not ended is left out. What comes back while this
/// runs is left out too, as far as it is known in time.
///
/// # Errors
/// [`DbError`]; the groups before are queued, and the next call goes on behind them.
pub async fn resend(
    database: &Database,
    (destination, due_until): (&str, OffsetDateTime),
    since: OffsetDateTime,
    once_per: Option<Duration>,
    mut progress: impl FnMut(u64),
) -> Result<u64, DbError> {
    let mut queued = 0;
    let mut after: Option<(OffsetDateTime, Uuid)> = None;
    loop {
        let page = sqlx::query(PAGE)
            .bind(destination)
            .bind(due_until)
            .bind(since)
            .bind(after.map(|(sent_at, _)| sent_at))
            .bind(after.map(|(_, id)| id))
            .bind(GROUP_MAX)
            .fetch_all(database.pool())
            .await?;
        let Some(last) = page.last() else { return Ok(queued) };
        after = Some((last.try_get("sent_at")?, last.try_get("id")?));
        let mut group: Vec<(Uuid, Uuid)> = Vec::new();
        for row in &page {
            if let Some(delivery) = row.try_get("delivery_id")? {
                group.push((row.try_get("id")?, delivery));
            }
        }
        let mut tries = 0;
        queued += loop {
            match queue_again(database, destination, &group, once_per).await {
                Err(DbError::Collision(_)) if tries < COLLISIONS_MAX => tries += 1,
                done => break done?,
            }
        };
        progress(queued);
    }
}

/// Makes the next delivery of each row, unless its latest one, which `group` names beside it, is not the latest any more.
async fn queue_again(
    database: &Database,
    destination: &str,
    group: &[(Uuid, Uuid)],
    once_per: Option<Duration>,
) -> Result<u64, DbError> {
    let mut connection = database.pool().acquire().await?;
    let mut transaction = connection.begin().await?;
    let deliveries: Vec<Uuid> = group.iter().map(|(_, delivery)| *delivery).collect();
    let stored = subjects::hold(&mut transaction, &deliveries).await?;
    let group: Vec<(Uuid, Uuid)> = group.iter().filter(|(_, delivery)| stored.contains(delivery)).copied().collect();
    // Whoever makes a replay holds the delivery that it repeats; what another has made meanwhile is seen afterwards.
    sqlx::query("SELECT FROM claygate.deliveries WHERE id = ANY($1) ORDER BY id FOR UPDATE")
        .bind(deliveries)
        .execute(&mut *transaction)
        .await?;
    let made = insert(&mut transaction, &group).await.map_err(collided)?;
    if let Some(once_per) = once_per {
        let contenders: Vec<Contender> = made
            .iter()
            .filter_map(|(delivery, person)| {
                let (destination, person) = (destination.to_owned(), (*person)?);
                Some(Contender { delivery: *delivery, destination, person, once_per, forced: true })
            })
            .collect();
        cooldowns::take(&mut transaction, &contenders).await?;
    }
    let refs: Vec<Uuid> = made.iter().map(|(delivery, _)| delivery.0).collect();
    outbox::push(&mut transaction, &QueueName::deliver(destination), &refs, None).await?;
    transaction.commit().await?;
    Ok(u64::try_from(made.len()).unwrap_or_default())
}

async fn insert(
    connection: &mut PgConnection,
    group: &[(Uuid, Uuid)],
) -> Result<Vec<(DeliveryId, Option<Person>)>, DbError> {
    let rows = sqlx::query(
        "INSERT INTO claygate.deliveries (id, callback_id, row_id, destination, replay, rule, person, next_attempt_at)
         SELECT i.again, d.callback_id, d.row_id, d.destination, d.replay + 1, d.rule, d.person, now()
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS i (row, delivery, again)
         JOIN claygate.deliveries AS d ON d.id = i.delivery
         JOIN claygate.rows AS r ON r.id = i.row
         WHERE d.state <> 'pending' AND r.returned_at IS NULL
             AND NOT EXISTS (SELECT FROM claygate.deliveries AS later
                 WHERE later.row_id = d.row_id AND later.destination = d.destination AND later.replay > d.replay)
             AND NOT EXISTS (SELECT FROM claygate.deliveries AS later
                 WHERE later.callback_id = d.callback_id AND later.destination = d.destination
                     AND later.replay > d.replay)
         ORDER BY d.id
         RETURNING id, person",
    )
    .bind(group.iter().map(|(row, _)| *row).collect::<Vec<_>>())
    .bind(group.iter().map(|(_, delivery)| *delivery).collect::<Vec<_>>())
    .bind(group.iter().map(|_| DeliveryId::new().0).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let person: Option<Vec<u8>> = row.try_get("person")?;
            let person = person.and_then(|hash| hash.try_into().ok()).map(Person);
            Ok((DeliveryId(row.try_get("id")?), person))
        })
        .collect()
}

/// Another replay took the same number: the next try sees it.
fn collided(error: DbError) -> DbError {
    match error {
        DbError::Refused { constraint: Some(name), source } if name.starts_with("deliveries_once_per_") => {
            DbError::Collision(source)
        }
        other => other,
    }
}

/// The list's statement, for the test that holds its plan: of each destination as many as the page has at most.
pub const LIST: &str = "
    SELECT page.id, page.destination, page.sent_at, page.times_sent, page.callback_id, b.name AS batch, page.line,
        page.key_kind, latest.state AS delivery
    FROM (
        SELECT r.* FROM unnest($1::text[], $2::timestamptz[]) AS due (destination, until)
        CROSS JOIN LATERAL (
            SELECT id, destination, sent_at, GREATEST(times_sent, 1) AS times_sent, callback_id, batch_id, line, key_kind
            FROM claygate.rows
            WHERE destination = due.destination AND sent_at IS NOT NULL AND returned_at IS NULL
                AND sent_at >= $3::timestamptz AND sent_at <= due.until
                AND (sent_at, id) < (COALESCE($4::timestamptz, 'infinity'),
                    COALESCE($5::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
            ORDER BY sent_at DESC, id DESC LIMIT $6::bigint
        ) AS r
        ORDER BY r.sent_at DESC, r.id DESC LIMIT $6::bigint
    ) AS page
    LEFT JOIN claygate.row_batches AS b ON b.id = page.batch_id
    LEFT JOIN LATERAL (
        (SELECT d.state, d.replay FROM claygate.deliveries AS d
         WHERE d.row_id = page.id AND d.destination = page.destination ORDER BY d.replay DESC LIMIT 1)
        UNION ALL
        (SELECT d.state, d.replay FROM claygate.deliveries AS d
         WHERE d.callback_id = page.callback_id AND d.destination = page.destination ORDER BY d.replay DESC LIMIT 1)
        LIMIT 1
    ) AS latest ON true
    ORDER BY page.sent_at DESC, page.id DESC";

/// The plan's statement, for the test that holds the plan of it.
pub const PLAN: &str = "
    SELECT count(*) FILTER (WHERE state <> 'pending' AND is_stored), count(*) FILTER (WHERE state = 'pending'),
        count(*) FILTER (WHERE state IS NULL OR (state <> 'pending' AND NOT is_stored))
    FROM (
        SELECT CASE WHEN r.callback_id IS NULL THEN r.body IS NOT NULL
                ELSE EXISTS (SELECT FROM claygate.leads AS l WHERE l.callback_id = r.callback_id) END AS is_stored,
            CASE WHEN r.callback_id IS NULL THEN
                (SELECT d.state FROM claygate.deliveries AS d
                 WHERE d.row_id = r.id AND d.destination = r.destination ORDER BY d.replay DESC LIMIT 1)
            ELSE
                (SELECT d.state FROM claygate.deliveries AS d
                 WHERE d.callback_id = r.callback_id AND d.destination = r.destination ORDER BY d.replay DESC LIMIT 1)
            END AS state
        FROM claygate.rows AS r
        WHERE r.destination = $1 AND r.sent_at IS NOT NULL AND r.returned_at IS NULL
            AND r.sent_at >= $3::timestamptz AND r.sent_at <= $2::timestamptz
    ) AS missing";

/// The rows of one group and the delivery that each is to be sent again by, in the order in which they were sent; for the
/// test that holds its plan.
pub const PAGE: &str = "
    SELECT page.id, page.sent_at, CASE WHEN page.callback_id IS NULL THEN
            (SELECT CASE WHEN d.state <> 'pending' AND page.has_body THEN d.id END FROM claygate.deliveries AS d
             WHERE d.row_id = page.id AND d.destination = $1 ORDER BY d.replay DESC LIMIT 1)
        WHEN EXISTS (SELECT FROM claygate.leads AS l WHERE l.callback_id = page.callback_id) THEN
            (SELECT CASE WHEN d.state <> 'pending' THEN d.id END FROM claygate.deliveries AS d
             WHERE d.callback_id = page.callback_id AND d.destination = $1 ORDER BY d.replay DESC LIMIT 1)
        END AS delivery_id
    FROM (
        SELECT id, sent_at, callback_id, body IS NOT NULL AS has_body FROM claygate.rows
        WHERE destination = $1 AND sent_at IS NOT NULL AND returned_at IS NULL
            AND sent_at >= $3::timestamptz AND sent_at <= $2::timestamptz
            AND (sent_at, id) > (COALESCE($4::timestamptz, '-infinity'),
                COALESCE($5::uuid, '00000000-0000-0000-0000-000000000000'))
        ORDER BY sent_at, id LIMIT $6::bigint
    ) AS page ORDER BY page.sent_at, page.id";
