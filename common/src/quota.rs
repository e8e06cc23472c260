//! How long a webhook URL of Clay lasts: what is left of it, how fast it is used, and the day on which it runs out.

use time::{Date, Duration, OffsetDateTime, UtcOffset};

/// The days that a forecast looks back on, today included.
pub const DAYS: i32 = 7;
/// Nobody plans further ahead.
const DAYS_AHEAD_MAX: f64 = 36_500.0;

/// What is known of one URL.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Submissions, ever.
    pub used: u64,
    /// How many it takes; `None`: without end.
    pub cap: Option<u64>,
    /// Submissions of the last [`DAYS`] days, in UTC, today included.
    pub lately: u64,
    /// When the first one was counted.
    pub first_used_at: Option<OffsetDateTime>,
    /// Now.
    pub now: OffsetDateTime,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Submissions that it still takes; `None`: without end.
    pub left: Option<u64>,
    /// Submissions per day, over the days since it was first used, at least one and at most [`DAYS`].
    pub per_day: f64,
    /// The day, in UTC, on which it is used up at this pace; `None`: never, or not within a century.
    pub runs_out: Option<Date>,
}

/// Forecasts one URL from its own pace.
pub fn forecast(usage: &Usage) -> Forecast {
    let now = usage.now.to_offset(UtcOffset::UTC);
    let window = now.replace_time(time::Time::MIDNIGHT) - Duration::days(i64::from(DAYS - 1));
    let since = usage.first_used_at.map_or(window, |first| first.max(window));
    let days = ((now - since).as_seconds_f64() / 86_400.0).max(1.0);
    // Far below 2^52.
    let per_day = usage.lately as f64 / days;
    let left = usage.cap.map(|cap| cap.saturating_sub(usage.used));
    let ahead = left.map(|left| left as f64 / per_day).filter(|days| days.is_finite() && *days < DAYS_AHEAD_MAX);
    let runs_out = ahead.and_then(|days| now.checked_add(Duration::seconds_f64(days * 86_400.0)));
    Forecast { left, per_day, runs_out: runs_out.map(OffsetDateTime::date) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::{date, datetime};

    const NOW: OffsetDateTime = datetime!(2030-03-10 12:00 UTC);

    fn of(used: u64, cap: Option<u64>, lately: u64, first: Option<OffsetDateTime>) -> Forecast {
        forecast(&Usage { used, cap, lately, first_used_at: first, now: NOW })
    }

    #[test]
    fn the_pace_is_that_of_the_days_since_the_first_submission_up_to_a_week() {
        let old = of(20_000, Some(50_000), 6_500, Some(datetime!(2029-01-01 00:00 UTC)));
        assert_eq!((old.left, old.per_day), (Some(30_000), 1_000.0));
        assert_eq!(old.runs_out, Some(date!(2030 - 04 - 09)));
        let young = of(4_000, Some(50_000), 4_000, Some(datetime!(2030-03-08 12:00 UTC)));
        assert_eq!(young.per_day, 2_000.0);
        // An import that took an hour is a day's.
        let import = of(4_000, Some(50_000), 4_000, Some(datetime!(2030-03-10 11:00 UTC)));
        assert_eq!((import.per_day, import.runs_out), (4_000.0, Some(date!(2030 - 03 - 22))));
    }

    #[test]
    fn what_is_not_used_or_has_no_cap_never_runs_out() {
        for forecast in [
            of(7, Some(50_000), 0, None),
            of(0, Some(0), 0, None),
            of(1 << 40, None, 1_000_000, Some(datetime!(2029-01-01 00:00 UTC))),
            of(1, Some(u64::MAX), 1, Some(NOW)),
        ] {
            assert_eq!(forecast.runs_out, None, "{forecast:?}");
        }
    }

    #[test]
    fn what_is_used_up_has_run_out_today() {
        let full = of(50_001, Some(50_000), 10, Some(NOW));
        assert_eq!((full.left, full.runs_out), (Some(0), Some(date!(2030 - 03 - 10))));
    }
}
