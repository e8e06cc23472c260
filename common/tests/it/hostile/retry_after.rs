//! Whatever a destination says, the next attempt is never earlier than the schedule, and a day later at most.

use std::time::{Duration, SystemTime};

use common::retry::{DEFAULT_RETRIES, RETRY_AFTER_MAX, next_wait, parse_retry_after};

/// 2026-03-01 12:00:00 UTC.
const NOW: Duration = Duration::from_secs(1_772_366_400);
/// How much later it is read again.
const LATER: Duration = Duration::from_secs(90);

pub(crate) fn check(input: &[u8]) {
    let Ok(value) = std::str::from_utf8(input) else { return };
    let now = SystemTime::UNIX_EPOCH + NOW;
    let asked = parse_retry_after(value, now);
    assert!(asked.is_none_or(|asked| asked <= RETRY_AFTER_MAX), "{value:?} asks for {asked:?}");
    check_meaning(value, asked, parse_retry_after(value, now + LATER));

    let jitter = f64::from(input.first().copied().unwrap_or_default()) / 256.0;
    for (failures, scheduled) in (1..).zip(DEFAULT_RETRIES) {
        let wait = next_wait(&DEFAULT_RETRIES, failures, asked, jitter).unwrap();
        let floor = scheduled.max(asked.unwrap_or_default());
        assert!(wait >= floor, "{value:?}: {wait:?} is earlier than {floor:?}");
        assert!(wait <= floor.mul_f64(1.1) + Duration::from_millis(1), "{value:?}: {wait:?} for {floor:?}");
    }
    assert_eq!(next_wait(&DEFAULT_RETRIES, 9, asked, jitter), None, "a header made the schedule longer");
}

/// Seconds stay what they are as time goes on; a moment comes nearer by as much as has passed.
fn check_meaning(value: &str, asked: Option<Duration>, asked_later: Option<Duration>) {
    let value = value.trim();
    let seconds = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match (asked, asked_later) {
        (Some(asked), Some(later)) if seconds => {
            assert_eq!(asked, later);
            let meant = value.trim_start_matches('0').parse().unwrap_or(if value.contains(|c| c != '0') {
                u64::MAX
            } else {
                0
            });
            assert_eq!(asked, Duration::from_secs(meant).min(RETRY_AFTER_MAX), "{value:?}");
        }
        // Nearer than it was, where it had not been cut at a day.
        (Some(asked), Some(later)) if asked == RETRY_AFTER_MAX => assert!(later >= asked.saturating_sub(LATER)),
        (Some(asked), Some(later)) => assert_eq!(later, asked.saturating_sub(LATER), "{value:?}"),
        (None, None) => assert!(!seconds, "{value:?} is a number of seconds"),
        _ => panic!("{value:?} is understood at one time and not at another"),
    }
}
