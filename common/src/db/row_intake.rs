//! A group of rows that were handed in becomes durable, and its batch moves on, in one transaction.
//!
//! A batch counts where its rows are stored, and only from the line where it stood: whatever a crash or a second process
//! does, no line is taken or counted twice. What the rows themselves need is in [`super::rows`].

use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::row_batches::{self, Counts, RowBatch};
use super::rows::{self, NewRow, RowKeyKind, RowsFor, TakenIn};
use super::{ConnectSettings, DbError};
use crate::config::Destination;
use crate::ids::RowId;
use crate::states::Reason;

/// Most rows of one call: what one statement's arrays hold with little memory.
pub const GROUP_ROWS_MAX: usize = 1_000;
const COLLISIONS_MAX: u32 = 8;
const COLLISION_PAUSE: Duration = Duration::from_millis(5);

/// How far a batch comes with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it stands.
    pub from_line: u64,
    /// Where it stands once the group is stored: every line before it is durable or refused.
    pub next_line: u64,
    /// Lines of the group that were refused by their reader.
    pub refused: u64,
    /// Nothing comes behind it.
    pub ends: bool,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Stored, and due to be sent.
    Accepted,
    /// Stored, and held back.
    Filtered(Reason),
    /// The same row as an earlier one.
    Duplicate {
        /// That one.
        first: RowId,
    },
    /// The sender's key was used with other data; not stored.
    Conflict {
        /// By that row.
        first: RowId,
    },
}

/// Why a group was not stored.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The database; nothing was stored, except that after [`DbError::Unavailable`] it is not known.
    #[error("the rows could not be stored")]
    Database(#[from] DbError),
    /// The batch does not stand where it was left, or has ended.
    #[error("another process goes on with this batch")]
    Overtaken,
}

impl From<sqlx::Error> for TakeError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// A connection that takes rows in. After an error or a cancelled call drop it: a statement may still be running on it.
#[derive(Debug)]
pub struct RowIntake {
    connection: PgConnection,
}

impl RowIntake {
    /// Connects.
    ///
    /// # Errors
    /// [`DbError::Unavailable`] when the server cannot be reached.
    pub async fn open(settings: &ConnectSettings) -> Result<Self, DbError> {
        Ok(Self { connection: PgConnection::connect_with(&settings.work_options()).await? })
    }

    /// Opens a batch, as [`row_batches::open`].
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn open_batch(
        &mut self,
        destination: &str,
        name: &str,
        digest: Option<&[u8; 32]>,
    ) -> Result<RowBatch, DbError> {
        row_batches::open(&mut self.connection, destination, name, digest).await
    }

    /// Stores `rows` for `destination` and moves `batch` on by `step`. The answer stands in the order of `rows`.
    ///
    /// # Errors
    /// [`TakeError`].
    ///
    /// # Cancel safety
    /// One transaction.
    pub async fn take(
        &mut self,
        destination: &Destination,
        batch: Uuid,
        step: &Step,
        rows: &[NewRow],
    ) -> Result<Vec<Taken>, TakeError> {
        let mut tries = 0;
        loop {
            match self.try_take(destination, batch, step, rows).await {
                Err(TakeError::Database(DbError::Collision(_))) if tries < COLLISIONS_MAX => {
                    tries += 1;
                    tokio::time::sleep(COLLISION_PAUSE * tries).await;
                }
                done => return done,
            }
        }
    }

    async fn try_take(
        &mut self,
        destination: &Destination,
        batch: Uuid,
        step: &Step,
        rows: &[NewRow],
    ) -> Result<Vec<Taken>, TakeError> {
        let to = RowsFor {
            destination: &destination.name,
            workspace: destination.workspace.as_deref().unwrap_or_default(),
            batch: Some(batch),
        };
        let mut transaction = self.connection.begin().await?;
        let taken_in = if rows.is_empty() { Vec::new() } else { rows::take_in(&mut transaction, to, rows).await? };
        let mut taken: Vec<Taken> = taken_in.into_iter().map(Taken::from).collect();
        tell_conflicts(&mut transaction, rows, &mut taken).await?;
        if !row_batches::advance(&mut transaction, batch, step, &Counts::of(&taken, step.refused)).await? {
            return Err(TakeError::Overtaken);
        }
        transaction.commit().await?;
        Ok(taken)
    }

    /// Says goodbye to the server.
    pub async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(error = %error, "a connection was gone before it could be closed");
        }
    }
}

impl From<TakenIn> for Taken {
    fn from(taken: TakenIn) -> Self {
        match taken {
            TakenIn::Accepted => Self::Accepted,
            TakenIn::Skipped(reason) => Self::Filtered(reason),
            TakenIn::Duplicate(first) => Self::Duplicate { first },
        }
    }
}

/// A repeat of a sender's own key is one only with the same data; with other data, a sender that uses one key for
/// everything would lose every row behind the first without a word. What retention has removed counts as the same.
async fn tell_conflicts(connection: &mut PgConnection, rows: &[NewRow], taken: &mut [Taken]) -> Result<(), TakeError> {
    let repeats: Vec<(usize, &NewRow, RowId)> = rows
        .iter()
        .zip(&*taken)
        .enumerate()
        .filter_map(|(at, (row, outcome))| match outcome {
            Taken::Duplicate { first } if row.key.kind == RowKeyKind::Header => Some((at, row, *first)),
            _ => None,
        })
        .collect();
    if repeats.is_empty() {
        return Ok(());
    }
    let changed: Vec<i64> = sqlx::query_scalar(
        "SELECT i.place FROM unnest($1::uuid[], $2::bytea[], $3::bigint[]) AS i (id, body, place)
         JOIN claygate.rows AS r ON r.id = i.id WHERE r.body <> i.body",
    )
    .bind(repeats.iter().map(|(_, _, first)| first.0).collect::<Vec<_>>())
    .bind(repeats.iter().map(|(_, row, _)| row.body.as_slice()).collect::<Vec<_>>())
    .bind(repeats.iter().filter_map(|(at, ..)| i64::try_from(*at).ok()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    for at in changed.into_iter().filter_map(|at| usize::try_from(at).ok()) {
        if let Some(outcome) = taken.get_mut(at)
            && let Taken::Duplicate { first } = *outcome
        {
            *outcome = Taken::Conflict { first };
        }
    }
    Ok(())
}
