//! How many of the rows that went into tables of Clay came back, after how long, and with what. Reads only.
//!
//! A row counts once, however often it was sent: what is sent again keeps its row. Each statement reads one destination's
//! rows from one moment on, in an index that has all it asks for. What would grow with the leads reads the latest
//! [`LEADS_MAX`] of them; what is asked all the time ([`count_open`]) reads [`OPEN_MAX`] rows at most.

use std::time::Duration;

use sqlx::Row;
use time::OffsetDateTime;

use super::{Database, DbError};

/// Returned leads whose fields are counted, at most.
pub const LEADS_MAX: i64 = 10_000;
/// Fields that are counted, at most: a lead may name as many as its sender likes.
const FIELDS_MAX: i64 = 100;
/// Upper ends of the times to return that are counted together, in seconds; one more group is open.
pub const BUCKETS: [f64; 6] = [60.0, 300.0, 900.0, 3_600.0, 21_600.0, 86_400.0];
/// How long [`count_open`] still counts a row that is overdue.
pub const OVERDUE_FOR: Duration = Duration::from_secs(86_400);
/// The most that [`count_open`] counts.
pub const OPEN_MAX: i64 = 100_000;

/// The rows of one destination that were sent since a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Loop {
    /// Rows that Clay took.
    pub sent: u64,
    /// How often it took them: more than there are, where rows were sent again.
    pub submissions: u64,
    /// Those that came back.
    pub returned: u64,
    /// Those that did not, and should have by now; `None`: nothing is expected back.
    pub overdue: Option<u64>,
    /// How long the way took; `None`: nothing came back.
    pub seconds: Option<Seconds>,
    /// How many came back within each of [`BUCKETS`] and not within the one before; the last number is of those that took
    /// longer than all of them.
    pub histogram: Vec<u64>,
    /// What is in the leads that came back.
    pub fields: Fields,
}

/// Times to return, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seconds {
    /// Half of the rows took no longer.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// All of them.
    pub max: f64,
}

/// The fields of the leads that came back, each row's first one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields {
    /// Leads that were looked at: the latest, at most [`LEADS_MAX`].
    pub leads: u64,
    /// Each field and how many of these leads have a value in it, the fullest first; at most a hundred fields.
    pub filled: Vec<(String, u64)>,
}

/// Rows that Clay took lately and that have not come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// All of them.
    pub outstanding: u64,
    /// Those that should be back.
    pub overdue: u64,
}

/// The database's clock.
///
/// # Errors
/// [`DbError`].
pub async fn now(database: &Database) -> Result<OffsetDateTime, DbError> {
    Ok(sqlx::query_scalar("SELECT now()").fetch_one(database.pool()).await?)
}

/// Reads what was sent to `destination` since `since`; what was sent until `due_until` should be back.
///
/// # Errors
/// [`DbError`].
pub async fn read(
    database: &Database,
    destination: &str,
    since: OffsetDateTime,
    due_until: Option<OffsetDateTime>,
) -> Result<Loop, DbError> {
    let row = sqlx::query(COUNTS)
        .bind(destination)
        .bind(since)
        .bind(due_until)
        .bind(BUCKETS.as_slice())
        .fetch_one(database.pool())
        .await?;
    let within: Vec<i64> = row.try_get("within")?;
    let returned = count(row.try_get("returned")?);
    let seconds: Option<Vec<Option<f64>>> = row.try_get("seconds")?;
    Ok(Loop {
        sent: count(row.try_get("sent")?),
        submissions: count(row.try_get("submissions")?),
        returned,
        overdue: if due_until.is_some() { Some(count(row.try_get("overdue")?)) } else { None },
        seconds: match seconds.as_deref() {
            Some([Some(p50), Some(p90), Some(max)]) => Some(Seconds { p50: *p50, p90: *p90, max: *max }),
            _ => None,
        },
        histogram: apart(within.into_iter().map(count).chain([returned])),
        fields: read_fields(database, destination, since).await?,
    })
}

async fn read_fields(database: &Database, destination: &str, since: OffsetDateTime) -> Result<Fields, DbError> {
    let found: Vec<(Option<String>, i64)> = sqlx::query_as(FIELDS)
        .bind(destination)
        .bind(since)
        .bind(LEADS_MAX)
        .bind(FIELDS_MAX)
        .fetch_all(database.pool())
        .await?;
    let mut fields = Fields::default();
    for (name, n) in found {
        match name {
            Some(name) => fields.filled.push((name, count(n))),
            None => fields.leads = count(n),
        }
    }
    Ok(fields)
}

