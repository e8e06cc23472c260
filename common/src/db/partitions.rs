//! Weekly partitions, made ahead of time: one for the past, so that spooled callbacks find theirs, and eight to come.
//!
//! A partition is created on its own and then attached, which does not block writers of its siblings, nor waits for those who
//! read them (`CREATE … PARTITION OF` does both).
//! Safe to run from many processes at once and as often as wanted; [`super::retention`] removes.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};
use time::{Date, Duration, OffsetDateTime};

use super::{Database, DbError};

pub(super) const BODIES: &str = "callback_bodies";
pub(super) const ATTEMPTS: &str = "attempts";
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
    for table in [BODIES, ATTEMPTS] {
        let mut week = monday(first);
        while week <= monday(last) {
            ensure_one(connection, table, week).await?;
            week = week.saturating_add(Duration::weeks(1));
        }
    }
    Ok(())
}

async fn ensure_one(connection: &mut PgConnection, table: &str, week: Date) -> Result<(), DbError> {
    let name = name(table, week);
    let exists: Option<String> = sqlx::query_scalar("SELECT to_regclass($1)::text")
        .bind(format!("claygate.{name}"))
        .fetch_one(&mut *connection)
        .await?;
    if exists.is_some() {
        return Ok(());
    }
    let until = week.saturating_add(Duration::weeks(1));
    let (from, until) = (format!("'{week} 00:00:00+00'"), format!("'{until} 00:00:00+00'"));
    let time = time_column(table);
    // The names are made of constants and dates. What another process made meanwhile is there when the lock is.
    let create = format!(
        "BEGIN; SET LOCAL lock_timeout = '5s'; \
         SELECT pg_advisory_xact_lock(hashtext('claygate.partitions')); \
         DO $$ BEGIN \
             IF NOT EXISTS (SELECT FROM pg_catalog.pg_class \
                 WHERE relnamespace = 'claygate'::regnamespace AND relname = '{name}') THEN \
                 CREATE TABLE claygate.{name} (LIKE claygate.{table} INCLUDING ALL, \
                     CONSTRAINT {name}_week CHECK ({time} >= {from} AND {time} < {until})); \
                 ALTER TABLE claygate.{table} ATTACH PARTITION claygate.{name} FOR VALUES FROM ({from}) TO ({until}); \
                 ALTER TABLE claygate.{name} DROP CONSTRAINT {name}_week; \
             END IF; \
         END $$; COMMIT"
    );
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(create))).await;
    if done.is_err() {
        connection.execute("ROLLBACK").await?;
    }
    done?;
    Ok(())
}

/// The name of a week's partition: `callback_bodies_20300107`, by its Monday.
pub(super) fn name(table: &str, week: Date) -> String {
    format!("{table}_{}{:02}{:02}", week.year(), week.month() as u8, week.day())
}

/// By which `table` is divided.
fn time_column(table: &str) -> &'static str {
    if table == ATTEMPTS { "started_at" } else { "received_at" }
}

fn monday(moment: OffsetDateTime) -> Date {
    let date = moment.to_offset(time::UtcOffset::UTC).date();
    date - Duration::days(i64::from(date.weekday().number_days_from_monday()))
}
