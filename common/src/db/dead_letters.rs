//! What was given up: deliveries that ended dead, and callbacks that could not be routed. Reads only.

use time::OffsetDateTime;
use uuid::Uuid;

use super::page::{LOOKED_AT_MAX, Looked, Page, Position};
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
    pub before: Option<Position>,
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

/// Reads one page, the latest first. It looks at [`LOOKED_AT_MAX`] deliveries and as many callbacks at most, since no
/// index knows the reason, and dead callbacks may have been routed again.
///
/// # Errors
/// [`DbError`].
pub async fn list(database: &Database, filter: &DeadFilter, limit: u32) -> Result<Page<DeadLetter>, DbError> {
    let statement = if filter.destination.is_some() { LIST_OF_DESTINATION } else { LIST };
    let mut query = sqlx::query(statement)
        .bind(&filter.reason)
        .bind(filter.since)
        .bind(filter.before.map(|(ended_at, _)| ended_at))
        .bind(filter.before.map(|(_, id)| id))
        .bind(i64::from(limit))
        .bind(i64::from(LOOKED_AT_MAX));
    if let Some(destination) = &filter.destination {
        query = query.bind(destination);
    }
    let rows = query.fetch_all(database.pool()).await?;
    let looked: Vec<Looked<DeadLetter>> =
        rows.iter().map(|row| Looked::read(row, "ended_at")).collect::<Result<_, _>>()?;
    Ok(Page::of(looked, limit))
}

/// What a line says, of the deliveries and callbacks of a statement.
macro_rules! lines_of {
    ($($letters:expr),+) => {
        concat!(
            "SELECT page.*, last.status AS last_status, last.error AS last_error
             FROM (SELECT * FROM (",
            $($letters,)+
            ") AS letters ORDER BY ended_at DESC, id DESC LIMIT $5) AS page
             LEFT JOIN LATERAL (
                 SELECT a.status, a.error FROM claygate.attempts AS a
                 WHERE a.delivery_id = page.id ORDER BY a.number DESC LIMIT 1
             ) AS last ON true
             ORDER BY page.ended_at DESC, page.id DESC"
        )
    };
}

/// Dead deliveries; `$whose` says which more.
macro_rules! deliveries {
    ($whose:literal) => {
        concat!(
            "(SELECT 'delivery' AS kind, * FROM (
                 SELECT *, $1::text IS NULL OR reason = $1 AS matches,
                     row_number() OVER (ORDER BY ended_at DESC, id DESC) = $6 AS is_bound
                 FROM (
                     SELECT id, callback_id, destination, reason, ended_at, attempts FROM claygate.deliveries
                     WHERE state = 'dead' AND ended_at >= COALESCE($2::timestamptz, '-infinity') AND (ended_at, id) < (
                         COALESCE($3::timestamptz, 'infinity'),
                         COALESCE($4::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')) ",
            $whose,
            "ORDER BY ended_at DESC, id DESC LIMIT $6
                 ) AS stretch
             ) AS looked_at WHERE matches OR is_bound ORDER BY ended_at DESC, id DESC LIMIT $5)"
        )
    };
}

/// The list's statement, for the test that holds its plan.
// The callback's state is asked one by one: as a join, it could be a scan of all callbacks.
pub const LIST: &str = lines_of!(
    deliveries!(""),
    "UNION ALL
     (SELECT 'callback', id, id, NULL, reason, ended_at, 0, matches, is_bound FROM (
         SELECT *, row_number() OVER (ORDER BY ended_at DESC, id DESC) = $6 AS is_bound,
             ($1::text IS NULL OR reason = $1) AND COALESCE((
                 SELECT c.state = 'dead' FROM claygate.callbacks AS c
                 WHERE c.id = stretch.id AND c.routing = stretch.routing), false) AS matches
         FROM (
             SELECT callback_id AS id, routing, reason, decided_at AS ended_at FROM claygate.decisions
             WHERE outcome = 'dead' AND decided_at >= COALESCE($2::timestamptz, '-infinity')
                 AND (decided_at, callback_id) < (
                     COALESCE($3::timestamptz, 'infinity'), COALESCE($4::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
             ORDER BY decided_at DESC, callback_id DESC LIMIT $6
         ) AS stretch
     ) AS looked_at WHERE matches OR is_bound ORDER BY ended_at DESC, id DESC LIMIT $5)"
);

/// The same for one destination.
pub const LIST_OF_DESTINATION: &str = lines_of!(deliveries!("AND destination = $7 "));
