//! `claygate.rows`: records for tables of Clay. Rows that are handed in get their object, their deliveries and the outbox
//! entries of these here, in one transaction; rows that a rule makes of a callback are written by
//! [`super::clay_webhooks`], when they are sent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::cooldowns::{self, Contender};
use super::{Database, DbError};
use crate::ids::{CallbackId, DeliveryId, RowId};
use crate::person::Person;
use crate::queue::{BATCH_MAX, QueueName};
use crate::states::Reason;

/// What a row's key was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RowKeyKind {
    /// The request's `Idempotency-Key`.
    Header,
    /// Configured pointers into the row.
    Pointer,
    /// The whole row.
    Content,
    /// Its place in a file that is sent as a whole.
    Line,
}

impl RowKeyKind {
    /// The word in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Pointer => "pointer",
            Self::Content => "content",
            Self::Line => "line",
        }
    }
}

/// A row that is handed in.
#[derive(Clone, Debug)]
pub struct NewRow {
    /// Its id, which Clay sees as `claygate_id`.
    pub id: RowId,
    /// Its object, as JSON text without NUL, as it is to be sent; `claygate_id` is added on the way out.
    pub body: Vec<u8>,
    /// What makes it the same row again, for one destination.
    pub key: RowKey,
    /// Where in its batch it stands.
    pub line: Option<i64>,
    /// A filter holds it back: it is stored, and its delivery ends at once.
    pub skip: Option<Reason>,
    /// No other row of the same columns within a time; one that has gone before holds it back (`duplicate_row`).
    pub once: Option<RowOnce>,
}

/// A SHA-256 and what it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowKey {
    /// What it was made of.
    pub kind: RowKeyKind,
    /// The hash.
    pub hash: [u8; 32],
}

/// What a row must not have in common with another: the columns of the destination's filter, or the person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowOnce {
    /// Their hash, in the place of the person in `cooldowns`.
    pub columns: Person,
    /// For how long after the earlier one.
    pub within: Duration,
    /// The reason by which it is held back.
    pub reason: Reason,
}

/// Where rows that are handed in go.
#[derive(Clone, Copy, Debug)]
pub struct RowsFor<'a> {
    /// The destination, of kind `clay`.
    pub destination: &'a str,
    /// Its workspace.
    pub workspace: &'a str,
    /// The request or file that they come with (`row_batches`).
    pub batch: Option<Uuid>,
}

/// What became of a row that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenIn {
    /// It is stored and will be sent.
    Accepted,
    /// It is stored and will not be sent.
    Skipped(Reason),
    /// It was there before, as this row; nothing was stored.
    Duplicate(RowId),
}

/// Stores `rows`, each with a delivery, and puts the deliveries that are to be sent into their destination's queue. Answers
/// for each row, in the same order. Of several with one key the first is taken.
///
/// Ring the [`crate::queue::Doorbell`] of the destination's queue after the commit.
///
/// # Errors
/// [`DbError`]; the surrounding transaction is then lost as a whole. [`DbError::Collision`]: the same again at once.
pub async fn take_in(connection: &mut PgConnection, to: RowsFor<'_>, rows: &[NewRow]) -> Result<Vec<TakenIn>, DbError> {
    let firsts = fold(rows);
    let stored = insert_rows(connection, to, &firsts).await?;
    let known = find_known(connection, to.destination, &firsts, &stored).await?;
    let fresh: Vec<(&NewRow, DeliveryId)> =
        rows.iter().filter(|row| stored.contains(&row.id)).map(|row| (row, DeliveryId::new())).collect();
    let blocked = hold_back(connection, to.destination, &fresh).await?;
    insert_deliveries(connection, to.destination, &fresh, &blocked).await?;
    let skipped: HashMap<RowId, Reason> = fresh
        .iter()
        .filter_map(|(row, delivery)| Some((row.id, held_back(row, blocked.contains_key(delivery))?)))
        .collect();
    let answer = |row: &NewRow| match known.get(&row.key.hash) {
        Some(first) if *first != row.id => TakenIn::Duplicate(*first),
        _ => skipped.get(&row.id).map_or(TakenIn::Accepted, |reason| TakenIn::Skipped(*reason)),
    };
    Ok(rows.iter().map(answer).collect())
}

/// The row of a delivery that a rule made: the first delivery of the callback to that destination gives it its id, so that
/// what is sent again is the same row.
///
/// # Errors
/// [`DbError`].
pub async fn id_of(
    database: &Database,
    callback: CallbackId,
    destination: &str,
    delivery: DeliveryId,
) -> Result<RowId, DbError> {
    let first: Option<Uuid> = sqlx::query_scalar(
        "SELECT id FROM claygate.deliveries WHERE callback_id = $1 AND destination = $2 ORDER BY replay LIMIT 1",
    )
    .bind(callback)
    .bind(destination)
    .fetch_optional(database.pool())
    .await?;
    Ok(RowId(first.unwrap_or(delivery.0)))
}

