//! The callbacks of the window, in stretches of bounded size: their states against the counts of the intake, their
//! decisions, and the deliveries that these meant.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use uuid::Uuid;

use super::report::{Check, Deliveries, Difference, Report, Totals};
use super::{DbError, Reader};

/// Callbacks of one stretch, about: an hour is never divided.
const STRETCH: i64 = 100_000;

type Hours = BTreeMap<(String, OffsetDateTime), Totals>;

/// Everything about each callback received in [$1, $2), and what is wrong with it.
///
/// How many deliveries a decision meant: the destinations of the rules that matched, in the version of the rules that
/// it names; where retention may have removed the decision, nothing is held to it. What belongs to the callbacks is read between the first and the last of their ids: ids begin with the time
/// of their making, so that is about as much as there are callbacks, where a join alone would read whole tables for every
/// stretch. Only the first routing can be held to it; a replay may meet deliveries that were made before.
macro_rules! judged {
    ($then:literal) => {
        concat!(
            "WITH c AS MATERIALIZED (
                 SELECT id, source, date_trunc('hour', received_at) AS hour, state, reason, routing,
                     received_at >= COALESCE(
                         (SELECT until FROM claygate.retention_marks WHERE what = 'decisions'), '-infinity') AS is_explained
                 FROM claygate.callbacks WHERE received_at >= $1 AND received_at < $2
             ), ends AS MATERIALIZED (
                 SELECT (SELECT id FROM c ORDER BY id LIMIT 1) AS first, (SELECT id FROM c ORDER BY id DESC LIMIT 1) AS last
             ), decided AS MATERIALIZED (
                 SELECT c.id, d.outcome, d.rules_version, d.trace::text AS trace
                 FROM c JOIN claygate.decisions AS d ON d.callback_id = c.id AND d.routing = c.routing
                 WHERE d.callback_id >= (SELECT first FROM ends) AND d.callback_id <= (SELECT last FROM ends)
             ), meant AS MATERIALIZED (
                 SELECT kind.rules_version, kind.trace, (
                     SELECT count(DISTINCT destination)
                     FROM json_array_elements(rule_sets.rules) AS rule,
                         json_array_elements_text(rule -> 'to') AS destination
                     WHERE rule ->> 'name' IN (
                         SELECT said ->> 'rule' FROM json_array_elements(kind.trace::json) AS said
                         WHERE said ->> 'result' = 'matched')
                 ) AS deliveries
                 FROM (SELECT DISTINCT rules_version, trace FROM decided WHERE outcome = 'routed') AS kind
                 JOIN claygate.rule_sets ON rule_sets.version = kind.rules_version
             ), made AS MATERIALIZED (
                 SELECT c.id, count(*) AS n, count(*) FILTER (WHERE d.replay = 0) AS first,
                     count(*) FILTER (WHERE d.state = 'delivered') AS delivered,
                     count(*) FILTER (WHERE d.state = 'skipped') AS skipped,
                     count(*) FILTER (WHERE d.state = 'dead') AS dead,
                     count(*) FILTER (WHERE d.state = 'cancelled') AS cancelled,
                     count(*) FILTER (WHERE d.state = 'pending') AS pending
                 FROM c JOIN claygate.deliveries AS d ON d.callback_id = c.id
                 WHERE d.callback_id >= (SELECT first FROM ends) AND d.callback_id <= (SELECT last FROM ends)
                 GROUP BY c.id
             ), judged AS (
                 SELECT c.id, c.source, c.hour, c.state, made.n, made.delivered, made.skipped, made.dead, made.cancelled,
                     made.pending,
                     c.is_explained AND CASE WHEN c.state = 'skipped'
                             AND c.reason IN ('recorded', 'routine', 'test_event', 'superseded')
                         THEN decided.outcome IS NOT NULL AND decided.outcome <> 'skipped'
                         WHEN c.state = 'received' THEN decided.outcome IS NOT NULL
                         ELSE decided.outcome IS DISTINCT FROM c.state
                     END AS undecided,
                     c.is_explained AND CASE WHEN c.routing = 0
                         THEN COALESCE(made.first, 0) <> COALESCE(meant.deliveries,
                             CASE WHEN decided.outcome = 'routed' THEN GREATEST(made.first, 1) ELSE 0 END)
                         ELSE c.state = 'routed' AND made.n IS NULL
                     END AS misdelivered
                 FROM c LEFT JOIN decided USING (id) LEFT JOIN made USING (id)
                 LEFT JOIN meant ON meant.rules_version = decided.rules_version AND meant.trace = decided.trace
             )",
            $then
        )
    };
}

