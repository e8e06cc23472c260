//! `claygate.row_batches`: one request of rows, or one file, how far it has come and what became of its rows.

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::row_intake::{Step, Taken};
use super::{Database, DbError};

/// What became of the rows of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Stored and due to be sent.
    pub accepted: u64,
    /// The same as an earlier row.
    pub duplicates: u64,
    /// Stored and held back.
    pub filtered: u64,
    /// Not stored.
    pub refused: u64,
}

impl Counts {
    /// Those of one group, of which `refused` rows got no further than the reader.
    pub fn of(taken: &[Taken], refused: u64) -> Self {
        let mut counts = Self { refused, ..Self::default() };
        for outcome in taken {
            match outcome {
                Taken::Accepted => counts.accepted += 1,
                Taken::Duplicate { .. } => counts.duplicates += 1,
                Taken::Filtered(_) => counts.filtered += 1,
                Taken::Conflict { .. } => counts.refused += 1,
            }
        }
        counts
    }

    /// All rows.
    pub fn rows(&self) -> u64 {
        self.accepted + self.duplicates + self.filtered + self.refused
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.duplicates += other.duplicates;
        self.filtered += other.filtered;
        self.refused += other.refused;
    }
}

/// A batch as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowBatch {
    /// Its id.
    pub id: Uuid,
    /// Lines before it are durable or refused.
    pub next_line: u64,
    /// So far.
    pub counts: Counts,
    /// When its first line was read.
    pub started_at: OffsetDateTime,
    /// When its last line was.
    pub finished_at: Option<OffsetDateTime>,
}

type Columns = (Uuid, i64, i64, i64, i64, i64, OffsetDateTime, Option<OffsetDateTime>);

fn batch((id, next_line, accepted, duplicates, filtered, refused, started_at, finished_at): Columns) -> RowBatch {
    let count = |n: i64| u64::try_from(n).unwrap_or_default();
    RowBatch {
        id,
        next_line: count(next_line),
        counts: Counts {
            accepted: count(accepted),
            duplicates: count(duplicates),
            filtered: count(filtered),
            refused: count(refused),
        },
        started_at,
        finished_at,
    }
}

/// The batch of a file by its digest, if there is one.
///
/// # Errors
/// [`DbError`].
pub async fn find(database: &Database, destination: &str, digest: &[u8; 32]) -> Result<Option<RowBatch>, DbError> {
    let found: Option<Columns> = sqlx::query_as(
        "SELECT id, next_line, accepted, duplicates, filtered, refused, started_at, finished_at
         FROM claygate.row_batches WHERE destination = $1 AND digest = $2",
    )
    .bind(destination)
    .bind(digest.as_slice())
    .fetch_optional(database.pool())
    .await?;
    Ok(found.map(batch))
}

/// Opens a batch at its first line; `digest`: of a file that can be gone on with. The same file twice at once gives the
/// one that was there first.
///
/// # Errors
/// [`DbError`].
pub async fn open(
    connection: &mut PgConnection,
    destination: &str,
    name: &str,
    digest: Option<&[u8; 32]>,
) -> Result<RowBatch, DbError> {
    let opened: Columns = sqlx::query_as(
        "INSERT INTO claygate.row_batches AS known (id, destination, name, digest) VALUES ($1, $2, $3, $4)
         ON CONFLICT (destination, digest) WHERE digest IS NOT NULL DO UPDATE SET next_line = known.next_line
         RETURNING id, next_line, accepted, duplicates, filtered, refused, started_at, finished_at",
    )
    .bind(Uuid::now_v7())
    .bind(destination)
    .bind(name)
    .bind(digest.map(<[u8; 32]>::as_slice))
    .fetch_one(connection)
    .await?;
    Ok(batch(opened))
}

/// Moves a batch on; false: it does not stand where `step` says, or has ended.
pub(super) async fn advance(
    connection: &mut PgConnection,
    batch: Uuid,
    step: &Step,
    counts: &Counts,
) -> Result<bool, DbError> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let done = sqlx::query(
        "UPDATE claygate.row_batches
         SET next_line = $3, accepted = accepted + $4, duplicates = duplicates + $5, filtered = filtered + $6,
             refused = refused + $7, finished_at = CASE WHEN $8 THEN now() END
         WHERE id = $1 AND next_line = $2 AND finished_at IS NULL",
    )
    .bind(batch)
    .bind(number(step.from_line))
    .bind(number(step.next_line))
    .bind(number(counts.accepted))
    .bind(number(counts.duplicates))
    .bind(number(counts.filtered))
    .bind(number(counts.refused))
    .bind(step.ends)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// How many rows of a batch were held back, by reason, as they stand now.
///
/// # Errors
/// [`DbError`].
pub async fn held_back(database: &Database, batch: Uuid) -> Result<Vec<(String, i64)>, DbError> {
    Ok(sqlx::query_as(
        "SELECT d.reason, count(*) FROM claygate.rows AS r JOIN claygate.deliveries AS d ON d.row_id = r.id
         WHERE r.batch_id = $1 AND d.replay = 0 AND d.state = 'skipped'
         GROUP BY d.reason ORDER BY count(*) DESC, d.reason",
    )
    .bind(batch)
    .fetch_all(database.pool())
    .await?)
}

/// How many rows of a batch are where: by the state of their latest delivery.
///
/// # Errors
/// [`DbError`].
pub async fn states(database: &Database, batch: Uuid) -> Result<Vec<(String, i64)>, DbError> {
    Ok(sqlx::query_as(
        "SELECT latest.state, count(*)
         FROM claygate.rows AS r
         CROSS JOIN LATERAL (
             SELECT d.state FROM claygate.deliveries AS d
             WHERE d.row_id = r.id AND d.destination = r.destination ORDER BY d.replay DESC LIMIT 1
         ) AS latest
         WHERE r.batch_id = $1 GROUP BY latest.state ORDER BY latest.state",
    )
    .bind(batch)
    .fetch_all(database.pool())
    .await?)
}

/// Whether anything at all is still to be sent or routed.
///
/// # Errors
/// [`DbError`].
pub async fn is_any_open(database: &Database) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM claygate.deliveries WHERE state = 'pending')
             OR EXISTS (SELECT FROM claygate.outbox WHERE queue = 'callbacks')",
    )
    .fetch_one(database.pool())
    .await?)
}

/// Whether rows of a batch still wait to be sent: the first that is found suffices.
///
/// # Errors
/// [`DbError`].
pub async fn is_pending(database: &Database, batch: Uuid) -> Result<bool, DbError> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT FROM claygate.rows AS r JOIN claygate.deliveries AS d ON d.row_id = r.id
             WHERE r.batch_id = $1 AND d.state = 'pending')",
    )
    .bind(batch)
    .fetch_one(database.pool())
    .await?)
}
