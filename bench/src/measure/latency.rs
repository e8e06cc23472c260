//! Latencies, from a microsecond to a minute, to three digits.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

const LONGEST_US: u64 = 60_000_000;

/// Latencies as they come.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    #[expect(clippy::expect_used, reason = "the bounds are constants that the histogram takes")]
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_US, 3).expect("valid bounds"))
    }

    /// Adds one; what is longer than a minute counts as a minute.
    pub fn add(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(LONGEST_US));
    }

    /// Adds those of another.
    pub fn add_all(&mut self, other: &Self) {
        for value in other.0.iter_recorded() {
            self.0.saturating_record_n(value.value_iterated_to(), value.count_at_value());
        }
    }

    /// What they say.
    pub fn quantiles(&self) -> Quantiles {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        Quantiles {
            count: self.0.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: self.0.max() as f64 / 1000.0,
        }
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

/// Quantiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Of how many.
    pub count: u64,
    /// Half of them.
    pub p50: f64,
    /// 99 of a hundred.
    pub p99: f64,
    /// 999 of a thousand.
    pub p999: f64,
    /// All of them.
    pub max: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_in_milliseconds_and_the_longest_counts_as_a_minute() {
        let mut latencies = Latencies::new();
        for us in 1..=1000 {
            latencies.add(Duration::from_micros(us * 10));
        }
        let mut other = Latencies::new();
        other.add(Duration::from_secs(3600));
        latencies.add_all(&other);
        let quantiles = latencies.quantiles();
        assert_eq!(quantiles.count, 1001);
        assert!((quantiles.p50 - 5.0).abs() < 0.05, "{quantiles:?}");
        assert!((quantiles.p99 - 9.9).abs() < 0.05, "{quantiles:?}");
        assert!((quantiles.max - 60_000.0).abs() < 100.0, "{quantiles:?}");
    }
}
