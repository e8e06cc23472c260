//! What delivering counts. Names are the contract of `common::telemetry::metrics`; every series exists at 0 from the
//! start.

use std::time::Duration;

use common::config::{Config, DestinationKind};
use common::db::clay_webhooks::Webhook;
use common::db::loop_report::Open;
use common::states::{Class, DeliveryState, Reason, WebhookState};
use common::telemetry::metrics::{
    ATTEMPT_SECONDS, CLAY_FILL_RATIO, CLAY_NO_WEBHOOK_LEFT, CLAY_SUBMISSIONS, CLAY_WEBHOOKS, DEAD_LETTERS, DELIVERIES,
    END_TO_END_SECONDS, RETRIES, ROWS_OUTSTANDING, ROWS_OVERDUE,
};

const OUTCOMES: [DeliveryState; 2] = [DeliveryState::Delivered, DeliveryState::Dead];
const REASONS: [Reason; 5] =
    [Reason::AttemptsUsed, Reason::Terminal, Reason::Unsendable, Reason::RowTooLarge, Reason::Poison];
/// The classes that are followed by another attempt.
const RETRIED: [Class; 4] = [Class::Transient, Class::Throttled, Class::Unauthorized, Class::Gone];

/// Makes every series of delivering exist at 0.
pub fn register_metrics(config: &Config) {
    for (name, destination) in &config.destinations {
        if let DestinationKind::Clay(clay) = &destination.kind {
            for webhook in &clay.webhooks {
                metrics::gauge!(CLAY_SUBMISSIONS, "webhook" => webhook.name.to_string()).set(0.0);
                metrics::gauge!(CLAY_FILL_RATIO, "webhook" => webhook.name.to_string()).set(0.0);
            }
            show_states(name, &[]);
            show_open(name, Open::default());
            metrics::gauge!(CLAY_NO_WEBHOOK_LEFT, "destination" => name.clone()).set(0.0);
        }
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

/// Shows what the table says of the webhook URLs of one destination, and whether none of them takes a row.
pub(super) fn show_pool(destination: &str, webhooks: &[&Webhook], is_dry: bool) {
    for webhook in webhooks {
        // Far below 2^52.
        let used = webhook.used as f64;
        let fill = webhook.cap.map_or(0.0, |cap| used / cap as f64);
        metrics::gauge!(CLAY_SUBMISSIONS, "webhook" => webhook.webhook.clone()).set(used);
        metrics::gauge!(CLAY_FILL_RATIO, "webhook" => webhook.webhook.clone()).set(fill);
    }
    show_states(destination, webhooks);
    let dry = if is_dry { 1.0 } else { 0.0 };
    metrics::gauge!(CLAY_NO_WEBHOOK_LEFT, "destination" => destination.to_owned()).set(dry);
}

/// Shows how many rows of one destination are out.
pub(super) fn show_open(destination: &str, open: Open) {
    // Bounded far below 2^52.
    metrics::gauge!(ROWS_OUTSTANDING, "destination" => destination.to_owned()).set(open.outstanding as f64);
    metrics::gauge!(ROWS_OVERDUE, "destination" => destination.to_owned()).set(open.overdue as f64);
}

fn show_states(destination: &str, webhooks: &[&Webhook]) {
    for state in WebhookState::ALL {
        let n = webhooks.iter().filter(|webhook| webhook.state == *state).count();
        metrics::gauge!(CLAY_WEBHOOKS, "destination" => destination.to_owned(), "state" => state.as_str())
            .set(f64::from(u32::try_from(n).unwrap_or(u32::MAX)));
    }
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
