//! `claygate.quarantine`: authenticated input that could not be taken as a callback. Identical bytes are kept once.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::FromRow;
use time::OffsetDateTime;

use super::intake::{Books, Counted, IntakeConnection};
use super::page::{LOOKED_AT_MAX, Looked, Page, Position};
use super::{Database, DbError};
use crate::ids::CallbackId;

/// Why something is in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Problem {
    /// Not a usable JSON object.
    Malformed,
    /// A changed body under a key whose source refuses changes.
    Conflict,
    /// Postgres refused the row.
    Refused,
}

impl Problem {
    /// The word in `claygate.quarantine.problem`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Conflict => "conflict",
            Self::Refused => "refused",
        }
    }

    /// The problem of a word, if it is one.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Malformed, Self::Conflict, Self::Refused].into_iter().find(|problem| problem.as_str() == word)
    }

    /// What the intake counts it as.
    pub const fn counted(self) -> Counted {
        match self {
            Self::Conflict => Counted::Conflict,
            Self::Malformed | Self::Refused => Counted::Quarantined,
        }
    }
}

/// Something on its way into quarantine.
#[derive(Clone, Debug)]
pub struct Unusable {
    /// Its id, unless identical bytes are there already.
    pub id: CallbackId,
    /// The source's name.
    pub source: Arc<str>,
    /// Why.
    pub problem: Problem,
    /// Where and what, without any of the body's own text.
    pub detail: String,
    /// SHA-256 of the raw body.
    pub digest: [u8; 32],
    /// The raw body, byte for byte.
    pub body: Bytes,
    /// The headers as JSON, secrets redacted.
    pub headers: String,
    /// When a spooled one was received; `None`: now, on the database's clock.
    pub received_at: Option<OffsetDateTime>,
}

/// A quarantined body, for the one who repairs it.
#[derive(Clone, Debug, FromRow)]
pub struct Quarantined {
    /// Its id.
    pub id: CallbackId,
    /// The source's name.
    pub source: String,
    /// Why it is there (a [`Problem`]'s word).
    pub problem: String,
    /// Where and what.
    pub detail: String,
    /// The raw body.
    pub body: Vec<u8>,
    /// The headers as JSON text, secrets redacted.
    pub headers: String,
    /// First receipt.
    pub received_at: OffsetDateTime,
    /// How often the same bytes came.
    pub seen: i64,
    /// The callback that it was released as.
    pub callback_id: Option<CallbackId>,
}

const PUT: &str = "
    WITH input AS (
        SELECT id, source, problem, detail, digest, body, headers, result,
               LEAST(COALESCE(received_at, now()), now()) AS received_at
        FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[], $9::text[], $10::text[],
                    $11::timestamptz[])
            AS t(id, source, problem, detail, digest, body, headers, result, received_at)
    ), counted AS (
        INSERT INTO claygate.intake_counts AS counts (instance, writer, source, hour, result, n)
        SELECT $1, $2, source, date_trunc('hour', received_at), result, count(*)
        FROM input GROUP BY 3, 4, 5 ORDER BY 3, 4, 5
        ON CONFLICT ON CONSTRAINT intake_counts_pkey DO UPDATE SET n = counts.n + excluded.n
    ), folded AS (
        SELECT DISTINCT ON (source, problem, digest) id, source, problem, detail, digest, body, headers,
               min(received_at) OVER same AS received_at, max(received_at) OVER same AS last_seen_at,
               count(*) OVER same AS seen
        FROM input WINDOW same AS (PARTITION BY source, problem, digest)
        ORDER BY source, problem, digest, received_at, id
    )
    INSERT INTO claygate.quarantine AS kept
        (id, source, problem, detail, digest, body, headers, received_at, last_seen_at, seen)
    SELECT id, source, problem, detail, digest, body, headers::json, received_at, last_seen_at, seen FROM folded
    ON CONFLICT ON CONSTRAINT quarantine_once DO UPDATE SET
        seen = kept.seen + excluded.seen,
        received_at = LEAST(kept.received_at, excluded.received_at),
        last_seen_at = GREATEST(kept.last_seen_at, excluded.last_seen_at)
    RETURNING id, source, problem, digest, now()";

