//! What came of a load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::connection::Answer;
use crate::measure::{Latencies, Quantiles};

/// Answers, failures and latencies of one stretch of load, or of several.
#[derive(Debug, Default)]
pub struct Tally {
    /// Its first and its last moment; `None`: it only has what was added.
    span: Option<(Instant, Instant)>,
    /// How long the others took that were added.
    added: Duration,
    answers: u64,
    failures: BTreeMap<String, u64>,
    latencies: Latencies,
}

impl Tally {
    /// An empty one that begins now.
    pub(super) fn start() -> Self {
        let now = Instant::now();
        Self { span: Some((now, now)), ..Self::default() }
    }

    /// Counts what came of one request.
    pub(super) fn count(&mut self, answer: std::io::Result<Answer<'_>>, latency: Duration) {
        if let Some((_, last)) = &mut self.span {
            *last = Instant::now();
        }
        match answer {
            Ok(answer) if is_taken(&answer) => {
                self.answers += 1;
                self.latencies.add(latency);
            }
            Ok(answer) => *self.failures.entry(format!("status {}", answer.status)).or_default() += 1,
            Err(error) => *self.failures.entry(error.kind().to_string()).or_default() += 1,
        }
    }

    /// Adds another stretch.
    pub fn add(&mut self, other: &Self) {
        self.added += other.length();
        self.answers += other.answers;
        for (failure, n) in &other.failures {
            *self.failures.entry(failure.clone()).or_default() += n;
        }
        self.latencies.add_all(&other.latencies);
    }

    fn length(&self) -> Duration {
        self.added + self.span.map_or(Duration::ZERO, |(started, last)| last - started)
    }

    /// Requests that were answered as taken or as a repeat.
    pub fn answers(&self) -> u64 {
        self.answers
    }

    /// The others.
    pub fn failures(&self) -> &BTreeMap<String, u64> {
        &self.failures
    }

    /// From the start to the last answer, of all stretches.
    pub fn seconds(&self) -> f64 {
        self.length().as_secs_f64()
    }

    /// The latencies of the answers.
    pub fn latency(&self) -> Quantiles {
        self.latencies.quantiles()
    }
}

/// A callback in the spool is safe, but Postgres was not asked: no such answer belongs into a measurement.
fn is_taken(answer: &Answer<'_>) -> bool {
    const SPOOLED: &[u8] = br#""status":"spooled""#;
    answer.status == 200 && !answer.body.windows(SPOOLED.len()).any(|window| window == SPOOLED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spooled_and_refused_callbacks_are_failures() {
        let mut tally = Tally::start();
        for (status, body) in [
            (200, &br#"{"status":"accepted","duplicate":false}"#[..]),
            (200, br#"{"status":"duplicate","duplicate":true}"#),
            (200, br#"{"received":true,"status":"spooled"}"#),
            (429, b"{}"),
        ] {
            tally.count(Ok(Answer { status, body }), Duration::from_millis(1));
        }
        tally.count(Err(std::io::ErrorKind::UnexpectedEof.into()), Duration::ZERO);
        assert_eq!(tally.answers(), 2);
        assert_eq!(tally.failures().values().sum::<u64>(), 3);
        assert!(tally.failures().contains_key("status 429"), "{:?}", tally.failures());
    }

    #[test]
    fn stretches_add_up_without_what_lies_between_them() {
        let mut all = Tally::default();
        for _ in 0..2 {
            let mut stretch = Tally::start();
            let answer = Answer { status: 200, body: br#"{"status":"accepted"}"# };
            stretch.count(Ok(answer), Duration::from_millis(3));
            stretch.count(Ok(Answer { status: 503, body: b"" }), Duration::ZERO);
            stretch.span = stretch.span.map(|(started, _)| (started, started + Duration::from_secs(5)));
            all.add(&stretch);
        }
        assert_eq!((all.answers(), all.seconds(), all.latency().count), (2, 10.0, 2));
        assert_eq!(all.failures(), &BTreeMap::from([("status 503".to_owned(), 2)]));
    }
}
