//! The books: what the intake counted, held against the rows that came of it, per source and hour, in one snapshot.
//!
//! Both sides are written independently of each other. The intake counts what it takes in (`claygate.intake_counts`, in
//! the transaction that stores it); a decision keeps what every rule said, under a version of the rules that is kept, so
//! how many deliveries it meant is known without looking at them; a delivery counts its attempts, and every attempt is a
//! row. What is asked here is whether they agree: [`hours`] goes through the callbacks, [`links`] looks for rows that
//! belong to nothing, [`stuck`] for work that nobody will ever do. Reads only.
//!
//! One `REPEATABLE READ` transaction sees one moment, so that work under way never looks like a difference. It holds
//! back vacuum while it lasts, and is therefore bounded: by the window, and by a time limit over all its statements.

mod hours;
mod links;
mod report;
pub mod spools;
mod stuck;

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use time::OffsetDateTime;

use super::{ConnectSettings, DbError, retention};
use crate::retention::What;

pub use hours::JUDGE_HOURS;
pub use links::{MISCOUNTED_DELIVERIES, STRAY_ATTEMPTS, STRAY_DELIVERIES};
pub use report::{Check, Deliveries, Difference, Hour, Report, Totals, Verdict};
pub use spools::Spool;

/// What to look at, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// From the hour of this moment on, as far as retention has left anything.
    pub since: OffsetDateTime,
    /// For all statements together.
    pub limit: Duration,
    /// Rows that one difference names at most.
    pub named_max: u16,
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The limit was over.
    #[error("the books could not be read within {0:?}; look at less (--since), or give it more time (--limit)")]
    TooLong(Duration),
    /// The database failed.
    #[error("the books could not be read")]
    Database(#[source] DbError),
}

/// Reads the books. `progress` is told how many of the callbacks counted in the window have been gone through.
///
/// # Errors
/// [`VerifyError`]; there is no verdict then.
pub async fn verify(
    settings: &ConnectSettings,
    scope: Scope,
    progress: impl FnMut(u64, u64),
) -> Result<Report, VerifyError> {
    let reading = async {
        let mut connection = settings.connect_directly().await?;
        let report = Reader { connection: &mut connection, scope, deadline: Instant::now() + scope.limit };
        let report = report.read(progress).await?;
        connection.close().await?;
        Ok(report)
    };
    // Statements have a limit of their own; this one is for a server that does not answer.
    let read = tokio::time::timeout(scope.limit + Duration::from_secs(5), reading).await;
    match read {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(DbError::Unavailable(error))) if is_cancelled(&error) => Err(VerifyError::TooLong(scope.limit)),
        Ok(Err(error)) => Err(VerifyError::Database(error)),
        Err(_) => Err(VerifyError::TooLong(scope.limit)),
    }
}

/// 57014: `statement_timeout` was over.
fn is_cancelled(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().is_some_and(|code| code == "57014"))
}

/// The snapshot, while it is read.
struct Reader<'a> {
    connection: &'a mut PgConnection,
    scope: Scope,
    deadline: Instant,
}

impl Reader<'_> {
    async fn read(mut self, mut progress: impl FnMut(u64, u64)) -> Result<Report, DbError> {
        // What is read is much or little; the planner has to choose, and compiling a plan never pays.
        self.connection
            .execute(sqlx::raw_sql("SET random_page_cost = 1.1; SET jit = off; SET work_mem = '64MB'"))
            .await?;
        self.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        // What retention has removed was counted, too.
        let kept_since = retention::kept_since(&mut *self.connection, What::Keys).await?;
        let (since, until): (OffsetDateTime, OffsetDateTime) =
            sqlx::query_as("SELECT GREATEST(LEAST(date_trunc('hour', $1::timestamptz), now()), $2), now()")
                .bind(self.scope.since)
                .bind(kept_since)
                .fetch_one(&mut *self.connection)
                .await?;
        let mut report = Report::new(since, until);
        report.spools = spools::all(self.within_limit().await?).await?;
        self.read_hours(&mut report, &mut progress).await?;
        self.read_links(&mut report).await?;
        self.read_stuck(&mut report).await?;
        self.connection.execute("COMMIT").await?;
        report.conclude();
        Ok(report)
    }

    /// The connection, whose next statement has what is left of the limit.
    async fn within_limit(&mut self) -> Result<&mut PgConnection, DbError> {
        let left = self.deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
        let statement = format!("SET LOCAL statement_timeout = {}", i32::try_from(left).unwrap_or(i32::MAX));
        self.connection.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await?;
        Ok(&mut *self.connection)
    }

    fn named_max(&self) -> i64 {
        i64::from(self.scope.named_max)
    }
}
