//! Moments as people write and read them on a command line.

use std::str::FromStr;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use uuid::Uuid;

/// A moment: so long ago (`90m`, `24h`, `7d`), or an RFC 3339 timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Since(pub(crate) OffsetDateTime);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
            return Ok(Self(moment));
        }
        let ago = parse_ago(text).ok_or("write 90m, 24h, 7d, or a moment like 2030-01-31T00:00:00Z")?;
        OffsetDateTime::now_utc()
            .checked_sub(ago.try_into().map_err(|_| "that is too long ago")?)
            .map(Self)
            .ok_or_else(|| "that is too long ago".to_owned())
    }
}

/// So much time: a number and its unit.
pub(crate) fn parse_ago(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

/// How long something may take: as [`parse_ago`], and not nothing.
pub(crate) fn parse_limit(text: &str) -> Result<Duration, String> {
    parse_ago(text).filter(|limit| !limit.is_zero()).ok_or_else(|| "write 90s, 10m or 1h".to_owned())
}

/// A place in a list: a moment and an id.
pub(crate) fn parse_position(text: &str) -> Result<(OffsetDateTime, Uuid), String> {
    let position = || {
        let (moment, id) = text.split_once('/')?;
        Some((OffsetDateTime::parse(moment, &Rfc3339).ok()?, id.parse().ok()?))
    };
    position().ok_or_else(|| "take it as the page before printed it".to_owned())
}

/// The same, as [`parse_position`] reads it.
pub(crate) fn written_position((moment, id): (OffsetDateTime, Uuid)) -> String {
    // Rfc3339 has no years beyond 9999, and neither has what was received.
    format!("{}/{id}", moment.format(&Rfc3339).unwrap_or_else(|_| moment.to_string()))
}

/// So much time, in its two largest units.
pub(crate) fn shown_seconds(seconds: f64) -> String {
    if seconds < 10.0 && seconds.fract() != 0.0 {
        return format!("{seconds:.1}s");
    }
    // Far below 2^64; negative times are none.
    let whole = seconds.round().max(0.0) as u64;
    let parts = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")].map(|(unit, name)| (whole / unit, unit, name));
    let Some((n, unit, name)) = parts.into_iter().find(|(n, ..)| *n > 0) else { return "0s".to_owned() };
    let rest = parts
        .into_iter()
        .find(|(_, smaller, _)| *smaller < unit)
        .map(|(_, smaller, name)| (whole % unit / smaller, name));
    match rest {
        Some((n_rest @ 1.., name_rest)) => format!("{n}{name} {n_rest}{name_rest}"),
        _ => format!("{n}{name}"),
    }
}

/// A moment for a table, to the second, in UTC.
pub(crate) fn shown(moment: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    moment.to_offset(time::UtcOffset::UTC).format(&format).unwrap_or_else(|_| moment.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_shown_in_two_units() {
        for (seconds, shown) in [
            (0.0, "0s"),
            (5.0, "5s"),
            (0.44, "0.4s"),
            (42.4, "42s"),
            (60.0, "1m"),
            (190.0, "3m 10s"),
            (18_120.0, "5h 2m"),
            (18_030.0, "5h"),
            (90_000.0, "1d 1h"),
        ] {
            assert_eq!(shown_seconds(seconds), shown);
        }
    }

    #[test]
    fn a_position_reads_back() {
        let position = (OffsetDateTime::from_unix_timestamp_nanos(1_893_456_000_123_456_000).unwrap(), Uuid::now_v7());
        assert_eq!(parse_position(&written_position(position)), Ok(position));
        assert!(parse_position("yesterday").is_err());
    }

    #[test]
    fn ago_or_a_moment() {
        let hour = OffsetDateTime::now_utc() - "1h".parse::<Since>().unwrap().0;
        assert!((hour - time::Duration::hours(1)).abs() < time::Duration::seconds(5));
        let moment: Since = "2030-01-31T00:00:00Z".parse().unwrap();
        assert_eq!(shown(moment.0), "2030-01-31 00:00:00Z");
        for nonsense in ["", "h", "1y", "-1h", "yesterday", "1é", "99999999999999999999d", "9999999999999d"] {
            assert!(nonsense.parse::<Since>().is_err(), "{nonsense}");
        }
    }
}
