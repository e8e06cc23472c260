//! What the worker counts. Names are the contract of `common::telemetry::metrics`; every series exists at 0 from the
//! start.

use common::config::Config;
use common::lead::Lead;
use common::states::{DeliveryState, Reason};
use common::telemetry::metrics::{DEAD_LETTERS, DELIVERIES, ICP_SCORE};

/// The `destination` of what died before it had one. No destination can have this name.
const NO_DESTINATION: &str = "-";
/// Why a callback can die before it has a delivery.
const DEAD_CALLBACKS: [Reason; 4] = [Reason::RuleError, Reason::Unreadable, Reason::BodyExpired, Reason::Poison];
/// Why a delivery can die.
const DEAD_DELIVERIES: [Reason; 5] =
    [Reason::AttemptsUsed, Reason::Terminal, Reason::Unsendable, Reason::UnknownDestination, Reason::Poison];

/// Makes every series of the worker exist at 0.
pub fn register(config: &Config) {
    crate::deliver::register_metrics(config);
    crate::retention::register();
    for reason in DEAD_CALLBACKS {
        metrics::counter!(DEAD_LETTERS, "destination" => NO_DESTINATION, "reason" => reason.as_str()).increment(0);
    }
    for name in config.destinations.keys() {
        for reason in DEAD_DELIVERIES {
            metrics::counter!(DEAD_LETTERS, "destination" => name.clone(), "reason" => reason.as_str()).increment(0);
        }
        for outcome in DeliveryState::ALL.iter().filter(|state| state.is_end()) {
            metrics::counter!(DELIVERIES, "destination" => name.clone(), "outcome" => outcome.as_str()).increment(0);
        }
    }
    let _created = metrics::histogram!(ICP_SCORE);
}

/// Counts a callback that was routed, skipped or found dead by routing.
pub(crate) fn count_routed(reason: Option<Reason>, lead: Option<&Lead>) {
    match reason {
        Some(reason @ (Reason::RuleError | Reason::Unreadable | Reason::BodyExpired)) => count_dead_callback(reason),
        _ => {
            if let Some(score) = lead.and_then(|lead| lead.icp_score) {
                metrics::histogram!(ICP_SCORE).record(score.get());
            }
        }
    }
}

/// Counts a callback that died before it had a delivery.
pub(crate) fn count_dead_callback(reason: Reason) {
    metrics::counter!(DEAD_LETTERS, "destination" => NO_DESTINATION, "reason" => reason.as_str()).increment(1);
}

/// Counts a delivery that died without an attempt of this process.
pub(crate) fn count_dead_delivery(destination: &str, reason: Reason) {
    metrics::counter!(DEAD_LETTERS, "destination" => destination.to_owned(), "reason" => reason.as_str()).increment(1);
    count_outcome(destination, DeliveryState::Dead);
}

/// Counts a delivery that was recorded and not sent.
pub(crate) fn count_skipped_delivery(destination: &str) {
    count_outcome(destination, DeliveryState::Skipped);
}

fn count_outcome(destination: &str, outcome: DeliveryState) {
    metrics::counter!(DELIVERIES, "destination" => destination.to_owned(), "outcome" => outcome.as_str()).increment(1);
}
