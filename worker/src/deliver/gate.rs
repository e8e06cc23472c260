//! Whether a lane may send: held by an operator or its own answers, throttled, broken, or open.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::config::BreakerConfig;
use common::states::Class;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::breaker::{Breaker, Pass};
use crate::destinations::Outcome;

/// How long a refusal holds its lane whatever the table says: its record is a commit away.
const REFUSAL_STANDS: Duration = Duration::from_secs(2);

/// The gate of one lane. Knows of this process alone; what holds everywhere is in `destination_state`.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    held: bool,
    /// When an answer last held it.
    refused_at: Option<Instant>,
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
        let state = State { held: false, refused_at: None, throttled_until: None, breaker: Breaker::new(breaker) };
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

    /// Holds the lane because of an answer that is not in the table yet. Answers whether that is new.
    pub(super) fn refuse(&self) -> bool {
        self.lock().refused_at = Some(Instant::now());
        self.hold(true)
    }

    /// Takes over what the table said at `asked_at`. What an answer has just said may not be in the table yet, so it
    /// stands for [`REFUSAL_STANDS`]. Answers whether anything changed.
    pub(super) fn follow(&self, held: bool, asked_at: Instant) -> bool {
        let is_fresh = self.lock().refused_at.is_some_and(|at| asked_at < at + REFUSAL_STANDS);
        (held || !is_fresh) && self.hold(held)
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
        if matches!(outcome.class, Class::Unauthorized | Class::Gone) {
            state.held = true;
            state.refused_at = Some(now);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_came_too_early_does_not_lift_what_an_answer_said() {
        let gate = Gate::new(BreakerConfig { failures: 0, open: Duration::ZERO, open_max: Duration::ZERO });
        gate.report(&Outcome::without_answer(Class::Unauthorized, None));
        let refused_at = Instant::now();
        assert!(!gate.follow(false, refused_at));
        assert!(gate.is_held());
        assert!(gate.follow(false, refused_at + REFUSAL_STANDS));
        assert!(!gate.is_held());
        assert!(gate.follow(true, refused_at));
        assert!(gate.is_held());
    }
}