/// Notes that Clay took these rows, once more where it took them before. One that has come back keeps the moment of which it came back.
pub(super) async fn mark_sent(connection: &mut PgConnection, rows: &[RowId]) -> Result<(), DbError> {
    sqlx::query(
        "UPDATE claygate.rows AS r SET times_sent = r.times_sent + 1,
             sent_at = CASE WHEN r.returned_at IS NULL OR r.sent_at IS NULL THEN now() ELSE r.sent_at END
         FROM (SELECT id FROM claygate.rows WHERE id = ANY($1) ORDER BY id FOR UPDATE) AS i
         WHERE r.id = i.id",
    )
    .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// A delivery of a row that was handed in, whose lease was taken.
#[derive(Clone, Debug)]
pub struct LeasedRow {
    /// The delivery.
    pub id: DeliveryId,
    /// The row.
    pub row_id: RowId,
    /// 0 for the first delivery of this row to this destination.
    pub replay: i32,
    /// Attempts so far.
    pub attempts: i32,
    /// Those of them that used up the retry schedule.
    pub failures: i32,
    /// When the row was handed in.
    pub created_at: OffsetDateTime,
    /// Its object, as JSON; `None` when it was removed.
    pub body: Option<Vec<u8>>,
}

/// As [`super::deliveries::lease`], of deliveries of rows that were handed in.
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
) -> Result<Vec<LeasedRow>, DbError> {
    let rows = sqlx::query(
        "WITH due AS MATERIALIZED (
             SELECT id FROM claygate.deliveries
             WHERE id = ANY($1) AND destination = $2 AND callback_id IS NULL AND next_attempt_at <= now()
               AND (lease_until IS NULL OR lease_until < now())
             ORDER BY id FOR UPDATE
         ), leased AS (
             UPDATE claygate.deliveries AS d SET lease_until = now() + make_interval(secs => $4), lease_token = $3
             FROM due WHERE d.id = due.id
             RETURNING d.id, d.row_id, d.replay, d.attempts, d.failures, d.created_at
         )
         SELECT leased.id, leased.row_id, leased.replay, leased.attempts, leased.failures,
             COALESCE(r.created_at, leased.created_at) AS created_at, r.body
         FROM leased LEFT JOIN claygate.rows AS r ON r.id = leased.row_id",
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .bind(destination)
    .bind(token)
    .bind(duration.as_secs_f64())
    .fetch_all(database.pool())
    .await?;
    rows.iter()
        .map(|row| {
            Ok(LeasedRow {
                id: DeliveryId(row.try_get("id")?),
                row_id: RowId(row.try_get("row_id")?),
                replay: row.try_get("replay")?,
                attempts: row.try_get("attempts")?,
                failures: row.try_get("failures")?,
                created_at: row.try_get("created_at")?,
                body: row.try_get("body")?,
            })
        })
        .collect()
}

/// Why a row is not sent, where it is not.
fn held_back(row: &NewRow, blocked: bool) -> Option<Reason> {
    row.skip.or(row.once.filter(|_| blocked).map(|once| once.reason))
}

/// One row per key, the first, sorted by key: two transactions never lock the same keys in different order.
fn fold(rows: &[NewRow]) -> Vec<&NewRow> {
    let mut firsts: BTreeMap<[u8; 32], &NewRow> = BTreeMap::new();
    for row in rows {
        firsts.entry(row.key.hash).or_insert(row);
    }
    firsts.into_values().collect()
}

