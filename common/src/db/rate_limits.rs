//! `claygate.rate_limits`: rates that hold over all senders, as GCRA on the database's clock.
//!
//! `next_free_at` is the turn of the next request of the scope; it lags behind the clock by at most the burst, and runs
//! ahead of it by at most what senders reserve ahead. It survives restarts, and so no restart brings a burst.

use std::time::Duration;

use super::{Database, DbError};
use crate::config::Rate;

/// What a reservation gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Reserved {
    /// When the requests that were granted may go, from now on, in order; at most as many as were asked for.
    pub turns: Vec<Duration>,
    /// Where none was granted: how long until one may be.
    pub wait: Duration,
}

/// Reserves up to `want` requests of `scope`, whose turns come within `ahead`. What is reserved counts, whether it is used
/// or not.
///
/// # Errors
/// [`DbError`].
pub async fn reserve(
    database: &Database,
    scope: &str,
    rate: Rate,
    want: u32,
    ahead: Duration,
) -> Result<Reserved, DbError> {
    let (granted, first) = match take(database, scope, rate, want, ahead).await? {
        Some(taken) => taken,
        None => {
            open(database, scope).await?;
            take(database, scope, rate, want, ahead).await?.unwrap_or_default()
        }
    };
    let turn = |n: i32| seconds(first + f64::from(n) * interval(rate));
    Ok(Reserved { turns: (0..granted).map(turn).collect(), wait: seconds(first - ahead.as_secs_f64()) })
}

/// How many were granted, and when the first may go, in seconds from now, below 0 where it might have gone before; `None`:
/// the scope has no row.
async fn take(
    database: &Database,
    scope: &str,
    rate: Rate,
    want: u32,
    ahead: Duration,
) -> Result<Option<(i32, f64)>, DbError> {
    Ok(sqlx::query_as(
        "WITH held AS MATERIALIZED (
             SELECT scope, next_free_at, clock_timestamp() AS at FROM claygate.rate_limits WHERE scope = $1 FOR UPDATE
         ), floored AS (
             SELECT scope, at, GREATEST(next_free_at, at - make_interval(secs => $4 * $3)) AS free_at FROM held
         ), granted AS (
             SELECT scope, at, free_at,
                 CASE WHEN free_at > at + make_interval(secs => $5) THEN 0
                      ELSE LEAST($2, floor(EXTRACT(EPOCH FROM at - free_at)::float8 / $3 + $5 / $3 + 1e-6)::bigint + 1)
                 END AS n
             FROM floored
         )
         UPDATE claygate.rate_limits AS r SET next_free_at = g.free_at + make_interval(secs => g.n * $3)
         FROM granted AS g WHERE r.scope = g.scope
         RETURNING g.n::integer, EXTRACT(EPOCH FROM g.free_at - g.at)::float8",
    )
    .bind(scope)
    .bind(i64::from(want))
    .bind(interval(rate))
    .bind(f64::from(rate.burst.saturating_sub(1)))
    .bind(ahead.as_secs_f64())
    .fetch_optional(database.pool())
    .await?)
}

/// Seconds between two requests.
fn interval(rate: Rate) -> f64 {
    1.0 / rate.per_second.max(f64::MIN_POSITIVE)
}

/// Gives `scope` a row, with its whole burst.
async fn open(database: &Database, scope: &str) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO claygate.rate_limits (scope, next_free_at) VALUES ($1, '-infinity') ON CONFLICT DO NOTHING",
    )
    .bind(scope)
    .execute(database.pool())
    .await?;
    Ok(())
}

/// What lies in the past is now.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// Lets nobody send to `scope` before `wait` is over: its other side said so.
///
/// # Errors
/// [`DbError`].
pub async fn throttle(database: &Database, scope: &str, wait: Duration) -> Result<(), DbError> {
    sqlx::query(
        "INSERT INTO claygate.rate_limits AS known (scope, next_free_at)
         VALUES ($1, clock_timestamp() + make_interval(secs => $2))
         ON CONFLICT (scope) DO UPDATE SET next_free_at = GREATEST(known.next_free_at, EXCLUDED.next_free_at)",
    )
    .bind(scope)
    .bind(wait.as_secs_f64())
    .execute(database.pool())
    .await?;
    Ok(())
}
