//! `claygate.clay_webhooks`: the webhook URLs of tables of Clay, how many submissions each has taken, and which of them are
//! sent to. URLs are known by their names alone.
//!
//! Every submission is counted, and committed, before it is made; an answer that says no takes it back ([`take_back`]). What
//! a crash leaves counts too many, never too few. Counting in groups: whoever counts holds the rows of its destination's
//! URLs until its commit.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Acquire, Row};
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use super::{Database, DbError};
use crate::ids::{CallbackId, RowId};
use crate::states::WebhookState;

/// Workers say what they have every half minute ([`register`]). What was last seen so much earlier than another URL of its
/// destination is not in the configuration any more.
const SEEN_TOGETHER: Duration = Duration::from_secs(45);

/// The URLs of one destination as its configuration has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The destination's name.
    pub destination: String,
    /// Its workspace.
    pub workspace: String,
    /// The names of its URLs, in the order in which they are used.
    pub webhooks: Vec<String>,
    /// Submissions that one URL takes, ever.
    pub cap: Option<u64>,
    /// Submissions after which the next one takes over.
    pub rollover: Option<u64>,
}

/// A URL as the table has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// Its name.
    pub webhook: String,
    /// The destination that had it last.
    pub destination: String,
    /// That one's workspace.
    pub workspace: Option<String>,
    /// Its place in the destination's list, from 0.
    pub place: Option<i32>,
    /// Submissions that Clay took or may have taken.
    pub used: u64,
    /// How many it takes; `None`: without end.
    pub cap: Option<u64>,
    /// Whether it is sent to.
    pub state: WebhookState,
    /// Why not.
    pub reason: Option<String>,
    /// Since when.
    pub since: OffsetDateTime,
    /// When the first submission was counted.
    pub first_used_at: Option<OffsetDateTime>,
    /// When a worker last had it in its configuration.
    pub seen_at: Option<OffsetDateTime>,
    /// Whether the configuration that a worker last had for its destination names it.
    pub is_configured: bool,
}

impl Webhook {
    /// Whether a submission may go to it now.
    pub fn is_usable(&self) -> bool {
        self.state == WebhookState::Active && self.cap.is_none_or(|cap| self.used < cap)
    }
}

/// Notes that a worker has these URLs, and what it knows of them. A URL that is new to the table is active.
///
/// # Errors
/// [`DbError`].
pub async fn register(database: &Database, pool: &Pool) -> Result<(), DbError> {
    let mut connection = database.pool().acquire().await?;
    register_on(&mut connection, pool).await
}

async fn register_on(connection: &mut PgConnection, pool: &Pool) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO claygate.clay_webhooks AS known (webhook, destination, workspace, place, cap, rollover, seen_at)
         SELECT webhook, $2, $3, place - 1, $4, $5, now()
         FROM unnest($1::text[]) WITH ORDINALITY AS i (webhook, place) ORDER BY webhook
         ON CONFLICT (webhook) DO UPDATE SET destination = EXCLUDED.destination, workspace = EXCLUDED.workspace,
             place = EXCLUDED.place, cap = EXCLUDED.cap, rollover = EXCLUDED.rollover, seen_at = EXCLUDED.seen_at",
    )
    .bind(&pool.webhooks)
    .bind(&pool.destination)
    .bind(&pool.workspace)
    .bind(pool.cap.and_then(|cap| i64::try_from(cap).ok()))
    .bind(pool.rollover.and_then(|rollover| i64::try_from(rollover).ok()))
    .execute(connection)
    .await?;
    Ok(())
}

/// Every URL that was ever used or configured, by destination and place.
///
/// # Errors
/// [`DbError`].
pub async fn list(database: &Database) -> Result<Vec<Webhook>, DbError> {
    let rows = sqlx::query(
        "SELECT webhook, destination, workspace, place, used, cap, state, reason, since, first_used_at, seen_at,
             COALESCE(seen_at >= max(seen_at) OVER (PARTITION BY destination) - make_interval(secs => $1), false)
                 AS is_configured
         FROM claygate.clay_webhooks ORDER BY destination, place, webhook",
    )
    .bind(SEEN_TOGETHER.as_secs_f64())
    .fetch_all(database.pool())
    .await?;
    rows.iter().map(|row| read(row).map_err(DbError::from)).collect()
}

