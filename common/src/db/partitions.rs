//! Weekly partitions, made ahead of time: one for the past, so that spooled callbacks find theirs, and eight to come.
//!
//! A partition is created on its own and then attached, which does not block writers of its siblings.
//! Safe to run from many processes at once and as often as wanted; nothing is ever removed here.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};
use time::{Date, Duration, OffsetDateTime};

use super::{Database, DbError};

/// The partitioned tables and their time columns.
const PARTITIONED: [&str; 2] = ["callback_bodies", "attempts"];
const WEEKS_BEHIND: i64 = 1;
const WEEKS_AHEAD: i64 = 8;

/// Makes the missing partitions around the database's own date.
///
/// # Errors
/// [`DbError`]; the call can be repeated.
pub async fn ensure(connection: &mut PgConnection) -> Result<(), DbError> {
    let now: OffsetDateTime = sqlx::query_scalar("SELECT now()").fetch_one(&mut *connection).await?;
    let first = now - Duration::weeks(WEEKS_BEHIND);
    ensure_between(connection, first, now + Duration::weeks(WEEKS_AHEAD)).await
}

/// [`ensure`] on a connection of the pool.
///
/// # Errors
/// [`DbError`]; the call can be repeated.
pub async fn ensure_now(database: &Database) -> Result<(), DbError> {
    ensure(&mut *database.pool().acquire().await?).await
}

/// Makes the missing partitions from the week of `first` to the week of `last`.
///
/// # Errors
/// [`DbError`]; the call can be repeated.
pub async fn ensure_between(
    connection: &mut PgConnection,
    first: OffsetDateTime,
    last: OffsetDateTime,
) -> Result<(), DbError> {
    for table in PARTITIONED {
        let mut week = monday(first);
        while week <= monday(last) {
            ensure_one(connection, table, week).await?;
            week = week.saturating_add(Duration::weeks(1));
        }
    }
    Ok(())
}

async fn ensure_one(connection: &mut PgConnection, table: &str, week: Date) -> Result<(), DbError> {
    let name = format!("{table}_{}{:02}{:02}", week.year(), week.month() as u8, week.day());
    let exists: Option<String> = sqlx::query_scalar("SELECT to_regclass($1)::text")
        .bind(format!("claygate.{name}"))
        .fetch_one(&mut *connection)
        .await?;
    if exists.is_some() {
        return Ok(());
    }
    let until = week.saturating_add(Duration::weeks(1));
    // The names are made of constants and dates. CREATE fails harmlessly where another process was faster.
    let create = format!(
        "BEGIN; SET LOCAL lock_timeout = '5s'; \
         SELECT pg_advisory_xact_lock(hashtext('claygate.partitions')); \
         CREATE TABLE IF NOT EXISTS claygate.{name} PARTITION OF claygate.{table} \
         FOR VALUES FROM ('{week} 00:00:00+00') TO ('{until} 00:00:00+00'); COMMIT"
    );
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(create))).await;
    if done.is_err() {
        connection.execute("ROLLBACK").await?;
    }
    done?;
    Ok(())
}

fn monday(moment: OffsetDateTime) -> Date {
    let date = moment.to_offset(time::UtcOffset::UTC).date();
    date - Duration::days(i64::from(date.weekday().number_days_from_monday()))
}
