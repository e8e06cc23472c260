//! A circuit breaker: after failures in a row a destination is left alone, then tried with one request. Pure: the clock
//! is an argument.

use std::time::Duration;

use common::config::BreakerConfig;
use tokio::time::Instant;

/// A probe that has not reported for so long is taken as lost, and another may go.
const PROBE_LOST: Duration = Duration::from_secs(300);

/// Whether requests may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// They may.
    Through,
    /// One may, to see whether the destination is back.
    Probe,
    /// That one is under way.
    Probing,
    /// Not before.
    Until(Instant),
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open { until: Instant },
    Probing { since: Instant },
}

/// The breaker of one destination in one process.
#[derive(Debug)]
pub(super) struct Breaker {
    config: BreakerConfig,
    state: State,
    failures: u32,
    /// How long it opens the next time.
    open: Duration,
}

impl Breaker {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self { config, state: State::Closed, failures: 0, open: config.open }
    }

    /// Whether requests may go at `now`.
    pub(super) fn pass(&self, now: Instant) -> Pass {
        match self.state {
            State::Closed => Pass::Through,
            State::Open { until } if now < until => Pass::Until(until),
            State::Probing { since } if now < since + PROBE_LOST => Pass::Probing,
            State::Open { .. } | State::Probing { .. } => Pass::Probe,
        }
    }

    /// Says that a request goes.
    pub(super) fn start(&mut self, now: Instant) {
        if self.pass(now) == Pass::Probe {
            self.state = State::Probing { since: now };
        }
    }

    /// The destination is alive.
    pub(super) fn succeed(&mut self) {
        self.state = State::Closed;
        self.failures = 0;
        self.open = self.config.open;
    }

    /// A request went without saying anything about the destination: another may probe.
    pub(super) fn ignore(&mut self, now: Instant) {
        if matches!(self.state, State::Probing { .. }) {
            self.state = State::Open { until: now };
        }
    }

    /// The destination failed. Stragglers that were sent before it opened do not open it further.
    pub(super) fn fail(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let opens = match self.state {
            State::Closed => self.config.failures > 0 && self.failures >= self.config.failures,
            State::Probing { .. } => true,
            State::Open { .. } => false,
        };
        if opens {
            self.state = State::Open { until: now + self.open };
            self.open = (self.open * 2).min(self.config.open_max.max(self.config.open));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: BreakerConfig =
        BreakerConfig { failures: 3, open: Duration::from_secs(10), open_max: Duration::from_secs(15) };

    #[test]
    fn it_opens_probes_once_and_opens_longer() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut breaker = Breaker::new(CONFIG);
        breaker.fail(start);
        breaker.fail(start);
        breaker.succeed();
        breaker.fail(start);
        breaker.fail(start);
        assert_eq!(breaker.pass(start), Pass::Through);
        breaker.fail(start);
        assert_eq!(breaker.pass(at(9)), Pass::Until(at(10)));
        breaker.fail(at(9));
        assert_eq!(breaker.pass(at(10)), Pass::Probe);
        breaker.start(at(10));
        assert_eq!(breaker.pass(at(11)), Pass::Probing);
        breaker.fail(at(12));
        assert_eq!(breaker.pass(at(26)), Pass::Until(at(27)));
        assert_eq!(breaker.pass(at(27)), Pass::Probe);
        breaker.start(at(27));
        breaker.ignore(at(28));
        assert_eq!(breaker.pass(at(28)), Pass::Probe);
        breaker.start(at(28));
        assert_eq!(breaker.pass(at(28 + 300)), Pass::Probe);
        breaker.succeed();
        assert_eq!(breaker.pass(at(28)), Pass::Through);
    }

    #[test]
    fn none_failures_means_never() {
        let mut breaker = Breaker::new(BreakerConfig { failures: 0, ..CONFIG });
        for _ in 0..100 {
            breaker.fail(Instant::now());
        }
        assert_eq!(breaker.pass(Instant::now()), Pass::Through);
    }
}