fn read(row: &PgRow) -> Result<Webhook, sqlx::Error> {
    let state: String = row.try_get("state")?;
    Ok(Webhook {
        webhook: row.try_get("webhook")?,
        destination: row.try_get("destination")?,
        workspace: row.try_get("workspace")?,
        place: row.try_get("place")?,
        used: number(row.try_get("used")?),
        cap: row.try_get::<Option<i64>, _>("cap")?.map(number),
        // The CHECK knows the same words; a newer one is certainly not "go on".
        state: WebhookState::from_word(&state).unwrap_or(WebhookState::Paused),
        reason: row.try_get("reason")?,
        since: row.try_get("since")?,
        first_used_at: row.try_get("first_used_at")?,
        seen_at: row.try_get("seen_at")?,
        is_configured: row.try_get("is_configured")?,
    })
}

fn number(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

/// Lets every URL of `destination` be tried again, whatever put it aside. Answers how many were.
///
/// # Errors
/// [`DbError`].
pub async fn revive(database: &Database, destination: &str) -> Result<u64, DbError> {
    let revived = sqlx::query(
        "UPDATE claygate.clay_webhooks SET state = 'active', reason = NULL, since = clock_timestamp()
         WHERE destination = $1 AND state <> 'active'",
    )
    .bind(destination)
    .execute(database.pool())
    .await?;
    Ok(revived.rows_affected())
}

/// Notes for each URL the highest of `steps` (per cent of its cap) that it has reached. Answers those that have reached a
/// higher one than before, with it: each is answered once, whoever asks.
///
/// # Errors
/// [`DbError`].
pub async fn note_fill(database: &Database, steps: &[i16]) -> Result<Vec<(String, String, i16)>, DbError> {
    Ok(sqlx::query_as(
        "WITH reached AS (
             SELECT w.webhook, COALESCE(max(step), 0) AS step
             FROM claygate.clay_webhooks AS w
             LEFT JOIN unnest($1::smallint[]) AS step ON w.used * 100 >= w.cap * step
             GROUP BY w.webhook
         ), noted AS (
             UPDATE claygate.clay_webhooks AS w SET warned = reached.step
             FROM reached, claygate.clay_webhooks AS before
             WHERE w.webhook = reached.webhook AND before.webhook = w.webhook AND w.warned <> reached.step
                 AND before.warned = w.warned
             RETURNING w.webhook, w.destination, w.warned, before.warned AS before
         )
         SELECT webhook, destination, warned FROM noted WHERE warned > before ORDER BY destination, webhook",
    )
    .bind(steps)
    .fetch_all(database.pool())
    .await?)
}

/// A submission that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counting {
    /// The row.
    pub row: RowId,
    /// The callback that a rule makes it of; the row is written then. `None`: it was handed in, and is there.
    pub callback: Option<CallbackId>,
    /// The same row was refused because of the URL it was sent to.
    pub refused: Option<Refused>,
}

/// A URL that refused a row, and every other with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was counted for it, which is taken back.
    pub counted: Counted,
    /// What becomes of the URL.
    pub state: WebhookState,
    /// Why, in words; never the URL or anything of a row.
    pub reason: String,
    /// How long ago the request began. One from before a resume says nothing new.
    pub age: Duration,
}

/// Where a submission was counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counted {
    /// The URL that it goes to.
    pub webhook: String,
    /// The day, in UTC.
    pub day: Date,
}

/// Counts submissions, each under the URL that it is to be made to, in one commit; first puts those aside that refused one.
/// `None` for a row: no URL is left that takes it.
///
/// # Errors
/// [`DbError`]; nothing was counted, unless the connection broke on the way back: that counts too many.
pub async fn count(
    database: &Database,
    pool: &Pool,
    submissions: &[Counting],
) -> Result<Vec<Option<Counted>>, DbError> {
    let mut connection = database.pool().acquire().await?;
    let mut transaction = connection.begin().await?;
    let (day, mut rooms) = lock(&mut transaction, pool).await?;
    let refused: Vec<&Refused> = submissions.iter().filter_map(|one| one.refused.as_ref()).collect();
    if !refused.is_empty() {
        put_aside(&mut transaction, &refused).await?;
        take_back(&mut transaction, &refused.iter().map(|one| &one.counted).collect::<Vec<_>>()).await?;
        rooms = lock(&mut transaction, pool).await?.1;
    }
    let counted: Vec<Option<Counted>> =
        submissions.iter().map(|_| choose(&mut rooms, pool).map(|webhook| Counted { webhook, day })).collect();
    raise(&mut transaction, pool, submissions, &counted).await?;
    transaction.commit().await?;
    Ok(counted)
}

/// What is left of one URL.
#[derive(Clone, Debug)]
struct Room {
    webhook: String,
    used: u64,
    is_active: bool,
}

