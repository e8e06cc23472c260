//! Rows that belong to nothing, or to each other in the wrong number: attempts, deliveries, rows, the quarantine.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use uuid::Uuid;

use super::report::{Check, Difference, Report};
use super::{DbError, Reader};
use crate::ids::first_id_of;

/// How far a process's clock may be behind the database's before its new deliveries are overlooked here. Ids begin with
/// their maker's clock: they bound what is read, the database's own time decides.
const CLOCK_SLACK: time::Duration = time::Duration::DAY;

/// Deliveries made since $1 (ids from $2 on) whose attempts are not as many as they counted, or whose state is not what
/// the attempts say. An attempt begins after its delivery was made, but for a step of the database's clock.
pub const MISCOUNTED_DELIVERIES: &str = "
    WITH wrong AS (
        SELECT d.id, COALESCE(tried.n, 0) <> d.attempts AS miscounted,
            COALESCE(tried.taken, false) <> (d.state = 'delivered') AS misjudged
        FROM claygate.deliveries AS d
        LEFT JOIN (
            SELECT delivery_id, count(*) AS n, bool_or(owned AND class = 'delivered') AS taken
            FROM claygate.attempts WHERE started_at >= $1 - interval '1 hour' GROUP BY delivery_id
        ) AS tried ON tried.delivery_id = d.id
        WHERE d.id >= $2 AND d.created_at >= $1
            AND (COALESCE(tried.n, 0) <> d.attempts OR COALESCE(tried.taken, false) <> (d.state = 'delivered'))
    ), numbered AS (
        SELECT check_name, id, count(*) OVER of_check AS n, row_number() OVER (of_check ORDER BY id) AS place
        FROM (
            SELECT 'attempts' AS check_name, id FROM wrong WHERE miscounted
            UNION ALL
            SELECT 'outcomes', id FROM wrong WHERE NOT miscounted
        ) AS each WINDOW of_check AS (PARTITION BY check_name)
    )
    SELECT check_name, id, n FROM numbered WHERE place <= $3 ORDER BY check_name, id";

/// Deliveries that attempts since $1 name, and that are not there.
pub const STRAY_ATTEMPTS: &str = "
    SELECT a.delivery_id, count(*) OVER () FROM claygate.attempts AS a
    WHERE a.started_at >= $1 AND NOT EXISTS (SELECT FROM claygate.deliveries AS d WHERE d.id = a.delivery_id)
    ORDER BY a.delivery_id LIMIT $2";

/// Deliveries made since $1 (ids from $2 on) of a callback or row that is not there.
pub const STRAY_DELIVERIES: &str = "
    SELECT d.id, count(*) OVER () FROM claygate.deliveries AS d
    WHERE d.id >= $2 AND d.created_at >= $1
        AND NOT EXISTS (SELECT FROM claygate.callbacks AS c WHERE c.id = d.callback_id)
        AND NOT EXISTS (SELECT FROM claygate.rows AS r WHERE r.id = d.row_id)
    ORDER BY d.id LIMIT $3";

/// Rows made since $1 (ids from $2 on) that no delivery stands for: one that was handed in has deliveries by its id, one
/// that a rule made has the id of its delivery.
const ROWS_WITHOUT_DELIVERY: &str = "
    SELECT r.id, count(*) OVER () FROM claygate.rows AS r
    WHERE r.id >= $2 AND r.created_at >= $1 AND CASE WHEN r.callback_id IS NULL
        THEN NOT EXISTS (SELECT FROM claygate.deliveries AS d WHERE d.row_id = r.id)
        ELSE NOT EXISTS (SELECT FROM claygate.deliveries AS d WHERE d.id = r.id AND d.callback_id = r.callback_id) END
    ORDER BY r.id LIMIT $3";

/// How often something can have come into quarantine since $1, by source: at least and at most. What came before and
/// after does not say how often after.
const QUARANTINED: &str = "
    SELECT source, sum(CASE WHEN received_at >= $1 THEN seen ELSE 1 END)::bigint,
        sum(CASE WHEN received_at >= $1 THEN seen ELSE seen - 1 END)::bigint
    FROM claygate.quarantine WHERE last_seen_at >= $1 GROUP BY source";

