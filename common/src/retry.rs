//! When to try again.

use std::time::{Duration, SystemTime};

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

/// The longest a destination's Retry-After is honoured.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The wait before the next attempt, or `None` when the schedule is used up.
///
/// `failures` counts failed attempts including the one just made (≥ 1); `jitter` is uniform in `[0, 1)` and only adds
/// (up to a tenth of the wait). A Retry-After never shortens the wait and is cut at [`RETRY_AFTER_MAX`].
pub fn next_wait(retries: &[Duration], failures: u32, retry_after: Option<Duration>, jitter: f64) -> Option<Duration> {
    let _ = (retries, failures, retry_after, jitter);
    todo!()
}

/// Reads a Retry-After header: seconds, HTTP-date, or ISO 8601 timestamp; a moment in the past is zero.
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let _ = (value, now);
    todo!()
}
