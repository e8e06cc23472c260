//! The rate of a workspace: a bucket of `burst` requests that fills at `per_second`. Pure: the clock is the caller's.

use std::time::Instant;

/// A rate with its burst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Requests per second, above 0.
    pub per_second: f64,
    /// How many may come at once after a quiet time.
    pub burst: u32,
}

impl Limit {
    /// What every webhook of a Clay workspace shares.
    pub const CLAY: Self = Self { per_second: 10.0, burst: 20 };
}

/// How full the bucket is.
#[derive(Debug)]
pub(crate) struct Bucket {
    limit: Option<Limit>,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one. `None` never runs empty.
    pub(crate) fn new(limit: Option<Limit>, now: Instant) -> Self {
        Self { limit, tokens: limit.map_or(0.0, |limit| f64::from(limit.burst)), at: now }
    }

    /// Whether a request may pass at `now`.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let Some(limit) = self.limit else { return true };
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * limit.per_second).min(f64::from(limit.burst));
        self.at = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Some(Limit::CLAY), start);
        assert_eq!((0..30).filter(|_| bucket.take(start)).count(), 20);
        let passed = |bucket: &mut Bucket, ms| bucket.take(start + Duration::from_millis(ms));
        assert!(!passed(&mut bucket, 99));
        assert!(passed(&mut bucket, 101));
        assert!(!passed(&mut bucket, 150));
        let later = start + Duration::from_secs(60);
        assert_eq!((0..30).filter(|_| bucket.take(later)).count(), 20, "a quiet minute fills it once");
        assert!((0..1000).all(|_| Bucket::new(None, start).take(start)));
    }
}
