//! Attempts and raw bodies, which go by the week: detached, so that no statement reaches them any more, then dropped.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use time::{Date, OffsetDateTime};

use super::Remover;
use crate::db::partitions::{self, ATTEMPTS, BODIES};
use crate::db::{DbError, is_lock_timeout, sweep};
use crate::retention::What;

/// A week's table that lies before the cutoff as a whole.
#[derive(Clone, Debug, sqlx::FromRow)]
struct Week {
    /// Its first day.
    monday: Date,
    /// Whether statements still reach it.
    is_attached: bool,
    /// A detachment that was begun and did not come to its end.
    is_pending: bool,
}

/// Every week's table of $1 that is over at $2, also one that a run left detached. First the one whose detachment was begun:
/// a table has one such at most.
const OLD: &str = "
    SELECT monday, i.inhrelid IS NOT NULL AS is_attached, COALESCE(i.inhdetachpending, false) AS is_pending
    FROM (
        SELECT oid, to_date(right(relname, 8), 'YYYYMMDD') AS monday FROM pg_catalog.pg_class
        WHERE relnamespace = 'claygate'::regnamespace AND relkind = 'r' AND relname ~ ('^' || $1 || '_[0-9]{8}$')
    ) AS week
    LEFT JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = week.oid
    WHERE (monday + 7)::timestamp AT TIME ZONE 'UTC' <= $2
    ORDER BY is_pending DESC, monday";

fn table(what: What) -> &'static str {
    if what == What::Attempts { ATTEMPTS } else { BODIES }
}

async fn old(connection: &mut PgConnection, what: What, until: OffsetDateTime) -> Result<Vec<Week>, DbError> {
    Ok(sqlx::query_as(OLD).bind(table(what)).bind(until).fetch_all(connection).await?)
}

/// Weeks that are over.
pub(super) async fn count(connection: &mut PgConnection, what: What, until: OffsetDateTime) -> Result<u64, DbError> {
    Ok(old(connection, what, until).await?.len() as u64)
}

/// What became of a week.
enum Fate {
    Gone,
    /// Something in it waits.
    Needed,
    /// Somebody reads the table just now.
    InUse,
}

impl Remover<'_> {
    pub(super) async fn remove_weeks(&mut self) -> Result<(), DbError> {
        let what = self.done.what;
        let mut weeks = old(self.connection, what, self.done.until).await?.into_iter();
        while let Some(week) = weeks.next().filter(|_| !self.stop.is_cancelled()) {
            match remove(self.connection, what, &week).await? {
                Fate::Gone => self.note(1, 0),
                Fate::Needed => self.note(0, 1),
                // The next one would wait for the same reader.
                Fate::InUse => {
                    self.note(0, 1 + weeks.len() as u64);
                    break;
                }
            }
        }
        Ok(())
    }
}

async fn remove(connection: &mut PgConnection, what: What, week: &Week) -> Result<Fate, DbError> {
    let next = week.monday.saturating_add(time::Duration::WEEK);
    let end = next.midnight().assume_utc();
    if what == What::Bodies && week.is_attached && !week.is_pending && !sweep::has_ended_before(connection, end).await?
    {
        return Ok(Fate::Needed);
    }
    let (table, name) = (table(what), partitions::name(table(what), week.monday));
    if week.is_attached {
        let how = if week.is_pending { "FINALIZE" } else { "CONCURRENTLY" };
        let detach = format!("ALTER TABLE claygate.{table} DETACH PARTITION claygate.{name} {how}");
        match connection.execute(sqlx::raw_sql(AssertSqlSafe(detach))).await {
            Err(error) if is_lock_timeout(&error) => return Ok(Fate::InUse),
            done => done?,
        };
    }
    let mut transaction = connection.begin().await?;
    // Nothing comes into the week any more. What was made to wait before it was detached has pulled the mark back.
    let is_free = what != What::Bodies || sweep::hold_ended_before(&mut transaction, end).await?;
    let last = if is_free {
        format!("DROP TABLE claygate.{name}")
    } else {
        format!(
            "ALTER TABLE claygate.{table} ATTACH PARTITION claygate.{name}
             FOR VALUES FROM ('{} 00:00:00+00') TO ('{next} 00:00:00+00')",
            week.monday
        )
    };
    transaction.execute(sqlx::raw_sql(AssertSqlSafe(last))).await?;
    transaction.commit().await?;
    Ok(if is_free { Fate::Gone } else { Fate::Needed })
}