/// The statement of one stretch, for the test that holds its plan.
pub const JUDGE_HOURS: &str = judged!(
    "SELECT source, hour, count(*) FILTER (WHERE state = 'routed') AS routed,
         count(*) FILTER (WHERE state = 'skipped') AS skipped, count(*) FILTER (WHERE state = 'dead') AS dead,
         count(*) FILTER (WHERE state = 'received') AS in_progress,
         COALESCE(sum(n), 0)::bigint AS deliveries, COALESCE(sum(delivered), 0)::bigint AS delivered,
         COALESCE(sum(judged.skipped), 0)::bigint AS withheld, COALESCE(sum(judged.dead), 0)::bigint AS given_up,
         COALESCE(sum(cancelled), 0)::bigint AS cancelled, COALESCE(sum(pending), 0)::bigint AS pending,
         count(*) FILTER (WHERE undecided) AS undecided, count(*) FILTER (WHERE misdelivered) AS misdelivered
     FROM judged GROUP BY source, hour"
);

const NAME_UNDECIDED: &str =
    judged!("SELECT id FROM judged WHERE undecided AND source = $3 AND hour = $4 ORDER BY id LIMIT $5");

const NAME_MISDELIVERED: &str =
    judged!("SELECT id FROM judged WHERE misdelivered AND source = $3 AND hour = $4 ORDER BY id LIMIT $5");

/// Ids whose bodies came in that hour, and whose callbacks are gone.
const NAME_MISSING: &str = "
    SELECT b.callback_id FROM claygate.callback_bodies AS b
    WHERE b.received_at >= $1 AND b.received_at < $1 + interval '1 hour'
        AND NOT EXISTS (SELECT FROM claygate.callbacks AS c WHERE c.id = b.callback_id)
    ORDER BY b.callback_id LIMIT $2";

/// Callbacks of that hour that came in without a body, as the intake never writes them; nobody where retention has removed
/// the hour's bodies.
const NAME_UNCOUNTED: &str = "
    SELECT c.id FROM claygate.callbacks AS c
    WHERE c.received_at >= $1 AND c.received_at < $1 + interval '1 hour' AND c.source = $3
        AND NOT EXISTS (SELECT FROM claygate.callback_bodies AS b
                        WHERE b.callback_id = c.id AND b.received_at = c.received_at)
        AND EXISTS (SELECT FROM claygate.callback_bodies AS b
                    WHERE b.received_at >= $1 AND b.received_at < $1 + interval '1 hour')
    ORDER BY c.id LIMIT $2";

impl Reader<'_> {
    pub(super) async fn read_hours(
        &mut self,
        report: &mut Report,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<(), DbError> {
        let mut hours = self.counted(report.since).await?;
        let all: i64 = hours.values().map(|totals| totals.new).sum();
        let mut done = 0;
        for (from, to, counted) in stretches(&hours, report.since, report.until) {
            progress(magnitude(done), magnitude(all));
            self.read_stretch(report, &mut hours, from, to).await?;
            done += counted;
        }
        progress(magnitude(all), magnitude(all));
        for ((source, hour), totals) in &hours {
            if totals.new != totals.callbacks() {
                let difference = self.name_uneven(source, *hour, totals).await?;
                report.differences.push(difference);
            }
        }
        report.add_hours(hours);
        Ok(())
    }

    /// What the intake counted.
    async fn counted(&mut self, since: OffsetDateTime) -> Result<Hours, DbError> {
        let rows: Vec<(String, OffsetDateTime, String, i64)> = sqlx::query_as(
            "SELECT source, hour, result, sum(n)::bigint FROM claygate.intake_counts WHERE hour >= $1
             GROUP BY source, hour, result",
        )
        .bind(since)
        .persistent(false)
        .fetch_all(self.within_limit().await?)
        .await?;
        let mut hours = Hours::new();
        for (source, hour, result, n) in rows {
            hours.entry((source, hour)).or_default().count(&result, n);
        }
        Ok(hours)
    }

    async fn read_stretch(
        &mut self,
        report: &mut Report,
        hours: &mut Hours,
        from: OffsetDateTime,
        to: OffsetDateTime,
    ) -> Result<(), DbError> {
        // Not prepared: a plan is made for these very bounds.
        let judged: Vec<Judged> = sqlx::query_as(JUDGE_HOURS)
            .bind(from)
            .bind(to)
            .persistent(false)
            .fetch_all(self.within_limit().await?)
            .await?;
        for one in judged {
            let wrong = [
                (Check::Decisions, NAME_UNDECIDED, one.undecided),
                (Check::Deliveries, NAME_MISDELIVERED, one.misdelivered),
            ];
            for (check, statement, found) in wrong.into_iter().filter(|(.., found)| *found > 0) {
                let ids: Vec<Uuid> = sqlx::query_scalar(statement)
                    .bind(from)
                    .bind(to)
                    .bind(&one.source)
                    .bind(one.hour)
                    .bind(self.named_max())
                    .persistent(false)
                    .fetch_all(self.within_limit().await?)
                    .await?;
                let (source, hour) = (Some(one.source.clone()), Some(one.hour));
                report.differences.push(Difference { check, source, hour, expected: 0, found, ids });
            }
            let totals = hours.entry((one.source, one.hour)).or_default();
            let Totals { received, new, duplicate, conflict, quarantined, .. } = *totals;
            *totals = Totals { received, new, duplicate, conflict, quarantined, ..one.rows };
        }
        Ok(())
    }

    /// Names what is missing, or too much, in an hour whose rows are not as many as were counted.
    async fn name_uneven(
        &mut self,
        source: &str,
        hour: OffsetDateTime,
        totals: &Totals,
    ) -> Result<Difference, DbError> {
        let (expected, found) = (totals.new, totals.callbacks());
        let statement = if found < expected { NAME_MISSING } else { NAME_UNCOUNTED };
        let ids: Vec<Uuid> = sqlx::query_scalar(statement)
            .bind(hour)
            .bind(self.named_max())
            .bind(source)
            .persistent(false)
            .fetch_all(self.within_limit().await?)
            .await?;
        let (source, hour) = (Some(source.to_owned()), Some(hour));
        Ok(Difference { check: Check::Callbacks, source, hour, expected, found, ids })
    }
}

