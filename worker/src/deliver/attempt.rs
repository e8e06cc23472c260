//! One attempt: check the lease, send, judge, have it recorded, give the slot back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use common::crash::{self, Point};
use common::db::attempts::{Attempt, Verdict};
use common::db::deliveries;
use common::queue::QueueName;
use common::states::Class;
use futures_util::FutureExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{LaneWork, telemetry, verdict};
use crate::destinations::{Outcome, Target};
use crate::lanes::{LeasedDelivery, Started};

/// What has to be left of a lease beyond a request's total time: to write down how it went.
const RECORD_MARGIN: Duration = Duration::from_secs(5);

impl LaneWork {
    /// Makes an attempt in a task of its own.
    pub(super) fn spawn(self: &Arc<Self>, started: Started) {
        let work = Arc::clone(self);
        self.lane.gate.start();
        self.attempts.spawn(async move {
            let Started { delivery, permit } = started;
            work.attempt(delivery, permit).await;
        });
    }

    /// Ends a delivery whose lead was removed: there is nothing to send.
    pub(super) fn spawn_unsendable(self: &Arc<Self>, started: Started) {
        let work = Arc::clone(self);
        self.attempts.spawn(async move {
            let Started { delivery, permit } = started;
            let mut outcome = Outcome::without_answer(Class::Poison, Some("its lead was removed".to_owned()));
            outcome.unsendable = true;
            let verdict = verdict::judge(&outcome, &work.retries, delivery.failures, 0.0);
            work.record(&delivery, outcome, verdict, Instant::now(), Duration::ZERO, permit).await;
        });
    }

    async fn attempt(&self, delivery: LeasedDelivery, permit: OwnedSemaphorePermit) {
        let has_time = || self.has_time(&delivery);
        if self.lane.gate.is_held() || !has_time() {
            self.give_back(&delivery).await;
            return;
        }
        crash::point(Point::AfterLease);
        let begun = Instant::now();
        let outcome = tokio::select! {
            sent = AssertUnwindSafe(self.target.send(&delivery, &has_time)).catch_unwind() => sent.unwrap_or_else(|_| {
                Outcome::without_answer(Class::Poison, Some("the attempt broke inside this program".to_owned()))
            }),
            () = self.cut.cancelled() => cut_off(),
        };
        crash::point(Point::AfterSend);
        let duration = begun.elapsed();
        if !matches!(self.target, Target::Log) {
            telemetry::count_attempt(&self.name, duration);
        }
        self.lane.gate.report(&outcome);
        let verdict = verdict::judge(&outcome, &self.retries, delivery.failures, rand::random());
        log(&delivery, &outcome, &verdict);
        self.record(&delivery, outcome, verdict, begun, duration, permit).await;
    }

    /// Whether the lease outlives one more request and its record.
    fn has_time(&self, delivery: &LeasedDelivery) -> bool {
        delivery.lease_deadline.saturating_duration_since(Instant::now()) > self.timeout + RECORD_MARGIN
    }

    /// Gives a lease back under which nothing was sent.
    async fn give_back(&self, delivery: &LeasedDelivery) {
        self.lane.gate.abandon();
        match deliveries::give_back(&self.database, &self.name, &[delivery.id], delivery.lease_token).await {
            Ok(_) => self.doorbell.ring(&QueueName::deliver(&self.name)),
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                delivery = %delivery.id,
                "a lease could not be given back; it runs out"
            ),
        }
    }

    /// Has the outcome written. The slot is given back as soon as the outcome is on its way: the next request need not
    /// wait for this one's commit, and shares it with more of its neighbours.
    async fn record(
        &self,
        delivery: &LeasedDelivery,
        outcome: Outcome,
        verdict: Verdict,
        begun: Instant,
        duration: Duration,
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
        };
        let Some(written) = self.recorder.submit(attempt, begun).await else { return };
        drop(permit);
        let Ok(recorded) = written.await else { return };
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
