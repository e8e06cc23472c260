//! The intake's statements: callbacks with their bodies, outbox entries and counts, each statement a transaction of
//! its own and one round trip.
//!
//! What one call takes, it writes with arrays, whatever their length: the cost of a commit is shared by everything
//! that waited for it. Rows have to come sorted by source and key, or two writers with overlapping keys deadlock.
//! NOTIFY never runs here (it serialises commits over the whole database); the caller rings the
//! [`crate::queue::Doorbell`] afterwards. What a repeat means is decided in the `ingest` crate; what makes two
//! writers agree is the constraint `callbacks_key` alone: a revision is only ever inserted under the number after the
//! one it was compared with.

use std::sync::Arc;

use bytes::Bytes;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection, Executor, FromRow, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{ConnectSettings, DbError, partitions, sweep};
use crate::idempotency::IdempotencyKey;
use crate::ids::{CallbackId, RowId};
use crate::queue::QueueName;
use crate::states::Reason;

/// A callback on its way into the tables.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The id that the sender is answered with.
    pub id: CallbackId,
    /// The source's name.
    pub source: Arc<str>,
    /// What a repeat is recognised by.
    pub key: IdempotencyKey,
    /// SHA-256 of the canonical body: what a change is recognised by.
    pub digest: [u8; 32],
    /// The row that it came back from.
    pub row_id: Option<RowId>,
    /// Kept, but not to be routed.
    pub skip: Option<Reason>,
    /// The raw body, byte for byte.
    pub body: Bytes,
    /// The headers as JSON, secrets redacted.
    pub headers: String,
    /// When a spooled callback was received; `None`: now, on the database's clock.
    pub received_at: Option<OffsetDateTime>,
}

/// One row of [`IntakeConnection::store`].
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The callback.
    pub incoming: &'a Incoming,
    /// 0 for the first sighting of a key, else the number after the revision it was compared with.
    pub revision: i32,
    /// Kept, but not to be routed. Replaces [`Incoming::skip`].
    pub skip: Option<Reason>,
}

/// A row that [`IntakeConnection::store`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub struct Stored {
    /// The callback.
    pub id: CallbackId,
    /// On the database's clock, or the time of the spooled receipt.
    pub received_at: OffsetDateTime,
}

/// The newest revision of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latest {
    /// Its callback.
    pub id: CallbackId,
    /// Its number.
    pub revision: i32,
    /// SHA-256 of its canonical body.
    pub digest: [u8; 32],
    /// When it was received.
    pub received_at: OffsetDateTime,
}

/// What [`IntakeConnection::look_up`] found for one callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The newest revision of its key, if there is one.
    pub latest: Option<Latest>,
    /// A callback of this very id is there: an earlier commit whose answer was lost.
    pub present: bool,
    /// The database's clock.
    pub now: OffsetDateTime,
}

/// Who counts: a row per writer, so that writers never wait for each other.
#[derive(Clone, Debug)]
pub struct Books {
    /// The process, for example its spool's id.
    pub instance: Arc<str>,
    /// The writer's number in it.
    pub writer: i16,
}

/// What the intake counts beside new callbacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// The same key and data as before.
    Duplicate,
    /// A changed body under a key whose source refuses changes.
    Conflict,
    /// Authenticated, but not usable.
    Quarantined,
}

impl Counted {
    /// The word in `claygate.intake_counts.result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::Quarantined => "quarantined",
        }
    }
}

