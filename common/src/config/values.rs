//! How durations, sizes, rates, statuses and names are written. Pure; what an `Err` says continues a sentence that
//! starts with the value.

use std::time::Duration;

use super::{Rate, StatusSet};

/// `250ms`, `5s`, `2m`, `2h`, `30d`, `1w`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let how = || "is not a duration: write a number and its unit (ms, s, m, h, d, w), for example \"30s\"".to_owned();
    let (digits, unit) = split_number(text).ok_or_else(how)?;
    let number: u64 = digits.parse().map_err(|_| how())?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        _ => return Err(how()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(how)
}

/// The shortest way to write a duration.
pub(super) fn format_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    for (unit_ms, unit) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if ms > 0 && ms.is_multiple_of(unit_ms) {
            return format!("{}{unit}", ms / unit_ms);
        }
    }
    format!("{ms}ms")
}

/// `512B`, `100KB`, `64KiB`, `1MB`, `1MiB`, `1GB`, `1GiB`, in bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let how =
        || "is not a size: write a number and its unit (B, KB, KiB, MB, MiB, GB, GiB), for example \"1MiB\"".to_owned();
    let (digits, unit) = split_number(text).ok_or_else(how)?;
    let number: u64 = digits.parse().map_err(|_| how())?;
    let unit_bytes: u64 = match unit {
        "B" => 1,
        "KB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err(how()),
    };
    number.checked_mul(unit_bytes).ok_or_else(how)
}

/// The shortest way to write a size.
pub(super) fn format_size(bytes: u64) -> String {
    for (unit_bytes, unit) in
        [(1 << 30, "GiB"), (1_000_000_000, "GB"), (1 << 20, "MiB"), (1_000_000, "MB"), (1 << 10, "KiB"), (1_000, "KB")]
    {
        if bytes > 0 && bytes.is_multiple_of(unit_bytes) {
            return format!("{}{unit}", bytes / unit_bytes);
        }
    }
    format!("{bytes}B")
}

/// `10/s`, `300/m`, `400/h`, `2000/d`; the burst is one second's worth, at least 1.
pub(super) fn parse_rate(text: &str) -> Result<Rate, String> {
    let how = || "is not a rate: write a number per s, m, h or d, for example \"10/s\" or \"300/m\"".to_owned();
    let (number, unit) = text.split_once('/').ok_or_else(how)?;
    let number: u32 = number.trim().parse().map_err(|_| how())?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(how()),
    };
    if !(1..=1_000_000).contains(&number) {
        return Err("is out of range: a rate is between 1 and 1000000 (to stop a destination, pause it)".to_owned());
    }
    let per_second = f64::from(number) / seconds;
    // In 1..=1_000_000 by the check above, so the conversion is exact enough and in range.
    Ok(Rate { per_second, burst: per_second.ceil().max(1.0) as u32 })
}

/// One entry of a status set: `200` or `201-204`.
pub(super) fn parse_status(text: &str, into: &mut StatusSet) -> Result<(), String> {
    let how = || "is not a status: write 100 to 599 or a range, for example 409 or \"201-204\"".to_owned();
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let from: u16 = from.trim().parse().map_err(|_| how())?;
    let to: u16 = to.trim().parse().map_err(|_| how())?;
    if from < 100 || to > 599 || from > to {
        return Err(how());
    }
    into.0.push(from..=to);
    Ok(())
}

/// Names of sources, destinations and rules: `[a-z][a-z0-9_-]*`, at most 63 characters.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let mut characters = name.chars();
    let starts = characters.next().is_some_and(|first| first.is_ascii_lowercase());
    let goes_on = characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
    if starts && goes_on && name.len() <= 63 {
        return Ok(());
    }
    Err("is not a usable name: start with a letter a-z and go on with a-z, 0-9, _ or -, at most 63 characters"
        .to_owned())
}

/// A header's name, as lower case.
pub(super) fn parse_header_name(text: &str) -> Result<String, String> {
    let usable = !text.is_empty()
        && text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    if usable { Ok(text.to_ascii_lowercase()) } else { Err("is not a header name".to_owned()) }
}

/// A JSON pointer (RFC 6901) into an object: it starts with `/`.
pub(super) fn check_pointer(text: &str) -> Result<(), String> {
    let escapes_are_whole = text.split('~').skip(1).all(|after| after.starts_with('0') || after.starts_with('1'));
    if text.starts_with('/') && text.len() <= 256 && escapes_are_whole {
        return Ok(());
    }
    Err("is not a JSON pointer: start with /, for example \"/Work Email\" (~1 stands for / and ~0 for ~)".to_owned())
}

fn split_number(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(end);
    (!digits.is_empty()).then_some((digits, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn durations_are_numbers_with_a_unit() {
        for (text, ms) in [("250ms", 250), ("5s", 5_000), ("2m", 120_000), ("30d", 2_592_000_000), ("1w", 604_800_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "s", "-5s", "1.5s", "5 parsecs", "5S", "99999999999999999999d", "18446744073709551615w"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_and_sizes_are_written_as_they_are_read() {
        for text in ["250ms", "5s", "2m", "3h", "30d", "0ms"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["512B", "100KB", "1KiB", "1MiB", "2MB", "3GiB", "1GB", "0B"] {
            assert_eq!(format_size(parse_size(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        assert_eq!(parse_size("1MiB"), Ok(1_048_576));
        assert_eq!(parse_size("100KB"), Ok(100_000));
        assert_eq!(parse_size("100 KB"), Ok(100_000));
        for text in ["", "12", "MiB", "1mib", "1TB", "-1B", "18446744073709551615KB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_hold_a_second_of_burst() {
        for (text, per_second, burst) in [
            ("10/s", 10.0, 10),
            ("300/m", 5.0, 5),
            ("400/h", 400.0 / 3600.0, 1),
            ("90/m", 1.5, 2),
            ("1 / d", 1.0 / 86_400.0, 1),
        ] {
            assert_eq!(parse_rate(text), Ok(Rate { per_second, burst }), "{text}");
        }
        for text in ["", "10", "10/", "/s", "0/s", "1.5/s", "10/week", "9999999/s"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn statuses_are_single_or_ranges() {
        let mut set = StatusSet::default();
        parse_status("409", &mut set).unwrap();
        parse_status("201-204", &mut set).unwrap();
        assert!(set.contains(409) && set.contains(202) && !set.contains(205));
        for text in ["", "99", "600", "204-201", "2xx", "200-"] {
            assert!(parse_status(text, &mut set).is_err(), "{text}");
        }
    }

    #[test]
    fn names_headers_and_pointers_are_checked() {
        for name in ["a", "website-form", "crm_sync2"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "A", "2a", "-a", "a b", "ä", "a.b", &"a".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert_eq!(parse_header_name("X-Clay-Signature"), Ok("x-clay-signature".to_owned()));
        assert!(parse_header_name("X Clay").is_err());
        assert!(parse_header_name("").is_err());
        assert!(check_pointer("/Work Email").is_ok());
        assert!(check_pointer("/a~1b/0").is_ok());
        for pointer in ["", "email", "/a~2", "/a~"] {
            assert!(check_pointer(pointer).is_err(), "{pointer}");
        }
    }
}
