//! What has to be so after every fault.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use common::db::books::Verdict;
use testkit::wait::wait_for;
use uuid::Uuid;

use super::rig::Rig;
use super::table::Row;
use crate::books;

/// For leases to run out, retries to be made and pools to shrink, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Everything that was answered and everything that arrived, since the beginning.
#[derive(Default)]
pub(super) struct Ledger {
    answered: usize,
    arrived: HashMap<String, Arrived>,
}

/// What a destination saw under one `Idempotency-Key`.
struct Arrived {
    lead: String,
    /// Requests that it answered as taken.
    taken: usize,
    /// By the fault under which it first came.
    taken_max: usize,
}

impl Rig {
    /// Holds what was answered since the last look against what is stored and what arrived, and fails unless all of it is
    /// kept. `repeats_max`: how often one delivery may have been taken again.
    pub(super) async fn assert_kept(&mut self, what: &str, answered: Vec<String>, repeats_max: usize) -> Row {
        self.ledger.answered += answered.len();
        let ended = self.wait_until_ended().await;
        let (stored, delivered) = self.count(&answered).await;
        let (repeats, most) = self.take_arrived(repeats_max);
        let row = Row {
            fault: what.to_owned(),
            answered: answered.len(),
            delivered,
            repeats,
            most,
            bound: repeats_max,
            lost: answered.len() - stored,
        };
        assert_eq!(row.lost, 0, "{what}: answered and not there: {row}");
        assert!(ended.is_ok(), "{what}: did not come to its end: {ended:?}: {row}");
        assert_eq!(row.delivered, row.answered, "{what}: not delivered: {row}");
        self.assert_arrived(what);
        self.assert_drained(what).await;
        let report = books::read(&self.services.database.settings()).await;
        assert_eq!(report.verdict, Verdict::Balanced, "{what}: {:?} {:?}", report.differences, report.spools);
        self.services.assert_logs_bounded();
        row
    }

    /// Waits until every callback is routed and its delivery delivered, as many as were answered.
    async fn wait_until_ended(&self) -> Result<(), Vec<(String, String, i64)>> {
        let all = [("routed".to_owned(), "delivered".to_owned(), i64::try_from(self.ledger.answered).unwrap())];
        let started = Instant::now();
        loop {
            let states = books::states(&self.services.database.database()).await;
            if states == all {
                return Ok(());
            }
            if started.elapsed() > LIMIT {
                return Err(states);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How many of the ids that were answered are there, and how many of these are delivered.
    async fn count(&self, answered: &[String]) -> (usize, usize) {
        let ids: Vec<Uuid> = answered.iter().map(|id| id.parse().unwrap()).collect();
        let (stored, delivered): (i64, i64) = sqlx::query_as(
            "SELECT count(c.id), count(*) FILTER (WHERE c.state = 'routed' AND EXISTS (
                 SELECT FROM claygate.deliveries AS d WHERE d.callback_id = c.id AND d.state = 'delivered'))
             FROM unnest($1::uuid[]) AS answered (id)
             LEFT JOIN claygate.callback_aliases AS a ON a.alias_id = answered.id
             JOIN claygate.callbacks AS c ON c.id = COALESCE(a.callback_id, answered.id)",
        )
        .bind(ids)
        .fetch_one(self.services.database.pool())
        .await
        .unwrap();
        (usize::try_from(stored).unwrap(), usize::try_from(delivered).unwrap())
    }

    /// Books what arrived since the last look. How often something was taken again, and the most of one delivery.
    fn take_arrived(&mut self, repeats_max: usize) -> (usize, usize) {
        let mut again: HashMap<String, usize> = HashMap::new();
        for request in self.receiver.take_requests() {
            let key = request.header("idempotency-key").expect("a key on every request").to_owned();
            let lead = request.json()["email"].as_str().expect("the lead").to_owned();
            let taken = request.answer.is_some_and(|status| status < 300);
            let arrived = self.ledger.arrived.entry(key.clone()).or_insert(Arrived {
                lead,
                taken: 0,
                taken_max: 1 + repeats_max,
            });
            if taken && arrived.taken > 0 {
                *again.entry(key).or_default() += 1;
            }
            arrived.taken += usize::from(taken);
        }
        (again.values().sum(), again.values().copied().max().unwrap_or_default())
    }

    /// Each lead was taken, under one key, and no more often than may be.
    fn assert_arrived(&self, what: &str) {
        let arrived = &self.ledger.arrived;
        let wrong: Vec<_> = arrived.iter().filter(|(_, a)| a.taken == 0 || a.taken > a.taken_max).collect();
        let wrong: Vec<_> = wrong.iter().map(|(key, a)| (key, &a.lead, a.taken, a.taken_max)).collect();
        assert!(wrong.is_empty(), "{what}: not taken, or too often (key, lead, taken, at most): {wrong:?}");
        let leads: HashSet<_> = arrived.values().map(|arrived| &arrived.lead).collect();
        assert_eq!((leads.len(), arrived.len()), (self.ledger.answered, self.ledger.answered), "{what}: leads, keys");
    }

    /// Waits until nothing stands anywhere, and until no process holds more than before.
    async fn assert_drained(&self, what: &str) {
        wait_for(&format!("{what}: the outbox to be empty"), LIMIT, async || {
            let left: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.outbox")
                .fetch_one(self.services.database.pool())
                .await
                .unwrap();
            if left == 0 { Ok(()) } else { Err(left) }
        })
        .await;
        wait_for(&format!("{what}: the queues to be empty"), LIMIT, async || {
            let listed = self.broker.ctl(&["list_queues", "--quiet", "--no-table-headers", "name", "messages"]).await;
            let full: Vec<_> = listed.lines().filter(|line| !line.ends_with("\t0")).map(str::to_owned).collect();
            if full.is_empty() && !listed.trim().is_empty() { Ok(()) } else { Err(listed) }
        })
        .await;
        for intake in &self.intakes {
            wait_for(&format!("{what}: the spool to be empty"), LIMIT, async || {
                let left = intake.metrics().await.value("claygate_spool_entries", &[]);
                if left == Some(0.0) { Ok(()) } else { Err(left) }
            })
            .await;
        }
        if self.baseline.is_measured() {
            wait_for(&format!("{what}: memory, files and connections as before"), LIMIT, async || {
                let now = self.usage();
                if now.is_near(&self.baseline) { Ok(()) } else { Err(format!("{now}; before: {}", self.baseline)) }
            })
            .await;
        }
    }
}
