//! What the intake counts. Every series exists at 0 from the start, for every source and result.

use common::config::Config;
use std::collections::BTreeMap;

use common::db::row_batches::Counts;
use common::telemetry::metrics::{
    ACK_SECONDS, CALLBACKS, INTAKE_PANICS, KEY_POINTERS_MISSED, ROW_REQUESTS, ROWS, SPOOL_ENTRIES,
};
use metrics::{Counter, Histogram, counter, gauge, histogram};

use crate::http::problem::Problem;

/// Puts every metric of the intake at 0. To be called after [`common::telemetry::metrics::install`].
pub fn register(config: &Config) {
    config.sources.keys().for_each(|source| Outcomes::of(source).put_at_zero());
    RowOutcomes::of(config).put_at_zero();
    gauge!(SPOOL_ENTRIES).increment(0.0);
    counter!(INTAKE_PANICS).increment(0);
}

/// The counters of one source.
pub(crate) struct Outcomes {
    pub(crate) accepted: Counter,
    pub(crate) duplicate: Counter,
    pub(crate) recorded: Counter,
    pub(crate) spooled: Counter,
    quarantined: Counter,
    conflict: Counter,
    unauthorized: Counter,
    malformed: Counter,
    too_large: Counter,
    throttled: Counter,
    unavailable: Counter,
    pub(crate) pointers_missed: Counter,
    pub(crate) ack_seconds: Histogram,
}

impl Outcomes {
    pub(crate) fn of(source: &str) -> Self {
        let result = |result: &'static str| counter!(CALLBACKS, "source" => source.to_owned(), "result" => result);
        Self {
            accepted: result("accepted"),
            duplicate: result("duplicate"),
            recorded: result("recorded"),
            spooled: result("spooled"),
            quarantined: result("quarantined"),
            conflict: result("conflict"),
            unauthorized: result("unauthorized"),
            malformed: result("malformed"),
            too_large: result("too_large"),
            throttled: result("throttled"),
            unavailable: result("unavailable"),
            pointers_missed: counter!(KEY_POINTERS_MISSED, "source" => source.to_owned()),
            ack_seconds: histogram!(ACK_SECONDS),
        }
    }

    fn put_at_zero(&self) {
        let counters = [
            &self.accepted,
            &self.duplicate,
            &self.recorded,
            &self.spooled,
            &self.quarantined,
            &self.conflict,
            &self.unauthorized,
            &self.malformed,
            &self.too_large,
            &self.throttled,
            &self.unavailable,
            &self.pointers_missed,
        ];
        counters.into_iter().for_each(|counter| counter.increment(0));
    }

    /// Counts a request that was not taken as a callback. `malformed` is what was not even kept.
    pub(crate) fn count_problem(&self, problem: &Problem) {
        let counter = match problem {
            Problem::Malformed { .. } | Problem::Refused { .. } => &self.quarantined,
            Problem::Conflict { .. } => &self.conflict,
            Problem::Unauthorized(_) => &self.unauthorized,
            Problem::TooLarge { .. } => &self.too_large,
            Problem::Overloaded => &self.throttled,
            Problem::Unavailable => &self.unavailable,
            Problem::UnknownPath
            | Problem::WrongMethod
            | Problem::BrokenBody
            | Problem::SlowBody
            | Problem::NotJson
            | Problem::Encoded
            | Problem::TooManyHeaders { .. }
            | Problem::Row(_)
            | Problem::RowsRefused
            | Problem::BrokenRows(_)
            | Problem::UnknownDestination
            | Problem::NotForRows
            | Problem::NotRows
            | Problem::RowsUnavailable
            | Problem::RowsInterrupted => &self.malformed,
        };
        counter.increment(1);
    }
}

/// What became of rows, and of the requests that they came in.
pub(crate) struct RowOutcomes {
    /// Accepted, duplicate, filtered, refused; by destination.
    rows: BTreeMap<String, [Counter; 4]>,
    taken: Counter,
    unauthorized: Counter,
    malformed: Counter,
    throttled: Counter,
    unavailable: Counter,
}

impl RowOutcomes {
    pub(crate) fn of(config: &Config) -> Self {
        let destinations = config.destinations.values().filter(|destination| destination.clay().is_some());
        let rows = destinations.map(|destination| {
            let row =
                |result: &'static str| counter!(ROWS, "destination" => destination.name.clone(), "result" => result);
            (destination.name.clone(), [row("accepted"), row("duplicate"), row("filtered"), row("refused")])
        });
        let request = |result: &'static str| counter!(ROW_REQUESTS, "result" => result);
        Self {
            rows: rows.collect(),
            taken: request("taken"),
            unauthorized: request("unauthorized"),
            malformed: request("malformed"),
            throttled: request("throttled"),
            unavailable: request("unavailable"),
        }
    }

    fn put_at_zero(&self) {
        let requests = [&self.taken, &self.unauthorized, &self.malformed, &self.throttled, &self.unavailable];
        self.rows.values().flatten().chain(requests).for_each(|counter| counter.increment(0));
    }

    /// Counts a group: what `now` is more than `before`, and `refused` rows of it that were counted as they were read.
    pub(crate) fn count(&self, destination: &str, before: &Counts, now: &Counts, refused: u64) {
        let Some([accepted, duplicates, filtered, refusals]) = self.rows.get(destination) else { return };
        accepted.increment(now.accepted - before.accepted);
        duplicates.increment(now.duplicates - before.duplicates);
        filtered.increment(now.filtered - before.filtered);
        refusals.increment(now.refused - before.refused + refused);
    }

    /// Counts a request by the problem it was answered with.
    pub(crate) fn count_request(&self, problem: Option<&Problem>) {
        let counter = match problem {
            None => &self.taken,
            Some(Problem::Unauthorized(_)) => &self.unauthorized,
            Some(Problem::Overloaded) => &self.throttled,
            Some(Problem::RowsUnavailable | Problem::RowsInterrupted) => &self.unavailable,
            Some(_) => &self.malformed,
        };
        counter.increment(1);
    }
}
