//! What the intake counts. Every series exists at 0 from the start, for every source and result.

use common::config::Config;
use common::telemetry::metrics::{ACK_SECONDS, CALLBACKS, INTAKE_PANICS, KEY_POINTERS_MISSED, SPOOL_ENTRIES};
use metrics::{Counter, Histogram, counter, gauge, histogram};

use crate::http::problem::Problem;

/// Puts every metric of the intake at 0. To be called after [`common::telemetry::metrics::install`].
pub fn register(config: &Config) {
    config.sources.keys().for_each(|source| Outcomes::of(source).put_at_zero());
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
            | Problem::TooManyHeaders { .. } => &self.malformed,
        };
        counter.increment(1);
    }
}