/// Inserts those whose key is new, and answers them.
async fn insert_rows(
    connection: &mut PgConnection,
    to: RowsFor<'_>,
    firsts: &[&NewRow],
) -> Result<HashSet<RowId>, DbError> {
    let stored: Vec<RowId> = sqlx::query_scalar(
        "INSERT INTO claygate.rows (id, workspace, destination, key, key_kind, body, batch_id, line)
         SELECT id, $1, $2, key, key_kind, body, $3, line
         FROM unnest($4::uuid[], $5::bytea[], $6::text[], $7::bytea[], $8::bigint[])
             AS i (id, key, key_kind, body, line)
         ORDER BY key
         ON CONFLICT (destination, key) WHERE key IS NOT NULL DO NOTHING
         RETURNING id",
    )
    .bind(to.workspace)
    .bind(to.destination)
    .bind(to.batch)
    .bind(firsts.iter().map(|row| row.id.0).collect::<Vec<_>>())
    .bind(firsts.iter().map(|row| row.key.hash.to_vec()).collect::<Vec<_>>())
    .bind(firsts.iter().map(|row| row.key.kind.as_str()).collect::<Vec<_>>())
    .bind(firsts.iter().map(|row| row.body.as_slice()).collect::<Vec<_>>())
    .bind(firsts.iter().map(|row| row.line.filter(|_| to.batch.is_some())).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(stored.into_iter().collect())
}

/// The row behind each key.
async fn find_known(
    connection: &mut PgConnection,
    destination: &str,
    firsts: &[&NewRow],
    stored: &HashSet<RowId>,
) -> Result<HashMap<[u8; 32], RowId>, DbError> {
    let mut known: HashMap<[u8; 32], RowId> =
        firsts.iter().filter(|row| stored.contains(&row.id)).map(|row| (row.key.hash, row.id)).collect();
    let others: Vec<Vec<u8>> =
        firsts.iter().filter(|row| !stored.contains(&row.id)).map(|row| row.key.hash.to_vec()).collect();
    if others.is_empty() {
        return Ok(known);
    }
    let found: Vec<(RowId, Vec<u8>)> =
        sqlx::query_as("SELECT id, key FROM claygate.rows WHERE destination = $1 AND key = ANY($2)")
            .bind(destination)
            .bind(&others)
            .fetch_all(connection)
            .await?;
    known.extend(found.into_iter().filter_map(|(id, key)| Some((key.try_into().ok()?, id))));
    if known.len() < firsts.len() {
        // Removed between the two statements: it is new now.
        return Err(DbError::Collision(sqlx::Error::RowNotFound));
    }
    Ok(known)
}

/// For each delivery that an earlier row of the same columns holds back, the delivery of that one.
async fn hold_back(
    connection: &mut PgConnection,
    destination: &str,
    fresh: &[(&NewRow, DeliveryId)],
) -> Result<HashMap<DeliveryId, DeliveryId>, DbError> {
    let contenders: Vec<Contender> = fresh
        .iter()
        .filter(|(row, _)| row.skip.is_none())
        .filter_map(|(row, delivery)| {
            let once = row.once?;
            Some(Contender {
                delivery: *delivery,
                destination: destination.to_owned(),
                person: once.columns,
                once_per: once.within,
                forced: false,
            })
        })
        .collect();
    cooldowns::take(connection, &contenders).await
}

/// Inserts the deliveries, and outbox entries for those that are to be sent.
async fn insert_deliveries(
    connection: &mut PgConnection,
    destination: &str,
    fresh: &[(&NewRow, DeliveryId)],
    blocked: &HashMap<DeliveryId, DeliveryId>,
) -> Result<(), DbError> {
    let reason =
        |row: &NewRow, delivery: &DeliveryId| held_back(row, blocked.contains_key(delivery)).map(Reason::as_str);
    sqlx::query(
        "WITH input AS (
             SELECT * FROM unnest($2::uuid[], $3::uuid[], $4::bytea[], $5::text[], $6::uuid[])
                 WITH ORDINALITY AS i (id, row_id, columns, reason, blocked_by, place)
         ), made AS (
             INSERT INTO claygate.deliveries (id, row_id, destination, person, state, reason, blocked_by, ended_at,
                 next_attempt_at)
             SELECT id, row_id, $1, columns, CASE WHEN reason IS NULL THEN 'pending' ELSE 'skipped' END, reason,
                 blocked_by, CASE WHEN reason IS NOT NULL THEN now() END, CASE WHEN reason IS NULL THEN now() END
             FROM input
         )
         INSERT INTO claygate.outbox (queue, refs)
         SELECT $7, array_agg(id ORDER BY place) FROM (
             SELECT id, place, (row_number() OVER (ORDER BY place) - 1) / $8 AS chunk FROM input WHERE reason IS NULL
         ) AS numbered GROUP BY chunk ORDER BY chunk",
    )
    .bind(destination)
    .bind(fresh.iter().map(|(_, delivery)| delivery.0).collect::<Vec<_>>())
    .bind(fresh.iter().map(|(row, _)| row.id.0).collect::<Vec<_>>())
    .bind(fresh.iter().map(|(row, _)| row.once.map(|once| once.columns.0.to_vec())).collect::<Vec<_>>())
    .bind(fresh.iter().map(|(row, delivery)| reason(row, delivery)).collect::<Vec<_>>())
    .bind(fresh.iter().map(|(_, delivery)| blocked.get(delivery).map(|id| id.0)).collect::<Vec<_>>())
    .bind(QueueName::deliver(destination).as_str())
    .bind(i64::try_from(BATCH_MAX).unwrap_or(i64::MAX))
    .execute(connection)
    .await?;
    Ok(())
}
