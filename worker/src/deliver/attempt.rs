//! One attempt: check the lease, send, judge, have it recorded, give the slot back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use common::crash::{self, Point};
use common::db::attempts::{Attempt, Submission, Verdict};
use common::db::deliveries;
use common::queue::QueueName;
use common::states::{Class, Reason};
use futures_util::FutureExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::gate::Passage;
use super::{LaneWork, telemetry, verdict};
use crate::destinations::{Outcome, Target};
use crate::lanes::{InLine, LeasedDelivery, Started};

/// What has to be left of a lease beyond a request's total time: to write down how it went.
const RECORD_MARGIN: Duration = Duration::from_secs(5);

/// How soon an attempt is made that could not be because the database did not answer.
pub(super) const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What came of a lease.
pub(super) enum Made {
    /// An attempt.
    Attempt {
        /// How it went.
        outcome: Outcome,
        /// When its last request began.
        begun: Instant,
        /// The row that it submitted to a table of Clay.
        submission: Option<Submission>,
    },
    /// Nothing was sent, and may be after this time.
    Nothing {
        /// From now on.
        wait: Duration,
    },
}

impl Made {
    /// An attempt that submitted no row.
    pub(super) fn attempt(outcome: Outcome, begun: Instant) -> Self {
        Self::Attempt { outcome, begun, submission: None }
    }
}

impl LaneWork {
    /// Makes an attempt in a task of its own.
    pub(super) fn spawn(self: &Arc<Self>, started: Started) {
        let work = Arc::clone(self);
        self.lane.gate.start();
        self.lane.note_move();
        // In a box of its own: on its way into a task a future is copied several times, and this one has kilobytes. What is
        // rare in it is boxed as well, so that the common way stays small.
        self.attempts.spawn(Box::pin(async move { work.attempt(started).await }));
    }

    /// Starts what stands first in the line, as soon as it has a slot; gives it back where that takes too long, or where
    /// nothing may be sent by then.
    pub(super) async fn start_in_line(self: &Arc<Self>, first: InLine) {
        let InLine { delivery, .. } = &first;
        let latest =
            delivery.lease_deadline.checked_sub(self.timeout + RECORD_MARGIN).unwrap_or(delivery.lease_deadline);
        let slot = Arc::clone(&self.lane.slots).acquire_owned();
        let permit = tokio::time::timeout_at(latest, slot).await.ok().and_then(Result::ok);
        let now = Instant::now();
        let wait = match (permit, self.lane.gate.passage(now)) {
            (Some(permit), Passage::Open | Passage::Probe) => {
                let started = Started { delivery: first.into_delivery(), permit, turn: None };
                return self.spawn(started);
            }
            (_, Passage::Later(until)) => until.saturating_duration_since(now),
            _ => Duration::ZERO,
        };
        self.return_lease(delivery, wait).await;
    }

    /// Ends a delivery whose lead was removed: there is nothing to send.
    pub(super) fn spawn_unsendable(self: &Arc<Self>, started: Started) {
        let work = Arc::clone(self);
        self.attempts.spawn(async move {
            let Started { delivery, permit, .. } = started;
            let mut outcome = Outcome::without_answer(Class::Poison, Some("its lead was removed".to_owned()));
            outcome.unsendable = Some(Reason::Unsendable);
            let verdict = verdict::judge(&outcome, &work.retries, delivery.failures, 0.0);
            work.record(&delivery, outcome, verdict, Instant::now(), Duration::ZERO, None, permit).await;
        });
    }

    async fn attempt(&self, started: Started) {
        let Started { delivery, permit, turn } = started;
        let has_time = || self.has_time(&delivery);
        if self.lane.gate.is_held() || !has_time() {
            return Box::pin(self.give_back(&delivery, Duration::ZERO)).await;
        }
        crash::point(Point::AfterLease);
        let started_at = Instant::now();
        let made = tokio::select! {
            made = AssertUnwindSafe(self.make(&delivery, turn, &has_time)).catch_unwind() => made.unwrap_or_else(|_| {
                let what = "the attempt broke inside this program".to_owned();
                Made::attempt(Outcome::without_answer(Class::Poison, Some(what)), started_at)
            }),
            () = self.cut.cancelled() => Made::attempt(cut_off(), started_at),
        };
        let (outcome, begun, submission) = match made {
            Made::Attempt { outcome, begun, submission } => (outcome, begun, submission),
            Made::Nothing { wait } => return Box::pin(self.give_back(&delivery, wait)).await,
        };
        let duration = begun.elapsed();
        self.lane.note_attempt(duration);
        if !matches!(self.target, Target::Log) {
            telemetry::count_attempt(&self.name, duration);
        }
        self.lane.gate.report(&outcome);
        let verdict = verdict::judge(&outcome, &self.retries, delivery.failures, rand::random());
        log(&delivery, &outcome, &verdict);
        self.record(&delivery, outcome, verdict, begun, duration, submission, permit).await;
    }