/// Counts the rows of `destination` that may still come back, and those of them that are overdue: sent within `within`
/// and [`OVERDUE_FOR`]. Older ones are not waited for. Neither number is above [`OPEN_MAX`], so that the cost is the same
/// whatever the table holds.
///
/// # Errors
/// [`DbError`].
pub async fn count_open(database: &Database, destination: &str, within: Duration) -> Result<Open, DbError> {
    let (outstanding, overdue): (i64, i64) = sqlx::query_as(OPEN)
        .bind(destination)
        .bind(within.as_secs_f64())
        .bind(OVERDUE_FOR.as_secs_f64())
        .bind(OPEN_MAX)
        .fetch_one(database.pool())
        .await?;
    Ok(Open { outstanding: count(outstanding), overdue: count(overdue) })
}

fn count(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

/// Numbers that each contain the one before, as what each has more.
fn apart(within: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut before = 0;
    within.map(|n| n.saturating_sub(std::mem::replace(&mut before, n))).collect()
}

/// The statement of the counts, for the test that holds its plan. A callback may be received before the answer of its row
/// is recorded: its row took no time.
pub const COUNTS: &str = "
    SELECT count(*) AS sent, COALESCE(sum(GREATEST(times_sent, 1)), 0)::bigint AS submissions,
        count(returned_at) AS returned,
        count(*) FILTER (WHERE returned_at IS NULL AND sent_at <= $3::timestamptz) AS overdue,
        percentile_disc(ARRAY[0.5, 0.9, 1]) WITHIN GROUP (ORDER BY seconds) AS seconds,
        ARRAY[count(*) FILTER (WHERE seconds <= ($4::float8[])[1]), count(*) FILTER (WHERE seconds <= ($4::float8[])[2]),
            count(*) FILTER (WHERE seconds <= ($4::float8[])[3]), count(*) FILTER (WHERE seconds <= ($4::float8[])[4]),
            count(*) FILTER (WHERE seconds <= ($4::float8[])[5]), count(*) FILTER (WHERE seconds <= ($4::float8[])[6])
        ] AS within
    FROM (
        SELECT sent_at, returned_at, times_sent,
            GREATEST(extract(epoch FROM returned_at - sent_at)::float8, CASE WHEN returned_at IS NOT NULL THEN 0 END) AS seconds
        FROM claygate.rows WHERE destination = $1 AND sent_at IS NOT NULL AND sent_at >= $2::timestamptz
    ) AS sent";

/// The statement of the fields, for the test that holds its plan. The line without a name counts the leads.
pub const FIELDS: &str = "
    SELECT field, count(*) FROM (
        SELECT returned_by FROM claygate.rows
        WHERE destination = $1 AND sent_at IS NOT NULL AND sent_at >= $2::timestamptz AND returned_by IS NOT NULL
        ORDER BY sent_at DESC, id DESC LIMIT $3::bigint
    ) AS back
    JOIN claygate.leads AS l ON l.callback_id = back.returned_by
    CROSS JOIN LATERAL (
        SELECT NULL AS field
        UNION ALL
        SELECT key FROM jsonb_each(l.extra || jsonb_build_object('email', l.email, 'first_name', l.first_name,
            'last_name', l.last_name, 'company_name', l.company_name, 'job_title', l.job_title,
            'employee_count', l.employee_count, 'industry', l.industry, 'linkedin_url', l.linkedin_url,
            'icp_score', l.icp_score, 'personalized_opener', l.personalized_opener))
        WHERE value NOT IN ('null', '\"\"', '[]', '{}') AND key <> 'claygate_id'
    ) AS filled
    GROUP BY field ORDER BY field IS NOT NULL, count(*) DESC, field LIMIT $4::bigint + 1";

/// The statement of [`count_open`], for the test that holds its plan.
pub const OPEN: &str = "
    SELECT
        (SELECT count(*) FROM (
            SELECT FROM claygate.rows
            WHERE destination = $1 AND sent_at IS NOT NULL AND returned_at IS NULL
                AND sent_at > now() - make_interval(secs => $2::float8 + $3::float8)
            LIMIT $4::bigint) AS outstanding),
        (SELECT count(*) FROM (
            SELECT FROM claygate.rows
            WHERE destination = $1 AND sent_at IS NOT NULL AND returned_at IS NULL
                AND sent_at > now() - make_interval(secs => $2::float8 + $3::float8)
                AND sent_at <= now() - make_interval(secs => $2::float8)
            LIMIT $4::bigint) AS overdue)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_contains_the_one_before_is_taken_apart() {
        assert_eq!(apart([0, 2, 2, 7].into_iter()), [0, 2, 0, 5]);
    }
}
