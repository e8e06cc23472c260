//! `claygate.spools`: every intake's last word about its spool. What is in a spool was answered and is not in the books
//! yet, so whoever has not been heard of leaves them incomplete.

use std::time::Duration;

use serde::Serialize;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

use crate::db::{Database, DbError};

/// How often an intake speaks.
pub const SPEAK_EVERY: Duration = Duration::from_secs(10);
/// Silence that means something: several words in a row are missing.
const SILENT_AFTER_SECONDS: f64 = 60.0;

/// A spool, as its intake last described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Spool {
    /// Who: the instance of `intake_counts`.
    pub instance: String,
    /// The host it ran on.
    pub host: String,
    /// When it last spoke.
    #[serde(with = "time::serde::rfc3339")]
    pub last_seen_at: OffsetDateTime,
    /// Entries that were not in the database then.
    pub entries: i64,
    /// It said that it stops.
    pub stopped: bool,
    /// It may hold callbacks that nobody else knows of: it fell silent, or it stopped with some left.
    pub silent: bool,
}

/// Says what the spool of `instance` holds; `stopped`: and that nothing more is said until its next start.
///
/// # Errors
/// [`DbError`]; the call can be repeated.
pub async fn speak(
    database: &Database,
    instance: &str,
    host: &str,
    entries: u64,
    stopped: bool,
) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO claygate.spools AS known (instance, host, entries, stopped) VALUES ($1, $2, $3, $4)
         ON CONFLICT (instance) DO UPDATE
         SET host = EXCLUDED.host, entries = EXCLUDED.entries, stopped = EXCLUDED.stopped, last_seen_at = now()",
    )
    .bind(instance)
    .bind(host)
    .bind(i64::try_from(entries).unwrap_or(i64::MAX))
    .bind(stopped)
    .execute(database.pool())
    .await?;
    Ok(())
}

/// Takes note that nothing more will come out of a spool: its disk is gone, or it was emptied by hand. Answers whether
/// it was known.
///
/// # Errors
/// [`DbError`]; nothing was done.
pub async fn forget(database: &Database, instance: &str) -> Result<bool, DbError> {
    let done =
        sqlx::query("DELETE FROM claygate.spools WHERE instance = $1").bind(instance).execute(database.pool()).await?;
    Ok(done.rows_affected() > 0)
}

/// Every spool, the longest silent first.
pub(super) async fn all(connection: &mut PgConnection) -> Result<Vec<Spool>, DbError> {
    Ok(sqlx::query_as(
        "SELECT instance, host, last_seen_at, entries, stopped,
             CASE WHEN stopped THEN entries > 0 ELSE last_seen_at < now() - make_interval(secs => $1) END AS silent
         FROM claygate.spools ORDER BY last_seen_at, instance",
    )
    .bind(SILENT_AFTER_SECONDS)
    .fetch_all(connection)
    .await?)
}