// The conflict names one constraint: looking into the id's index, too, before each row is written would find the same
// rows again, since an id has one key.
const STORE: &str = "
    WITH input AS (
        SELECT unnest($1::uuid[]) AS id, unnest($2::text[]) AS source, unnest($3::bytea[]) AS key,
            unnest($4::text[]) AS key_kind, unnest($5::int[]) AS revision, unnest($6::bytea[]) AS digest,
            unnest($7::uuid[]) AS row_id, unnest($8::text[]) AS skip, unnest($9::timestamptz[]) AS received_at,
            unnest($10::bytea[]) AS body, unnest($11::text[]) AS headers
    ), stored AS (
        INSERT INTO claygate.callbacks
            (id, source, key, key_kind, revision, digest, received_at, spooled, row_id, state, reason)
        SELECT id, source, key, key_kind, revision, digest, LEAST(COALESCE(received_at, now()), now()),
               received_at IS NOT NULL, row_id, CASE WHEN skip IS NULL THEN 'received' ELSE 'skipped' END, skip
        FROM input
        ON CONFLICT ON CONSTRAINT callbacks_key DO NOTHING
        RETURNING id, source, received_at, state
    ), bodies AS (
        INSERT INTO claygate.callback_bodies (callback_id, received_at, body, headers)
        SELECT stored.id, stored.received_at, input.body, input.headers::json FROM stored JOIN input USING (id)
    ), counted AS (
        INSERT INTO claygate.intake_counts AS counts (instance, writer, source, hour, result, n)
        SELECT $12, $13, source, date_trunc('hour', received_at), 'new', count(*)
        FROM stored GROUP BY source, date_trunc('hour', received_at) ORDER BY source, date_trunc('hour', received_at)
        ON CONFLICT ON CONSTRAINT intake_counts_pkey DO UPDATE SET n = counts.n + excluded.n
    ), queued AS (
        INSERT INTO claygate.outbox (queue, refs)
        SELECT $14, array_agg(id)
        FROM (SELECT id, (row_number() OVER () - 1) / 64 AS batch FROM stored WHERE state = 'received') AS numbered
        GROUP BY batch
    )
    SELECT id, received_at FROM stored";

const LOOK_UP: &str = "
    SELECT latest.id, latest.revision, latest.digest, latest.received_at, now(), same.id IS NOT NULL
    FROM (
        SELECT unnest($1::uuid[]) AS id, unnest($2::text[]) AS source, unnest($3::bytea[]) AS key,
            generate_subscripts($1, 1) AS n
    ) AS t
    LEFT JOIN LATERAL (
        SELECT c.id, c.revision, c.digest, c.received_at FROM claygate.callbacks AS c
        WHERE c.source = t.source AND c.key = t.key ORDER BY c.revision DESC LIMIT 1
    ) AS latest ON true
    LEFT JOIN LATERAL (SELECT c.id FROM claygate.callbacks AS c WHERE c.id = t.id LIMIT 1) AS same ON true
    ORDER BY t.n";

const COUNT: &str = "
    INSERT INTO claygate.intake_counts AS counts (instance, writer, source, hour, result, n)
    SELECT $1, $2, source, date_trunc('hour', LEAST(COALESCE(received_at, now()), now())), result, count(*)
    FROM (
        SELECT unnest($3::text[]) AS source, unnest($4::text[]) AS result, unnest($5::timestamptz[]) AS received_at
    ) AS t
    GROUP BY 3, 4, 5 ORDER BY 3, 4, 5
    ON CONFLICT ON CONSTRAINT intake_counts_pkey DO UPDATE SET n = counts.n + excluded.n";

// `= ANY` goes by index; an EXISTS per id is planned as one hash of the whole table.
const PRESENT: &str = "
    SELECT id FROM claygate.callbacks WHERE id = ANY($1)
    UNION SELECT alias_id FROM claygate.callback_aliases WHERE alias_id = ANY($1)
    UNION SELECT id FROM claygate.quarantine WHERE id = ANY($1)";

/// A connection that only the intake uses. Dropping it closes the socket at once: after a time-out it must never be
/// used again, since its statement may still be running.
#[derive(Debug)]
pub struct IntakeConnection {
    pub(super) connection: PgConnection,
}

