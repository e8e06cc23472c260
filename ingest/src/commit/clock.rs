//! The database's clock, as far as it is known while the database is away.

use std::sync::atomic::{AtomicI64, Ordering};

use time::{Duration, OffsetDateTime};

/// This machine's clock, corrected by how far it was off when Postgres last answered. Receipt times of spooled
/// entries come from here, so that a wrong clock on one replica does not reorder revisions.
#[derive(Debug, Default)]
pub(crate) struct DatabaseClock {
    offset_us: AtomicI64,
}

impl DatabaseClock {
    /// Notes that the database said `theirs` when this machine's clock said `ours`.
    pub(crate) fn observe(&self, theirs: OffsetDateTime, ours: OffsetDateTime) {
        let offset = (theirs - ours).whole_microseconds();
        self.offset_us.store(i64::try_from(offset).unwrap_or(0), Ordering::Relaxed);
    }

    /// What the database would say now, give or take a commit's duration. In whole microseconds, as Postgres keeps it.
    pub(crate) fn now(&self) -> OffsetDateTime {
        let now = OffsetDateTime::now_utc() + Duration::microseconds(self.offset_us.load(Ordering::Relaxed));
        now.replace_nanosecond(now.microsecond() * 1_000).unwrap_or(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_database_not_the_machine() {
        let clock = DatabaseClock::default();
        let ours = OffsetDateTime::now_utc();
        clock.observe(ours - Duration::hours(1), ours);
        let drift = clock.now() - (OffsetDateTime::now_utc() - Duration::hours(1));
        assert!(drift.abs() < Duration::seconds(1), "{drift}");
    }
}