/// One row of [`JUDGE_HOURS`].
struct Judged {
    source: String,
    hour: OffsetDateTime,
    /// Without what the intake counted.
    rows: Totals,
    undecided: i64,
    misdelivered: i64,
}

impl FromRow<'_, PgRow> for Judged {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let deliveries = Deliveries {
            all: row.try_get("deliveries")?,
            delivered: row.try_get("delivered")?,
            skipped: row.try_get("withheld")?,
            dead: row.try_get("given_up")?,
            cancelled: row.try_get("cancelled")?,
            in_progress: row.try_get("pending")?,
        };
        let rows = Totals {
            routed: row.try_get("routed")?,
            skipped: row.try_get("skipped")?,
            dead: row.try_get("dead")?,
            in_progress: row.try_get("in_progress")?,
            deliveries,
            ..Totals::default()
        };
        Ok(Self {
            source: row.try_get("source")?,
            hour: row.try_get("hour")?,
            rows,
            undecided: row.try_get("undecided")?,
            misdelivered: row.try_get("misdelivered")?,
        })
    }
}

/// Divides the window at hours, so that about [`STRETCH`] counted callbacks are in each part; nothing of the window is
/// left out, since what was never counted has to be found, too. With how many were counted in each.
fn stretches(
    hours: &Hours,
    since: OffsetDateTime,
    until: OffsetDateTime,
) -> Vec<(OffsetDateTime, OffsetDateTime, i64)> {
    let mut by_hour: BTreeMap<OffsetDateTime, i64> = BTreeMap::new();
    for ((_, hour), totals) in hours {
        *by_hour.entry(*hour).or_default() += totals.new;
    }
    let mut parts = Vec::new();
    let (mut from, mut counted) = (since, 0);
    for (hour, new) in by_hour {
        if counted > 0 && counted + new > STRETCH && hour > from {
            parts.push((from, hour, counted));
            (from, counted) = (hour, 0);
        }
        counted += new;
    }
    // No row is younger than the snapshot, whose transaction began before it.
    parts.push((from, until + time::Duration::DAY, counted));
    parts
}

fn magnitude(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn stretches_cover_the_window_without_gaps_whatever_was_counted() {
        let since = datetime!(2030-01-01 00:00 UTC);
        let until = datetime!(2030-01-03 00:30 UTC);
        for sizes in [vec![], vec![0; 5], vec![10; 48], vec![STRETCH; 3], vec![STRETCH * 5, 1, STRETCH / 2, STRETCH]] {
            let mut hours = Hours::new();
            for (n, new) in sizes.iter().enumerate() {
                let hour = since + time::Duration::hours(i64::try_from(n).unwrap_or_default());
                for source in ["a", "b"] {
                    hours.entry((source.to_owned(), hour)).or_default().count("new", new / 2);
                }
            }
            let parts = stretches(&hours, since, until);
            assert_eq!(parts.first().map(|part| part.0), Some(since));
            assert!(parts.last().is_some_and(|part| part.1 > until));
            assert!(parts.windows(2).all(|pair| pair[0].1 == pair[1].0 && pair[0].0 < pair[0].1), "{parts:?}");
            let counted: i64 = parts.iter().map(|part| part.2).sum();
            assert_eq!(counted, hours.values().map(|totals| totals.new).sum::<i64>());
            let largest = sizes.iter().copied().max().unwrap_or_default();
            assert!(parts.iter().all(|part| part.2 <= STRETCH.max(largest)), "{parts:?}");
        }
    }
}