impl IntakeConnection {
    /// Connects.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] when the server cannot be reached.
    pub async fn open(settings: &ConnectSettings) -> Result<Self, DbError> {
        let mut connection = settings.connect_directly().await?;
        // The planner cannot know how long the arrays are; a nested loop over two of them would be quadratic.
        // What it looks up is found by key: an index is right on any disk, and compiling a plan never pays.
        connection
            .execute(sqlx::raw_sql("SET enable_nestloop = off; SET random_page_cost = 1.1; SET jit = off"))
            .await?;
        Ok(Self { connection })
    }

    /// Whether the intake's tables are there and can be read.
    ///
    /// # Errors
    /// [`DbError`] when they cannot.
    pub async fn probe(&mut self) -> Result<(), DbError> {
        self.connection.execute("SELECT FROM claygate.intake_counts LIMIT 0").await?;
        let read_only: bool = sqlx::query_scalar("SELECT current_setting('transaction_read_only')::bool")
            .fetch_one(&mut self.connection)
            .await?;
        if read_only {
            return Err(DbError::Unavailable(sqlx::Error::Protocol("the server is read-only".to_owned())));
        }
        Ok(())
    }

    /// Writes `candidates`: callbacks, bodies, counts and outbox entries, in one transaction. Those whose key and
    /// revision are taken are left out of the answer, and nothing is written for them.
    ///
    /// `candidates` must be sorted by source and key.
    ///
    /// # Errors
    /// [`DbError::Collision`] also where an id is taken under another key or revision. Nothing is written then, except
    /// that after [`DbError::Unavailable`] it is not known.
    pub async fn store(&mut self, books: &Books, candidates: &[Candidate<'_>]) -> Result<Vec<Stored>, DbError> {
        let columns = Columns::of(candidates);
        let stored = sqlx::query_as(STORE)
            .bind(columns.ids)
            .bind(columns.sources)
            .bind(columns.keys)
            .bind(columns.key_kinds)
            .bind(columns.revisions)
            .bind(columns.digests)
            .bind(columns.row_ids)
            .bind(columns.skips)
            .bind(columns.received_at)
            .bind(columns.bodies)
            .bind(columns.headers)
            .bind(&*books.instance)
            .bind(books.writer)
            .bind(QueueName::callbacks().as_str())
            .fetch_all(&mut self.connection)
            .await;
        stored.map_err(|error| collided(error.into()))
    }

    /// Reads the newest revision of each callback's key, in the order given.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn look_up(&mut self, callbacks: &[&Incoming]) -> Result<Vec<Found>, DbError> {
        let ids: Vec<Uuid> = callbacks.iter().map(|callback| callback.id.0).collect();
        let sources: Vec<&str> = callbacks.iter().map(|callback| &*callback.source).collect();
        let keys: Vec<&[u8]> = callbacks.iter().map(|callback| &callback.key.hash[..]).collect();
        let rows = sqlx::query(LOOK_UP).bind(ids).bind(sources).bind(keys).fetch_all(&mut self.connection).await?;
        rows.iter().map(|row| found(row).map_err(DbError::from)).collect()
    }