/// Locks the rows of the destination's URLs and reads them, in the order in which they are used; and the day.
async fn lock(connection: &mut PgConnection, pool: &Pool) -> Result<(Date, Vec<Room>), DbError> {
    let mut rows = lock_known(connection, pool).await?;
    if rows.len() < pool.webhooks.len() {
        register_on(connection, pool).await?;
        rows = lock_known(connection, pool).await?;
    }
    let mut day = None;
    let mut known = BTreeMap::new();
    for row in &rows {
        day = Some(row.try_get("day")?);
        let webhook: String = row.try_get("webhook")?;
        let (used, is_active) = (number(row.try_get("used")?), row.try_get("is_active")?);
        known.insert(webhook.clone(), Room { webhook, used, is_active });
    }
    let day = day.ok_or(DbError::Other(sqlx::Error::RowNotFound))?;
    Ok((day, pool.webhooks.iter().filter_map(|webhook| known.remove(webhook)).collect()))
}

async fn lock_known(connection: &mut PgConnection, pool: &Pool) -> Result<Vec<PgRow>, DbError> {
    Ok(sqlx::query(
        "SELECT webhook, used, state = 'active' AS is_active, (now() AT TIME ZONE 'UTC')::date AS day
         FROM claygate.clay_webhooks WHERE webhook = ANY($1) ORDER BY webhook FOR UPDATE",
    )
    .bind(&pool.webhooks)
    .fetch_all(connection)
    .await?)
}

/// The first URL below the rollover, else the first below the cap; it has one submission more then.
fn choose(rooms: &mut [Room], pool: &Pool) -> Option<String> {
    let below = |limit: Option<u64>| move |room: &Room| room.is_active && limit.is_none_or(|limit| room.used < limit);
    let cap = pool.cap.unwrap_or(u64::MAX);
    let rollover = pool.rollover.map(|rollover| rollover.min(cap)).or(pool.cap);
    let found = rooms.iter().position(below(rollover)).or_else(|| rooms.iter().position(below(pool.cap)))?;
    let room = rooms.get_mut(found)?;
    room.used += 1;
    Some(room.webhook.clone())
}

