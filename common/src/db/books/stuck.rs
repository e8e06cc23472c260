//! Work that has not ended and that nothing will ever take up.
//!
//! What waits has a way to go on: an entry in the outbox, a lease (which a rescuer gives back when it is over), or it
//! was enqueued so lately that the sweeper still takes it for being on its way. Twice that time without any of these
//! means that it is lost, and that no sweeper has looked. What a broker has confirmed may stand there in a long backlog,
//! of which a sweeper puts back only so much at a time; nobody but the broker can tell, so that has a day more.

use std::time::Duration;

use uuid::Uuid;

use super::report::{Check, Report};
use super::{DbError, Reader};
use crate::db::sweep::SweepLimits;

/// Beyond the sweeper's own horizon: it may be about to look.
const GRACE: u32 = 2;
/// For what may wait in a broker: sweepers put back some 300,000 of each queue meanwhile.
const IN_BROKER: Duration = Duration::from_secs(24 * 60 * 60);

const STUCK_CALLBACKS: &str = "
    WITH overdue AS MATERIALIZED (
        SELECT id FROM claygate.callbacks
        WHERE received_at >= $1 AND state = 'received'
            AND GREATEST(received_at, enqueued_at + $3::interval) < now() - $2::interval * 2 ^ LEAST(sweeps, 10)
    ), lost AS (
        SELECT id FROM (
            SELECT id, false AS waits FROM overdue
            UNION ALL
            SELECT unnest(refs), true FROM claygate.outbox WHERE queue = 'callbacks' AND EXISTS (SELECT FROM overdue)
        ) AS known GROUP BY id HAVING NOT bool_or(waits)
    )
    SELECT id, count(*) OVER () FROM lost ORDER BY id LIMIT $4";

/// A lease that has been over for that long was given back by no rescuer. What a destination that does not run has
/// waits for its operator; it is swept when the destination runs again.
const STUCK_DELIVERIES: &str = "
    WITH overdue AS MATERIALIZED (
        SELECT id FROM claygate.deliveries AS d
        WHERE state = 'pending'
            AND GREATEST(next_attempt_at, enqueued_at + $2::interval, lease_until)
                < now() - $1::interval * 2 ^ LEAST(sweeps, 10)
            AND NOT EXISTS (SELECT FROM claygate.destination_state AS held
                            WHERE held.destination = d.destination AND held.state <> 'running')
    ), lost AS (
        SELECT id FROM (
            SELECT id, false AS waits FROM overdue
            UNION ALL
            SELECT unnest(refs), true FROM claygate.outbox
            WHERE queue LIKE 'deliver.%' AND EXISTS (SELECT FROM overdue)
        ) AS known GROUP BY id HAVING NOT bool_or(waits)
    )
    SELECT id, count(*) OVER () FROM lost ORDER BY id LIMIT $3";

const WITHOUT_BODY: &str = "
    SELECT c.id, count(*) OVER () FROM claygate.callbacks AS c
    WHERE c.received_at >= $1 AND c.state = 'received'
        AND NOT EXISTS (SELECT FROM claygate.callback_bodies AS b
                        WHERE b.callback_id = c.id AND b.received_at = c.received_at)
    ORDER BY c.id LIMIT $2";

impl Reader<'_> {
    pub(super) async fn read_stuck(&mut self, report: &mut Report) -> Result<(), DbError> {
        let (since, named_max) = (report.since, self.named_max());
        let patience = SweepLimits::default().horizon * GRACE;
        let deliveries = sqlx::query_as(STUCK_DELIVERIES)
            .bind(patience)
            .bind(IN_BROKER)
            .bind(named_max)
            .persistent(false)
            .fetch_all(self.within_limit().await?)
            .await?;
        note(report, Check::StuckDeliveries, deliveries);
        if report.totals.in_progress == 0 {
            return Ok(());
        }
        let callbacks = sqlx::query_as(STUCK_CALLBACKS)
            .bind(since)
            .bind(patience)
            .bind(IN_BROKER)
            .bind(named_max)
            .persistent(false)
            .fetch_all(self.within_limit().await?)
            .await?;
        note(report, Check::StuckCallbacks, callbacks);
        let bodiless = sqlx::query_as(WITHOUT_BODY)
            .bind(since)
            .bind(named_max)
            .persistent(false)
            .fetch_all(self.within_limit().await?)
            .await?;
        note(report, Check::Bodies, bodiless);
        Ok(())
    }
}

fn note(report: &mut Report, check: Check, found: Vec<(Uuid, i64)>) {
    let all = found.first().map_or(0, |(_, all)| *all);
    report.note(check, all, found.into_iter().map(|(id, _)| id).collect());
}
