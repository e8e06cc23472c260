//! What was given up: deliveries that ended dead, and callbacks that could not be routed. Reads only.

use time::OffsetDateTime;
use uuid::Uuid;

use super::{Database, DbError};

/// Which dead letters a list shows; `None` shows all.
#[derive(Clone, Debug, Default)]
pub struct DeadFilter {
    /// A destination's name; callbacks have none.
    pub destination: Option<String>,
    /// A [`crate::states::Reason`] as a word.
    pub reason: Option<String>,
    /// Given up at or after.
    pub since: Option<OffsetDateTime>,
    /// The last one of the page before, with its `ended_at`.
    pub before: Option<(OffsetDateTime, Uuid)>,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, serde::Serialize, sqlx::FromRow)]
pub struct DeadLetter {
    /// `delivery`, or `callback` where it could not be routed.
    pub kind: String,
    /// The delivery's or callback's id: what `dead replay` takes.
    pub id: Uuid,
    /// The callback that it was made of; `None` for a row.
    pub callback_id: Option<Uuid>,
    /// Where it should have gone.
    pub destination: Option<String>,
    /// Why it was given up.
    pub reason: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub ended_at: OffsetDateTime,
    /// How often it was tried.
    pub attempts: i32,
    /// HTTP status of the last attempt that had one.
    pub last_status: Option<i16>,
    /// Error of the last attempt, without personal data.
    pub last_error: Option<String>,
}

/// Reads one page, the latest first.
///
/// # Errors
/// [`DbError`].
pub async fn list(database: &Database, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadLetter>, DbError> {
    Ok(sqlx::query_as(LIST)
        .bind(&filter.destination)
        .bind(&filter.reason)
        .bind(filter.since)
        .bind(filter.before.map(|(ended_at, _)| ended_at))
        .bind(filter.before.map(|(_, id)| id))
        .bind(i64::from(limit))
        .fetch_all(database.pool())
        .await?)
}

/// The list's statement, for the test that holds its plan.
pub const LIST: &str = "
    SELECT page.kind, page.id, page.callback_id, page.destination, page.reason, page.ended_at, page.attempts,
        last.status AS last_status, last.error AS last_error
    FROM (
        (SELECT 'delivery' AS kind, id, callback_id, destination, reason, ended_at, attempts
         FROM claygate.deliveries
         WHERE state = 'dead'
             AND ($1::text IS NULL OR destination = $1) AND ($2::text IS NULL OR reason = $2)
             AND ended_at >= COALESCE($3::timestamptz, '-infinity')
             AND (ended_at, id) < (COALESCE($4::timestamptz, 'infinity'), COALESCE($5::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
         ORDER BY ended_at DESC, id DESC LIMIT $6)
        UNION ALL
        (SELECT 'callback', d.callback_id, d.callback_id, NULL, d.reason, d.decided_at, 0
         FROM claygate.decisions AS d
         JOIN claygate.callbacks AS c ON c.id = d.callback_id AND c.routing = d.routing AND c.state = 'dead'
         WHERE d.outcome = 'dead' AND $1::text IS NULL AND ($2::text IS NULL OR d.reason = $2)
             AND d.decided_at >= COALESCE($3::timestamptz, '-infinity')
             AND (d.decided_at, d.callback_id)
                 < (COALESCE($4::timestamptz, 'infinity'), COALESCE($5::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
         ORDER BY d.decided_at DESC, d.callback_id DESC LIMIT $6)
    ) AS page
    LEFT JOIN LATERAL (
        SELECT a.status, a.error FROM claygate.attempts AS a
        WHERE a.delivery_id = page.id ORDER BY a.number DESC LIMIT 1
    ) AS last ON true
    ORDER BY page.ended_at DESC, page.id DESC LIMIT $6";
