//! What delivering counts. Names are the contract of `common::telemetry::metrics`; every series exists at 0 from the
//! start.

use std::time::Duration;

use common::config::Config;
use common::states::{Class, DeliveryState, Reason};
use common::telemetry::metrics::{ATTEMPT_SECONDS, DEAD_LETTERS, DELIVERIES, END_TO_END_SECONDS, RETRIES};

const OUTCOMES: [DeliveryState; 2] = [DeliveryState::Delivered, DeliveryState::Dead];
const REASONS: [Reason; 4] = [Reason::AttemptsUsed, Reason::Terminal, Reason::Unsendable, Reason::Poison];
/// The classes that are followed by another attempt.
const RETRIED: [Class; 4] = [Class::Transient, Class::Throttled, Class::Unauthorized, Class::Gone];

/// Makes every series of delivering exist at 0.
pub fn register_metrics(config: &Config) {
    for name in config.destinations.keys() {
        for outcome in OUTCOMES {
            metrics::counter!(DELIVERIES, "destination" => name.clone(), "outcome" => outcome.as_str()).increment(0);
        }
        for reason in REASONS {
            metrics::counter!(DEAD_LETTERS, "destination" => name.clone(), "reason" => reason.as_str()).increment(0);
        }
        for class in RETRIED {
            metrics::counter!(RETRIES, "destination" => name.clone(), "class" => class.as_str()).increment(0);
        }
        let _created = metrics::histogram!(ATTEMPT_SECONDS, "destination" => name.clone());
    }
    let _created = metrics::histogram!(END_TO_END_SECONDS);
}

/// Counts the time of an attempt.
pub(super) fn count_attempt(destination: &str, duration: Duration) {
    metrics::histogram!(ATTEMPT_SECONDS, "destination" => destination.to_owned()).record(duration.as_secs_f64());
}

/// Counts another attempt that will be made.
pub(super) fn count_retry(destination: &str, class: Class) {
    metrics::counter!(RETRIES, "destination" => destination.to_owned(), "class" => class.as_str()).increment(1);
}

/// Counts a delivery that reached its destination, so long after its callback came in.
pub(super) fn count_delivered(destination: &str, after: Duration) {
    count_end(destination, DeliveryState::Delivered);
    metrics::histogram!(END_TO_END_SECONDS).record(after.as_secs_f64());
}

/// Counts a dead letter.
pub(super) fn count_dead(destination: &str, reason: Reason) {
    count_end(destination, DeliveryState::Dead);
    metrics::counter!(DEAD_LETTERS, "destination" => destination.to_owned(), "reason" => reason.as_str()).increment(1);
}

fn count_end(destination: &str, outcome: DeliveryState) {
    metrics::counter!(DELIVERIES, "destination" => destination.to_owned(), "outcome" => outcome.as_str()).increment(1);
}
