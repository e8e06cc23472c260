//! When to try again. Pure: the clock and the dice are arguments.

use std::time::{Duration, SystemTime};

use time::format_description::well_known::Iso8601;
use time::{OffsetDateTime, PrimitiveDateTime};

/// The default waits between attempts: nine attempts over about 18 hours.
pub const DEFAULT_RETRIES: [Duration; 8] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(600),
    Duration::from_secs(1_800),
    Duration::from_secs(7_200),
    Duration::from_secs(18_000),
    Duration::from_secs(36_000),
];

/// The longest a destination's Retry-After is honoured: "come back in a month" costs one day.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The part of a wait that jitter may add.
const JITTER_SHARE: f64 = 0.1;

/// The wait before the next attempt, or `None` when the schedule is used up.
///
/// `failures` counts failed attempts including the one just made (≥ 1); `jitter` is uniform in `[0, 1)` and only adds
/// (up to a tenth of the wait). A Retry-After never shortens the wait and is cut at [`RETRY_AFTER_MAX`].
pub fn next_wait(retries: &[Duration], failures: u32, retry_after: Option<Duration>, jitter: f64) -> Option<Duration> {
    let place = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX);
    let scheduled = *retries.get(place)?;
    let asked = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    let wait = scheduled.max(asked);
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
    let added = Duration::try_from_secs_f64(wait.as_secs_f64() * JITTER_SHARE * jitter).unwrap_or_default();
    Some(wait.saturating_add(added))
}

/// Reads a Retry-After header: seconds, HTTP-date, or ISO 8601 timestamp (UTC where it names no offset); a moment in the
/// past is zero. More than [`RETRY_AFTER_MAX`] is that.
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits beyond u64 are still a number of seconds.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let at = httpdate::parse_http_date(value).ok().or_else(|| parse_iso_8601(value))?;
        at.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

fn parse_iso_8601(value: &str) -> Option<SystemTime> {
    let with_offset = OffsetDateTime::parse(value, &Iso8601::DEFAULT);
    let moment = with_offset.or_else(|_| PrimitiveDateTime::parse(value, &Iso8601::DEFAULT).map(|at| at.assume_utc()));
    let since_epoch = moment.ok()? - OffsetDateTime::UNIX_EPOCH;
    // What lies before 1970 lies in the past.
    SystemTime::UNIX_EPOCH.checked_add(since_epoch.try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-03-01 12:00:00 UTC.
    const NOW: Duration = Duration::from_secs(1_772_366_400);

    fn parse(value: &str) -> Option<u64> {
        parse_retry_after(value, SystemTime::UNIX_EPOCH + NOW).map(|wait| wait.as_secs())
    }

    #[test]
    fn the_schedule_is_followed_to_its_end() {
        let mut total = Duration::ZERO;
        for (failures, expected) in (1..).zip(DEFAULT_RETRIES) {
            assert_eq!(next_wait(&DEFAULT_RETRIES, failures, None, 0.0), Some(expected));
            total += expected;
        }
        assert_eq!(total.as_secs() / 3600, 17);
        assert_eq!(next_wait(&DEFAULT_RETRIES, 9, None, 0.0), None);
        assert_eq!(next_wait(&DEFAULT_RETRIES, 9, Some(Duration::from_secs(1)), 0.0), None);
        assert_eq!(next_wait(&DEFAULT_RETRIES, u32::MAX, None, 0.5), None);
        assert_eq!(next_wait(&[], 1, None, 0.0), None);
    }

    #[test]
    fn retry_after_and_jitter_only_add() {
        let retries = [Duration::from_secs(100)];
        for (asked, jitter, expected_ms) in [
            (None, 0.0, 100_000),
            (None, 0.5, 105_000),
            (None, 1.0, 110_000),
            (None, 7.0, 110_000),
            (None, -1.0, 100_000),
            (None, f64::NAN, 100_000),
            (None, f64::INFINITY, 100_000),
            (Some(1), 0.0, 100_000),
            (Some(200), 0.0, 200_000),
            (Some(200), 0.5, 210_000),
            (Some(u64::MAX), 0.0, 86_400_000),
        ] {
            let wait = next_wait(&retries, 1, asked.map(Duration::from_secs), jitter);
            assert_eq!(wait.map(|wait| wait.as_millis()), Some(expected_ms), "{asked:?} {jitter}");
        }
        assert_eq!(next_wait(&[Duration::MAX], 1, None, 0.9), Some(Duration::MAX));
    }

    #[test]
    fn retry_after_is_read_in_its_three_forms() {
        for (value, expected) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("86401", Some(86_400)),
            ("99999999999999999999999999", Some(86_400)),
            ("Sun, 01 Mar 2026 12:01:00 GMT", Some(60)),
            ("Sunday, 01-Mar-26 12:01:00 GMT", Some(60)),
            ("Sun Mar  1 12:01:00 2026", Some(60)),
            ("Sun, 01 Mar 2026 11:00:00 GMT", Some(0)),
            ("Wed, 01 Apr 2026 12:00:00 GMT", Some(86_400)),
            ("2026-03-01T12:01:00Z", Some(60)),
            ("2026-03-01T12:01:00.500Z", Some(60)),
            ("2026-03-01T14:01:00+02:00", Some(60)),
            ("2026-03-01T12:01:00", Some(60)),
            ("20260301T120100Z", Some(60)),
            ("2026-03-01T11:00:00Z", Some(0)),
            ("1890-01-01T00:00:00Z", Some(0)),
            ("2126-03-01T00:00:00Z", Some(86_400)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("10 seconds", None),
            ("2026-13-01T00:00:00Z", None),
            ("12:01:00", None),
            ("½", None),
        ] {
            assert_eq!(parse(value), expected, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn a_wait_is_never_shorter_than_asked_nor_longer_than_bounded(
            retries in prop::collection::vec(0u64..1_000_000_000, 0..10), failures in 0u32..12,
            asked in prop::option::of(any::<u64>()), jitter in any::<f64>(),
        ) {
            let retries: Vec<Duration> = retries.into_iter().map(Duration::from_millis).collect();
            let asked = asked.map(Duration::from_secs);
            let wait = next_wait(&retries, failures, asked, jitter);
            let place = failures.max(1) as usize - 1;
            prop_assert_eq!(wait.is_some(), place < retries.len());
            if let Some(wait) = wait {
                let floor = retries[place].max(asked.unwrap_or_default().min(RETRY_AFTER_MAX));
                prop_assert!(wait >= floor);
                prop_assert!(wait <= floor.mul_f64(1.1) + Duration::from_millis(1));
            }
        }

        #[test]
        fn no_header_makes_it_panic(value in any::<String>()) {
            prop_assert!(parse_retry_after(&value, SystemTime::UNIX_EPOCH + NOW).is_none_or(|wait| wait <= RETRY_AFTER_MAX));
        }

        #[test]
        fn what_is_written_as_a_date_is_read_as_one(seconds in 0u64..86_400) {
            let at = SystemTime::UNIX_EPOCH + NOW + Duration::from_secs(seconds);
            prop_assert_eq!(parse(&httpdate::fmt_http_date(at)), Some(seconds));
        }
    }
}
