//! How the backlog of a destination that is left alone is put off: in groups, for a part of the time, to moments that
//! lie apart. Pure: the clock is an argument.
//!
//! A destination that is broken must cost the others nothing. Taken one by one, its deliveries would go round as often as
//! they come. Taken as fast as they can be, a backlog that has grown while the destination was probed would have the
//! database for itself. And all due at the end of that time, they would all be brought and taken in the instant in which
//! only one is wanted, the probe.

use std::time::Duration;

use tokio::time::Instant;

/// How long a group is waited for. What has come in is in it.
const GATHER: Duration = Duration::from_secs(1);
/// How much longer a pause is than the work before it, up to [`GATHER`].
const REST: u32 = 9;
/// Between the moments at which groups are due.
const APART: Duration = Duration::from_millis(250);
/// Moments; after the last of them it is the first one's turn again.
const MOMENTS: u32 = 40;

/// The groups of one lane since it was left alone.
#[derive(Debug, Default)]
pub(super) struct Groups {
    put_off: u32,
    next_at: Option<Instant>,
}

impl Groups {
    /// How long to wait at `now` before the next group is taken.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        self.next_at.map(|at| at.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }

    /// Learns that a look for a group ended at `now` after `took`, and whether more was there than it brought.
    pub(super) fn looked(&mut self, now: Instant, took: Duration, more_may_wait: bool) {
        self.next_at = now.checked_add(if more_may_wait { (took * REST).min(GATHER) } else { GATHER });
    }

    /// How much later than the end of that time the next group is due.
    pub(super) fn next_delay(&mut self) -> Duration {
        let delay = APART * (self.put_off % MOMENTS);
        self.put_off = self.put_off.wrapping_add(1);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rests_longer_than_it_works_and_waits_where_nothing_is_left() {
        let mut groups = Groups::default();
        let now = Instant::now();
        assert_eq!(groups.pause(now), None);
        groups.looked(now, Duration::from_millis(2), true);
        assert_eq!(groups.pause(now), Some(Duration::from_millis(18)));
        assert_eq!(groups.pause(now + Duration::from_millis(18)), None);
        groups.looked(now, Duration::from_millis(2), false);
        assert_eq!(groups.pause(now), Some(GATHER));
        // As long as a look may take that began before the destination was left alone.
        for more_may_wait in [true, false] {
            groups.looked(now, Duration::from_secs(2), more_may_wait);
            assert_eq!(groups.pause(now), Some(GATHER));
        }
    }

    #[test]
    fn groups_are_due_apart_and_none_of_them_much_later() {
        let mut groups = Groups::default();
        let delays: Vec<_> = (0..MOMENTS).map(|_| groups.next_delay()).collect();
        assert!(delays[0].is_zero() && delays.windows(2).all(|two| two[1] - two[0] == APART), "{delays:?}");
        assert!(groups.next_delay().is_zero());
    }
}
