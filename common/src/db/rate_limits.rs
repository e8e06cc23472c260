//! `claygate.rate_limits`: rates that hold over all senders, as GCRA on the database's clock.
//!
//! `next_free_at` is when the next request of the scope may go; it lags behind the clock by at most the burst.

use std::time::Duration;

use super::{Database, DbError};
use crate::config::Rate;

/// What a reservation gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reserved {
    /// Requests that may go now, at most as many as were asked for.
    pub granted: u32,
    /// Where none may: how long until the first may.
    pub wait: Duration,
}

/// Reserves up to `want` requests of `scope`. What is reserved counts, whether it is used or not.
///
/// # Errors
/// [`DbError`].
pub async fn reserve(database: &Database, scope: &str, rate: Rate, want: u32) -> Result<Reserved, DbError> {
    let interval = 1.0 / rate.per_second.max(f64::MIN_POSITIVE);
    sqlx::query(
        "INSERT INTO claygate.rate_limits (scope, next_free_at) VALUES ($1, '-infinity') ON CONFLICT DO NOTHING",
    )
    .bind(scope)
    .execute(database.pool())
    .await?;
    let (granted, wait): (i32, f64) = sqlx::query_as(
        "WITH held AS MATERIALIZED (
             SELECT scope, next_free_at, clock_timestamp() AS at FROM claygate.rate_limits WHERE scope = $1 FOR UPDATE
         ), floored AS (
             SELECT scope, at, GREATEST(next_free_at, at - make_interval(secs => $4 * $3)) AS free_at FROM held
         ), granted AS (
             SELECT scope, at, free_at,
                 CASE WHEN free_at > at THEN 0
                      ELSE LEAST($2, floor(EXTRACT(EPOCH FROM at - free_at)::float8 / $3 + 1e-6)::bigint + 1) END AS n
             FROM floored
         )
         UPDATE claygate.rate_limits AS r SET next_free_at = g.free_at + make_interval(secs => g.n * $3)
         FROM granted AS g WHERE r.scope = g.scope
         RETURNING g.n::integer, GREATEST(EXTRACT(EPOCH FROM g.free_at - g.at)::float8, 0)",
    )
    .bind(scope)
    .bind(i64::from(want))
    .bind(interval)
    .bind(f64::from(rate.burst.saturating_sub(1)))
    .fetch_one(database.pool())
    .await?;
    Ok(Reserved {
        granted: u32::try_from(granted).unwrap_or_default(),
        wait: Duration::try_from_secs_f64(wait).unwrap_or_default(),
    })
}