/// Puts URLs aside, each once, unless an operator has let it go on since its request began.
async fn put_aside(connection: &mut PgConnection, refused: &[&Refused]) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE claygate.clay_webhooks AS w SET state = i.state, reason = i.reason, since = clock_timestamp()
         FROM (
             SELECT DISTINCT ON (webhook) webhook, state, reason, age
             FROM unnest($1::text[], $2::text[], $3::text[], $4::float8[]) AS i (webhook, state, reason, age)
             ORDER BY webhook, age
         ) AS i
         WHERE w.webhook = i.webhook AND w.state = 'active'
             AND w.since <= clock_timestamp() - make_interval(secs => i.age)",
    )
    .bind(refused.iter().map(|one| one.counted.webhook.as_str()).collect::<Vec<_>>())
    .bind(refused.iter().map(|one| one.state.as_str()).collect::<Vec<_>>())
    .bind(refused.iter().map(|one| one.reason.as_str()).collect::<Vec<_>>())
    .bind(refused.iter().map(|one| one.age.as_secs_f64()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes submissions back that were counted and that Clay did not take.
///
/// # Errors
/// [`DbError`]; a surrounding transaction is then lost as a whole. Without one nothing was taken back, unless the connection
/// broke on the way back.
pub async fn take_back(connection: &mut PgConnection, counted: &[&Counted]) -> Result<(), DbError> {
    let (webhooks, days, counts) = per_day(counted.iter().copied());
    sqlx::query(
        "WITH input AS (
             SELECT * FROM unnest($1::text[], $2::date[], $3::bigint[]) AS i (webhook, day, n)
         ), held AS MATERIALIZED (
             SELECT webhook FROM claygate.clay_webhooks WHERE webhook = ANY($1) ORDER BY webhook FOR UPDATE
         ), lowered AS (
             UPDATE claygate.clay_webhooks AS w SET used = GREATEST(w.used - i.n, 0)
             FROM (SELECT webhook, sum(n)::bigint AS n FROM input JOIN held USING (webhook) GROUP BY webhook) AS i
             WHERE w.webhook = i.webhook
         )
         UPDATE claygate.clay_usage AS u SET n = GREATEST(u.n - i.n, 0)
         FROM input AS i WHERE u.webhook = i.webhook AND u.day = i.day",
    )
    .bind(webhooks)
    .bind(days)
    .bind(counts)
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes one submission back that was not made after all.
///
/// # Errors
/// [`DbError`]; it counts one too many then.
pub async fn cancel(database: &Database, counted: &Counted) -> Result<(), DbError> {
    let mut connection = database.pool().acquire().await?;
    take_back(&mut connection, &[counted]).await
}

/// Raises the counts, and writes down under which URL each row goes.
async fn raise(
    connection: &mut PgConnection,
    pool: &Pool,
    submissions: &[Counting],
    counted: &[Option<Counted>],
) -> Result<(), DbError> {
    let mut going: Vec<(&Counting, &Counted)> =
        submissions.iter().zip(counted).filter_map(|(one, counted)| Some((one, counted.as_ref()?))).collect();
    if going.is_empty() {
        return Ok(());
    }
    going.sort_unstable_by_key(|(one, _)| one.row);
    let ids: Vec<Uuid> = going.iter().map(|(one, _)| one.row.0).collect();
    // In the order in which whoever marks rows locks them: an update alone takes them as it finds them.
    sqlx::query("SELECT FROM claygate.rows WHERE id = ANY($1) ORDER BY id FOR UPDATE")
        .bind(&ids)
        .execute(&mut *connection)
        .await?;
    let (webhooks, days, counts) = per_day(going.iter().map(|(_, counted)| *counted));
    sqlx::query(
        "WITH input AS (
             SELECT * FROM unnest($1::text[], $2::date[], $3::bigint[]) AS i (webhook, day, n)
         ), raised AS (
             UPDATE claygate.clay_webhooks AS w
             SET used = w.used + i.n, first_used_at = COALESCE(w.first_used_at, now())
             FROM input AS i WHERE w.webhook = i.webhook
         ), noted AS (
             INSERT INTO claygate.clay_usage AS u (webhook, day, n) SELECT webhook, day, n FROM input
             ON CONFLICT (webhook, day) DO UPDATE SET n = u.n + EXCLUDED.n
         ), rows AS (
             SELECT * FROM unnest($4::uuid[], $5::uuid[], $6::text[]) AS i (id, callback_id, webhook)
         ), handed_in AS (
             UPDATE claygate.rows AS r SET webhook = i.webhook
             FROM rows AS i WHERE r.id = i.id AND i.callback_id IS NULL
         )
         INSERT INTO claygate.rows AS r (id, workspace, destination, callback_id, webhook)
         SELECT id, $7, $8, callback_id, webhook FROM rows WHERE callback_id IS NOT NULL ORDER BY id
         ON CONFLICT (id) DO UPDATE SET webhook = EXCLUDED.webhook",
    )
    .bind(webhooks)
    .bind(days)
    .bind(counts)
    .bind(ids)
    .bind(going.iter().map(|(one, _)| one.callback.map(|id| id.0)).collect::<Vec<Option<Uuid>>>())
    .bind(going.iter().map(|(_, counted)| counted.webhook.as_str()).collect::<Vec<_>>())
    .bind(&pool.workspace)
    .bind(&pool.destination)
    .execute(connection)
    .await?;
    Ok(())
}

/// How many submissions there are per URL and day, sorted, as columns.
fn per_day<'a>(counted: impl Iterator<Item = &'a Counted>) -> (Vec<String>, Vec<Date>, Vec<i64>) {
    let mut counts: BTreeMap<&Counted, i64> = BTreeMap::new();
    counted.for_each(|one| *counts.entry(one).or_default() += 1);
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for (one, n) in counts {
        columns.0.push(one.webhook.clone());
        columns.1.push(one.day);
        columns.2.push(n);
    }
    columns
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn pool(cap: Option<u64>, rollover: Option<u64>) -> Pool {
        Pool { destination: "leads".into(), workspace: "acme".into(), webhooks: Vec::new(), cap, rollover }
    }

    fn rooms(used: &[u64]) -> Vec<Room> {
        let room = |(place, used): (usize, &u64)| Room { webhook: place.to_string(), used: *used, is_active: true };
        used.iter().enumerate().map(room).collect()
    }

    #[test]
    fn urls_are_used_in_order_up_to_the_rollover_and_then_up_to_the_cap() {
        let pool = pool(Some(5), Some(3));
        let mut rooms = rooms(&[1, 0]);
        let mut chosen = Vec::new();
        while let Some(webhook) = choose(&mut rooms, &pool) {
            chosen.push(webhook);
        }
        assert_eq!(chosen.concat(), "001110011");
    }

    #[test]
    fn what_is_put_aside_takes_nothing_and_no_cap_is_no_end() {
        let mut rooms = rooms(&[7, 1 << 40]);
        rooms[0].is_active = false;
        assert_eq!(choose(&mut rooms, &pool(None, None)).as_deref(), Some("1"));
        assert_eq!(choose(&mut rooms, &pool(None, Some(3))).as_deref(), Some("1"));
        rooms[1].is_active = false;
        assert_eq!(choose(&mut rooms, &pool(None, None)), None);
    }
}
