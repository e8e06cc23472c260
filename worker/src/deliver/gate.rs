//! Whether a lane may send: held by an operator or its own answers, throttled, broken, or open.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::config::BreakerConfig;
use common::states::Class;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::breaker::{Breaker, Pass};
use crate::destinations::Outcome;

/// The gate of one lane. Knows of this process alone; what holds everywhere is in `destination_state`.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    held: bool,
    throttled_until: Option<Instant>,
    breaker: Breaker,
}

/// What a lane may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// Send.
    Open,
    /// Send one.
    Probe,
    /// Wait for what comes of that one.
    Probing,
    /// Nothing before this time.
    Later(Instant),
    /// Nothing, until an operator says so.
    Held,
}

impl Gate {
    pub(crate) fn new(breaker: BreakerConfig) -> Self {
        let state = State { held: false, throttled_until: None, breaker: Breaker::new(breaker) };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Whether anything may go at once.
    pub(crate) fn is_open(&self) -> bool {
        self.passage(Instant::now()) == Passage::Open
    }

    /// Whether it waits for an operator.
    pub(super) fn is_held(&self) -> bool {
        self.lock().held
    }

    pub(super) fn passage(&self, now: Instant) -> Passage {
        let state = self.lock();
        if state.held {
            return Passage::Held;
        }
        if let Some(until) = state.throttled_until.filter(|until| now < *until) {
            return Passage::Later(until);
        }
        match state.breaker.pass(now) {
            Pass::Through => Passage::Open,
            Pass::Probe => Passage::Probe,
            Pass::Probing => Passage::Probing,
            Pass::Until(until) => Passage::Later(until),
        }
    }

    /// Holds the lane, or lets it go. Answers whether that is new. Whoever lets it go wants it tried at once, whatever
    /// it answered before.
    pub(super) fn hold(&self, held: bool) -> bool {
        let mut state = self.lock();
        let is_new = state.held != held;
        state.held = held;
        if is_new && !held {
            state.throttled_until = None;
            state.breaker.succeed();
        }
        drop(state);
        if is_new {
            self.changed.notify_waiters();
        }
        is_new
    }

    /// Says that a request goes.
    pub(super) fn start(&self) {
        self.lock().breaker.start(Instant::now());
    }

    /// Says that nothing was sent after all.
    pub(super) fn abandon(&self) {
        self.lock().breaker.ignore(Instant::now());
    }

    /// Learns from an outcome.
    pub(super) fn report(&self, outcome: &Outcome) {
        let now = Instant::now();
        let mut state = self.lock();
        match outcome.class {
            Class::Delivered | Class::Permanent if outcome.status.is_some() => state.breaker.succeed(),
            Class::Transient if outcome.counts => state.breaker.fail(now),
            Class::Throttled => {
                state.breaker.succeed();
                let until = outcome.retry_after.and_then(|wait| now.checked_add(wait));
                state.throttled_until = state.throttled_until.max(until);
            }
            _ => state.breaker.ignore(now),
        }
        state.held |= matches!(outcome.class, Class::Unauthorized | Class::Gone);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Waits for a change, at most `limit`.
    pub(super) async fn changed(&self, limit: Duration) {
        let _either = tokio::time::timeout(limit, self.changed.notified()).await;
    }

    /// Whole at every point where a panic could happen.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