/// The first moment whose attempts are all kept: retention removes whole partitions, and one that it has begun to detach
/// is seen by nobody any more.
const ATTEMPTS_KEPT_SINCE: &str = "
    SELECT min(to_date(right(part.relname, 8), 'YYYYMMDD'))::timestamptz
    FROM pg_catalog.pg_inherits JOIN pg_catalog.pg_class AS part ON part.oid = inhrelid
    WHERE inhparent = 'claygate.attempts'::regclass AND NOT inhdetachpending";

impl Reader<'_> {
    pub(super) async fn read_links(&mut self, report: &mut Report) -> Result<(), DbError> {
        let since = report.since;
        let first = first_id_of(since - CLOCK_SLACK);
        let strays = self.find(STRAY_ATTEMPTS, since, None).await?;
        report.note(Check::StrayAttempts, strays.0, strays.1);
        let strays = self.find(STRAY_DELIVERIES, since, Some(first)).await?;
        report.note(Check::StrayDeliveries, strays.0, strays.1);
        let rows = self.find(ROWS_WITHOUT_DELIVERY, since, Some(first)).await?;
        report.note(Check::Rows, rows.0, rows.1);
        self.read_attempts(report).await?;
        self.read_quarantine(report).await
    }

    /// Rows that `statement` finds: how many, and the first of them.
    async fn find(
        &mut self,
        statement: &'static str,
        since: OffsetDateTime,
        first: Option<Uuid>,
    ) -> Result<(i64, Vec<Uuid>), DbError> {
        let named_max = self.named_max();
        let query = sqlx::query_as(statement).bind(since);
        let query = match first {
            Some(first) => query.bind(first),
            None => query,
        };
        let found: Vec<(Uuid, i64)> =
            query.bind(named_max).persistent(false).fetch_all(self.within_limit().await?).await?;
        let all = found.first().map_or(0, |(_, all)| *all);
        Ok((all, found.into_iter().map(|(id, _)| id).collect()))
    }

    async fn read_attempts(&mut self, report: &mut Report) -> Result<(), DbError> {
        let kept: Option<OffsetDateTime> =
            sqlx::query_scalar(ATTEMPTS_KEPT_SINCE).fetch_one(self.within_limit().await?).await?;
        let Some(kept) = kept else { return Ok(()) };
        let since = report.since.max(kept);
        let wrong: Vec<(String, Uuid, i64)> = sqlx::query_as(MISCOUNTED_DELIVERIES)
            .bind(since)
            .bind(first_id_of(since - CLOCK_SLACK))
            .bind(self.named_max())
            .persistent(false)
            .fetch_all(self.within_limit().await?)
            .await?;
        for (name, check) in [("attempts", Check::Attempts), ("outcomes", Check::Outcomes)] {
            let of_check: Vec<&(String, Uuid, i64)> = wrong.iter().filter(|(of, ..)| of == name).collect();
            let all = of_check.first().map_or(0, |(.., all)| *all);
            report.note(check, all, of_check.iter().map(|(_, id, _)| *id).collect());
        }
        Ok(())
    }

    async fn read_quarantine(&mut self, report: &mut Report) -> Result<(), DbError> {
        let kept: Vec<(String, i64, i64)> = sqlx::query_as(QUARANTINED)
            .bind(report.since)
            .persistent(false)
            .fetch_all(self.within_limit().await?)
            .await?;
        let mut by_source: BTreeMap<String, (i64, i64, i64)> =
            kept.into_iter().map(|(source, least, most)| (source, (0, least, most))).collect();
        for hour in &report.hours {
            by_source.entry(hour.source.clone()).or_default().0 += hour.totals.conflict + hour.totals.quarantined;
        }
        for (source, (counted, least, most)) in by_source {
            if counted < least || counted > most {
                report.differences.push(Difference {
                    check: Check::Quarantine,
                    source: Some(source),
                    hour: None,
                    expected: counted,
                    found: if counted < least { least } else { most },
                    ids: Vec::new(),
                });
            }
        }
        Ok(())
    }
}
