//! `claygate.clay_usage`: submissions per webhook URL and day. Written by [`super::clay_webhooks`], beside its counts; read
//! for forecasts.

use time::OffsetDateTime;

use super::{Database, DbError};

/// What one URL took lately.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct Usage {
    /// The URL's name.
    pub webhook: String,
    /// Submissions of the days asked for.
    pub n: i64,
    /// The database's clock.
    pub now: OffsetDateTime,
}

/// Submissions per URL in the last `days` days, today included; URLs without any are left out.
///
/// # Errors
/// [`DbError`].
pub async fn lately(database: &Database, days: i32) -> Result<Vec<Usage>, DbError> {
    Ok(sqlx::query_as(
        "SELECT webhook, sum(n)::bigint AS n, now() AS now FROM claygate.clay_usage
         WHERE day > (now() AT TIME ZONE 'UTC')::date - $1 GROUP BY webhook ORDER BY webhook",
    )
    .bind(days)
    .fetch_all(database.pool())
    .await?)
}