    /// Counts what wrote no row of its own: `(source, what, receipt of a spooled one)` each.
    ///
    /// # Errors
    /// [`DbError`]; nothing is counted then.
    pub async fn count(
        &mut self,
        books: &Books,
        counted: &[(&str, Counted, Option<OffsetDateTime>)],
    ) -> Result<(), DbError> {
        let sources: Vec<&str> = counted.iter().map(|(source, ..)| *source).collect();
        let results: Vec<&str> = counted.iter().map(|(_, result, _)| result.as_str()).collect();
        let received_at: Vec<Option<OffsetDateTime>> = counted.iter().map(|(.., received_at)| *received_at).collect();
        sqlx::query(COUNT)
            .bind(&*books.instance)
            .bind(books.writer)
            .bind(sources)
            .bind(results)
            .bind(received_at)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Those of `ids` that are known already, as a callback, an alias or a quarantined body.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn present(&mut self, ids: &[Uuid]) -> Result<Vec<Uuid>, DbError> {
        Ok(sqlx::query_scalar(PRESENT).bind(ids).fetch_all(&mut self.connection).await?)
    }

    /// Makes the partition of the week of `moment`, if it is missing.
    ///
    /// # Errors
    /// [`DbError`]; the call can be repeated.
    pub async fn ensure_partition(&mut self, moment: OffsetDateTime) -> Result<(), DbError> {
        partitions::ensure_between(&mut self.connection, moment, moment).await
    }

    /// Makes the partitions of the weeks around now, where they are missing.
    ///
    /// # Errors
    /// [`DbError`]; the call can be repeated.
    pub async fn ensure_partitions(&mut self) -> Result<(), DbError> {
        partitions::ensure(&mut self.connection).await
    }

    /// Says that callbacks received at `received_at` or later wait, though the sweeper may have read past them: see
    /// [`sweep::pull_mark_back`].
    ///
    /// # Errors
    /// [`DbError`]; the call can be repeated.
    pub async fn pull_mark_back(&mut self, received_at: OffsetDateTime) -> Result<(), DbError> {
        sweep::pull_mark_back(&mut self.connection, received_at).await
    }

    /// Says goodbye to the server.
    pub async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(error = %error, "a connection was gone before it could be closed");
        }
    }
}

/// The same callback is being written by another connection, whose row was seen after the look for its key: the next
/// try finds the key.
fn collided(error: DbError) -> DbError {
    match error {
        DbError::Refused { constraint: Some(name), source } if name == "callbacks_pkey" => DbError::Collision(source),
        other => other,
    }
}

fn found(row: &PgRow) -> Result<Found, sqlx::Error> {
    let id: Option<CallbackId> = row.try_get(0)?;
    let latest = match id {
        Some(id) => {
            Some(Latest { id, revision: row.try_get(1)?, digest: row.try_get(2)?, received_at: row.try_get(3)? })
        }
        None => None,
    };
    Ok(Found { latest, now: row.try_get(4)?, present: row.try_get(5)? })
}

/// The candidates, turned by 90 degrees.
pub(super) struct Columns<'a> {
    pub(super) ids: Vec<Uuid>,
    pub(super) sources: Vec<&'a str>,
    pub(super) keys: Vec<&'a [u8]>,
    pub(super) key_kinds: Vec<&'static str>,
    pub(super) revisions: Vec<i32>,
    pub(super) digests: Vec<&'a [u8]>,
    pub(super) row_ids: Vec<Option<Uuid>>,
    pub(super) skips: Vec<Option<&'static str>>,
    pub(super) received_at: Vec<Option<OffsetDateTime>>,
    pub(super) bodies: Vec<&'a [u8]>,
    pub(super) headers: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(candidates: &[Candidate<'a>]) -> Self {
        fn column<'a, T>(candidates: &[Candidate<'a>], cell: impl Fn(&Candidate<'a>) -> T) -> Vec<T> {
            candidates.iter().map(cell).collect()
        }
        Self {
            ids: column(candidates, |row| row.incoming.id.0),
            sources: column(candidates, |row| &*row.incoming.source),
            keys: column(candidates, |row| &row.incoming.key.hash[..]),
            key_kinds: column(candidates, |row| row.incoming.key.kind.as_str()),
            revisions: column(candidates, |row| row.revision),
            digests: column(candidates, |row| &row.incoming.digest[..]),
            row_ids: column(candidates, |row| row.incoming.row_id.map(|id| id.0)),
            skips: column(candidates, |row| row.skip.map(Reason::as_str)),
            received_at: column(candidates, |row| row.incoming.received_at),
            bodies: column(candidates, |row| &row.incoming.body[..]),
            headers: column(candidates, |row| row.incoming.headers.as_str()),
        }
    }
}
