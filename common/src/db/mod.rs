//! All SQL. One file per table or per transaction that has to stay whole; static text; every statement runs in a test.
//!
//! Rows travel as an array per column. Where every callback or delivery passes, they are unnested in the select list, not
//! in FROM, which writes each column down before it is read: four times the cost (ADR 26).
//!
//! [`Database`] is a pool on one configuration; [`ConnectSettings`] turns that configuration into connections.

pub mod attempts;
pub mod books;
pub mod callback_aliases;
pub mod clay_usage;
pub mod clay_webhooks;
mod connect;
pub mod cooldowns;
pub mod dead_letters;
pub mod deliveries;
pub mod destination_state;
pub mod diagnosis;
pub mod events;
mod first_sightings;
pub mod intake;
pub mod leads;
pub mod loop_report;
mod migrate;
pub mod missing_rows;
pub mod outbox;
pub mod outcomes;
pub mod page;
pub mod partitions;
pub mod quarantine;
pub mod rate_limits;
pub mod released;
pub mod replay;
pub mod rescue;
pub mod retention;
pub mod routing;
pub mod row_batches;
pub mod row_intake;
mod row_loop;
pub mod rows;
pub mod rule_sets;
mod subjects;
pub mod sweep;

pub use connect::{ConnectSettings, Database, UrlProblem};
pub use migrate::{Holder, MigrateError, Migrated, binary_version, migrate, schema_fingerprint};
pub use sqlx::postgres::PgSslMode;

/// A database failure, sorted by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The database is away, full, read-only or too slow (SQLSTATE 08, 53, 57, 25006, I/O, time-out): try later.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// A serialisation failure or deadlock (SQLSTATE 40): try the same again at once.
    #[error("the transaction collided with another")]
    Collision(#[source] sqlx::Error),
    /// A row that the database refuses (SQLSTATE 22, 23): the same again fails again.
    #[error("the database refused a row{}", constraint.as_deref().map(|c| format!(" ({c})")).unwrap_or_default())]
    Refused {
        /// The violated constraint, where one is named.
        constraint: Option<String>,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// Anything else: a mistake in this program or its schema.
    #[error("the statement failed")]
    Other(#[source] sqlx::Error),
}

impl DbError {
    /// A statement that took longer than `limit`. It may still be running: its connection must not be used again.
    pub fn timed_out(limit: std::time::Duration) -> Self {
        let error = std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
        Self::Unavailable(sqlx::Error::Io(error))
    }

    /// Whether a row found no partition for its time (23514 without a constraint): [`partitions::ensure`] helps.
    pub fn is_missing_partition(&self) -> bool {
        match self {
            Self::Unavailable(sqlx::Error::Database(error)) => error.code().is_some_and(|code| code == "23514"),
            _ => false,
        }
    }
}

/// 55P03: `lock_timeout` was over.
fn is_lock_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().is_some_and(|code| code == "55P03"))
}

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default().into_owned();
                match code.get(..2).unwrap_or_default() {
                    // 23514 without a constraint: no partition for the row's time, which is ours to make.
                    "23" if code == "23514" && database.constraint().is_none() => Self::Unavailable(error),
                    "08" | "53" | "57" | "58" => Self::Unavailable(error),
                    "25" if code == "25006" => Self::Unavailable(error),
                    "40" => Self::Collision(error),
                    "22" | "23" => {
                        Self::Refused { constraint: database.constraint().map(str::to_owned), source: error }
                    }
                    _ => Self::Other(error),
                }
            }
            _ => Self::Other(error),
        }
    }
}