    /// Waits for the turn and sends.
    async fn make(
        &self,
        delivery: &LeasedDelivery,
        turn: Option<Instant>,
        has_time: &(dyn Fn() -> bool + Send + Sync),
    ) -> Made {
        if let (Target::Clay(target), Some(counter)) = (&self.target, &self.counter) {
            return Box::pin(self.submit(target, counter, delivery, turn, has_time)).await;
        }
        if let Err(wait) = self.take_turn(turn).await {
            return Made::Nothing { wait };
        }
        if self.lane.gate.is_held() {
            return Made::Nothing { wait: Duration::ZERO };
        }
        let begun = Instant::now();
        let outcome = self.target.send(delivery, has_time).await;
        crash::point(Point::AfterSend);
        Made::attempt(outcome, begun)
    }

    /// Waits until the destination's rate lets one request go; `Err`: how long it may not.
    pub(super) async fn take_turn(&self, turn: Option<Instant>) -> Result<(), Duration> {
        let Some(pace) = &self.pace else { return Ok(()) };
        match Box::pin(pace.wait(turn)).await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(
                    destination = self.name,
                    error = &error as &dyn std::error::Error,
                    "a rate could not be asked for; nothing is sent"
                );
                Err(AGAIN_AFTER)
            }
        }
    }

    /// Whether the lease outlives one more request and its record.
    fn has_time(&self, delivery: &LeasedDelivery) -> bool {
        delivery.lease_deadline.saturating_duration_since(Instant::now()) > self.timeout + RECORD_MARGIN
    }

    /// Gives a lease back under which nothing was sent, to be due again after `wait`.
    async fn give_back(&self, delivery: &LeasedDelivery, wait: Duration) {
        self.lane.gate.abandon();
        self.return_lease(delivery, wait).await;
    }

    async fn return_lease(&self, delivery: &LeasedDelivery, wait: Duration) {
        match deliveries::give_back(&self.database, &self.name, &[delivery.id], delivery.lease_token, wait).await {
            Ok(_) => self.doorbell.ring(&QueueName::deliver(&self.name)),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                delivery = %delivery.id,
                "a lease could not be given back; it runs out"
            ),
        }
    }

    /// Has the outcome written. The slot is given back as soon as the outcome is on its way: the next request need not
    /// wait for this one's commit, and shares it with more of its neighbours. Not so with a row for Clay, which costs
    /// credits and has no idempotency key: after a crash no more of them come twice than there are slots.
    #[expect(clippy::too_many_arguments, reason = "what is recorded of an attempt, once each")]
    async fn record(
        &self,
        delivery: &LeasedDelivery,
        outcome: Outcome,
        verdict: Verdict,
        begun: Instant,
        duration: Duration,
        submission: Option<Submission>,
        permit: OwnedSemaphorePermit,
    ) {
        let class = outcome.class;
        let attempt = Attempt {
            delivery: delivery.id,
            destination: self.name.clone(),
            token: delivery.lease_token,
            verdict: verdict.clone(),
            class,
            status: outcome.status,
            error: outcome.error,
            response: outcome.response,
            step: outcome.step,
            captured: outcome.captured.map(without_nul),
            duration,
            age: Duration::ZERO,
            submission,
        };
        let Some(written) = self.recorder.submit(attempt, begun).await else { return };
        let until_written = matches!(self.target, Target::Clay(_)).then_some(permit);
        let Ok(recorded) = written.await else { return };
        drop(until_written);
        if !recorded.owned {
            tracing::info!(delivery = %delivery.id, "the lease had been lost; the attempt is recorded and changes nothing");
            return;
        }
        match verdict {
            Verdict::Delivered => {
                let after = Duration::try_from(recorded.at - delivery.received_at).unwrap_or_default();
                telemetry::count_delivered(&self.name, after);
            }
            Verdict::Dead(reason) => telemetry::count_dead(&self.name, reason),
            Verdict::Again { hold, .. } => {
                if hold.is_some() {
                    // Once more, after the commit: the watch may have looked in between.
                    self.lane.gate.hold(true);
                }
                telemetry::count_retry(&self.name, class);
            }
        }
    }
}

fn cut_off() -> Outcome {
    let mut outcome = Outcome::without_answer(Class::Transient, Some("cut off because the worker stops".to_owned()));
    outcome.counts = false;
    outcome
}

fn log(delivery: &LeasedDelivery, outcome: &Outcome, verdict: &Verdict) {
    if *verdict == Verdict::Delivered {
        tracing::debug!(delivery = %delivery.id, destination = delivery.destination, "delivered");
        return;
    }
    tracing::info!(
        delivery = %delivery.id,
        destination = delivery.destination,
        class = %outcome.class,
        status = outcome.status,
        error = outcome.error,
        ends = verdict.reason().map(|reason| reason.as_str()),
        "an attempt failed"
    );
    if let Verdict::Again { hold: Some(state), .. } = verdict {
        tracing::warn!(destination = delivery.destination, state = %state, "the destination is not sent to any more");
    }
}

/// `\u0000` is legal JSON and fails jsonb.
fn without_nul(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    let clean = |text: String| if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text };
    match value {
        Value::String(text) => Value::String(clean(text)),
        Value::Array(elements) => Value::Array(elements.into_iter().map(without_nul).collect()),
        Value::Object(entries) => {
            Value::Object(entries.into_iter().map(|(key, value)| (clean(key), without_nul(value))).collect())
        }
        other => other,
    }
}