/// Puts `unusable` into quarantine and counts it. Answers, in the order given, under which id each is kept, and the
/// database's clock.
///
/// # Errors
/// [`DbError`]; nothing is written then.
pub async fn put(
    connection: &mut IntakeConnection,
    books: &Books,
    unusable: &[&Unusable],
) -> Result<Vec<(CallbackId, OffsetDateTime)>, DbError> {
    fn column<'a, T>(unusable: &[&'a Unusable], cell: impl Fn(&'a Unusable) -> T) -> Vec<T> {
        unusable.iter().map(|row| cell(row)).collect()
    }
    let kept: Vec<(CallbackId, String, String, [u8; 32], OffsetDateTime)> = sqlx::query_as(PUT)
        .bind(&*books.instance)
        .bind(books.writer)
        .bind(column(unusable, |row| row.id.0))
        .bind(column(unusable, |row| &*row.source))
        .bind(column(unusable, |row| row.problem.as_str()))
        .bind(column(unusable, |row| row.detail.as_str()))
        .bind(column(unusable, |row| &row.digest[..]))
        .bind(column(unusable, |row| &row.body[..]))
        .bind(column(unusable, |row| row.headers.as_str()))
        .bind(column(unusable, |row| row.problem.counted().as_str()))
        .bind(column(unusable, |row| row.received_at))
        .fetch_all(&mut connection.connection)
        .await?;
    let id_of = |row: &&Unusable| {
        kept.iter()
            .find(|(_, source, problem, digest, _)| {
                *digest == row.digest && **source == *row.source && problem == row.problem.as_str()
            })
            .map_or((row.id, OffsetDateTime::UNIX_EPOCH), |(id, .., now)| (*id, *now))
    };
    Ok(unusable.iter().map(id_of).collect())
}

/// Reads one quarantined body.
///
/// # Errors
/// [`DbError`].
pub async fn load(database: &Database, id: CallbackId) -> Result<Option<Quarantined>, DbError> {
    let found = sqlx::query_as(
        "SELECT id, source, problem, detail, body, headers::text, received_at, seen, callback_id \
         FROM claygate.quarantine WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(database.pool())
    .await?;
    Ok(found)
}

/// Remembers as which callback a quarantined body was released.
///
/// # Errors
/// [`DbError`]; the call can be repeated.
pub async fn mark_released(database: &Database, id: CallbackId, callback_id: CallbackId) -> Result<(), DbError> {
    sqlx::query("UPDATE claygate.quarantine SET callback_id = $2 WHERE id = $1")
        .bind(id)
        .bind(callback_id)
        .execute(database.pool())
        .await?;
    Ok(())
}

/// One line of a list of quarantined bodies.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, FromRow)]
pub struct Held {
    /// Its id.
    pub id: CallbackId,
    /// The source's name.
    pub source: String,
    /// Why it is there (a [`Problem`]'s word).
    pub problem: String,
    /// Where and what.
    pub detail: String,
    /// First receipt.
    #[serde(with = "time::serde::rfc3339")]
    pub received_at: OffsetDateTime,
    /// How often the same bytes came.
    pub seen: i64,
    /// The callback that it was released as.
    pub callback_id: Option<CallbackId>,
}

/// Reads one page of what is in quarantine, newest first; `None` for `source` shows all. `before` is the last one of the
/// page before; the answer is `None` where it is not there (any more). It looks at [`LOOKED_AT_MAX`] bodies at most.
///
/// # Errors
/// [`DbError`].
pub async fn list(
    database: &Database,
    source: Option<&str>,
    since: Option<OffsetDateTime>,
    before: Option<CallbackId>,
    limit: u32,
) -> Result<Option<Page<Held>>, DbError> {
    let before: Option<Position> = match before {
        Some(id) => {
            let found = sqlx::query_as("SELECT received_at, id FROM claygate.quarantine WHERE id = $1")
                .bind(id)
                .fetch_optional(database.pool())
                .await?;
            let Some(position) = found else { return Ok(None) };
            Some(position)
        }
        None => None,
    };
    let rows = sqlx::query(LIST)
        .bind(source)
        .bind(since)
        .bind(before.map(|(at, _)| at))
        .bind(before.map(|(_, id)| id))
        .bind(i64::from(limit))
        .bind(i64::from(LOOKED_AT_MAX))
        .fetch_all(database.pool())
        .await?;
    let looked: Vec<Looked<Held>> =
        rows.iter().map(|row| Looked::read(row, "received_at")).collect::<Result<_, _>>()?;
    Ok(Some(Page::of(looked, limit)))
}

/// The list's statement, for the test that holds its plan.
pub const LIST: &str = "
    SELECT * FROM (
        SELECT *, $1::text IS NULL OR source = $1 AS matches,
            row_number() OVER (ORDER BY received_at DESC, id DESC) = $6 AS is_bound
        FROM (
            SELECT id, source, problem, detail, received_at, seen, callback_id FROM claygate.quarantine
            WHERE received_at >= COALESCE($2::timestamptz, '-infinity') AND (received_at, id) < (
                COALESCE($3::timestamptz, 'infinity'), COALESCE($4::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
            ORDER BY received_at DESC, id DESC LIMIT $6
        ) AS stretch
    ) AS looked_at
    WHERE matches OR is_bound ORDER BY received_at DESC, id DESC LIMIT $5";
