//! One row into a table of Clay: counted, and then sent to the URL that it was counted for.
//!
//! When a URL refuses every row (full, dead, its token refused), it is put aside, and the same row goes to the next one at
//! once. When none is left, the lane is held until there is one: nothing is attempted that could only be refused.

use common::crash::{self, Point};
use common::db::attempts::{Submission, Taken};
use common::db::clay_webhooks::{self, Counted, Counting, Refused};
use common::db::{DbError, rows};
use common::ids::RowId;
use common::states::{Class, WebhookState};
use tokio::time::Instant;

use super::LaneWork;
use super::attempt::{AGAIN_AFTER, Made};
use super::counter::Counter;
use crate::destinations::clay::{Answered, ClayTarget};
use crate::destinations::{Outcome, too_short};
use crate::lanes::LeasedDelivery;

impl LaneWork {
    /// Hands a row to Clay.
    pub(super) async fn submit(
        &self,
        target: &ClayTarget,
        counter: &Counter,
        delivery: &LeasedDelivery,
        turn: Option<Instant>,
        has_time: &(dyn Fn() -> bool + Send + Sync),
    ) -> Made {
        let Ok(id) = self.row_of(delivery).await else { return Made::Nothing { wait: AGAIN_AFTER } };
        let row = match target.build(delivery, id) {
            Ok(row) => row,
            Err(outcome) => return Made::attempt(outcome, Instant::now()),
        };
        let counting = |refused| Counting { row: id, callback: delivery.callback_id, refused };
        let mut counted = match counter.count(counting(None)).await {
            Ok(Some(counted)) => counted,
            Ok(None) => {
                self.run_dry();
                return Made::Nothing { wait: std::time::Duration::ZERO };
            }
            Err(_) => return Made::Nothing { wait: AGAIN_AFTER },
        };
        crash::point(Point::AfterCount);
        if let Err(wait) = self.take_turn(turn).await {
            self.cancel(&counted).await;
            return Made::Nothing { wait };
        }
        if self.lane.gate.is_held() || !has_time() {
            self.cancel(&counted).await;
            return Made::Nothing { wait: std::time::Duration::ZERO };
        }
        // Each URL refuses once; one more try for one that was resumed in between.
        let mut tries = target.pool().webhooks.len();
        loop {
            let begun = Instant::now();
            let Answered { outcome, taken, webhook } = target.post(delivery, &counted.webhook, &row).await;
            crash::point(Point::AfterSend);
            let submission = |taken| Some(Submission { row: id, counted: counted.clone(), taken });
            if outcome.status == Some(429) {
                self.throttle_workspace(&outcome).await;
            }
            let Some(state) = webhook else {
                return Made::Attempt { outcome, begun, submission: submission(taken) };
            };
            let reason = explain(state, &outcome);
            tracing::warn!(
                destination = self.name,
                webhook = counted.webhook,
                state = %state,
                reason,
                "a webhook URL is not sent to any more"
            );
            let refused = Refused { counted: counted.clone(), state, reason, age: begun.elapsed() };
            let next = match counter.count(counting(Some(refused))).await {
                Ok(next) => next,
                // Whether it was put aside is not known; the next attempt finds out.
                Err(_) => {
                    return Made::Attempt { outcome: uncounted(outcome), begun, submission: submission(Taken::No) };
                }
            };
            let Some(next) = next else {
                self.run_dry();
                return Made::Attempt { outcome: last(state, outcome), begun, submission: None };
            };
            if tries == 0 || !has_time() {
                self.cancel(&next).await;
                return Made::Attempt { outcome: too_short(), begun, submission: None };
            }
            tries -= 1;
            if let Err(wait) = self.take_turn(None).await {
                self.cancel(&next).await;
                let mut outcome = uncounted(outcome);
                outcome.retry_after = Some(wait);
                return Made::Attempt { outcome, begun, submission: None };
            }
            counted = next;
        }
    }

    /// The row that a delivery makes in a table: the one that was handed in, else one of its own id, or of that of the
    /// delivery that it repeats.
    async fn row_of(&self, delivery: &LeasedDelivery) -> Result<RowId, DbError> {
        match (delivery.row_id, delivery.callback_id) {
            (Some(row), _) => Ok(row),
            (None, Some(callback)) if delivery.replay > 0 => {
                rows::id_of(&self.database, callback, &self.name, delivery.id).await.inspect_err(|error| {
                    tracing::warn!(
                        delivery = %delivery.id,
                        error = error as &dyn std::error::Error,
                        "the row of a delivery could not be found; it waits"
                    );
                })
            }
            (None, _) => Ok(RowId(delivery.id.0)),
        }
    }

    /// Takes back what was counted for a request that is not made.
    async fn cancel(&self, counted: &Counted) {
        if let Err(error) = clay_webhooks::cancel(&self.database, counted).await {
            tracing::warn!(
                webhook = counted.webhook,
                error = &error as &dyn std::error::Error,
                "a submission that was not made stays counted"
            );
        }
    }

    /// Says that no URL takes a row.
    fn run_dry(&self) {
        if self.lane.gate.refuse() {
            tracing::error!(destination = self.name, "no webhook URL is left; rows wait (see `claygate quota`)");
        }
    }

    /// Has every sender of the workspace wait as long as Clay asks.
    async fn throttle_workspace(&self, outcome: &Outcome) {
        let (Some(pace), Some(wait)) = (&self.pace, outcome.retry_after) else { return };
        if let Err(error) = pace.throttle(wait).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the workspace's other senders were not told to wait"
            );
        }
    }
}

/// Why a URL was put aside, in words.
fn explain(state: WebhookState, outcome: &Outcome) -> String {
    let status = outcome.status.unwrap_or_default();
    match state {
        WebhookState::Full => format!("Clay answered {status}: the record limit is reached"),
        WebhookState::Dead => format!("Clay answered {status}: there is no such webhook"),
        WebhookState::Paused | WebhookState::Active => {
            format!("Clay answered {status}: look at the URL's token, then resume the destination")
        }
    }
}

/// The outcome where no other URL is left. A refused token pauses the destination; the others wait for a new URL.
fn last(state: WebhookState, outcome: Outcome) -> Outcome {
    match state {
        WebhookState::Paused => {
            let error = Some(format!("{}, and no other webhook URL is left", explain(state, &outcome)));
            Outcome { class: Class::Unauthorized, error, ..outcome }
        }
        _ => {
            let error = Some(format!("{}, and no other webhook URL is left", explain(state, &outcome)));
            Outcome { error, ..uncounted(outcome) }
        }
    }
}

/// What the row is not to blame for: it waits, and uses up nothing.
fn uncounted(outcome: Outcome) -> Outcome {
    Outcome { class: Class::Throttled, counts: false, ..outcome }
}
