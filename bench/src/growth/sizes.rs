//! How large a site is made: a number of callbacks, written as people say it.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// More than anybody fills a disk with.
const LARGEST: u64 = 1_000_000_000;

/// Callbacks that are stored before anything is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let problem = || format!("{text:?} is no number of callbacks: write 500, 10k or 1m");
        let lower = text.trim().to_ascii_lowercase();
        let (digits, unit) = match lower.strip_suffix('k') {
            Some(digits) => (digits, 1_000),
            None => lower.strip_suffix('m').map_or((lower.as_str(), 1), |digits| (digits, 1_000_000)),
        };
        let number: u64 = digits.replace('_', "").parse().map_err(|_| problem())?;
        let callbacks = number.checked_mul(unit).filter(|n| (1..=LARGEST).contains(n)).ok_or_else(problem)?;
        Ok(Self(callbacks))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n.is_multiple_of(1_000_000) => write!(f, "{}m", n / 1_000_000),
            n if n.is_multiple_of(1_000) => write!(f, "{}k", n / 1_000),
            n => write!(f, "{n}"),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_say_them_and_written_so() {
        for (text, callbacks, written) in
            [("10k", 10_000, "10k"), ("1M", 1_000_000, "1m"), ("10_000_000", 10_000_000, "10m"), (" 512 ", 512, "512")]
        {
            let size: Result<Size, _> = text.parse();
            assert_eq!(size, Ok(Size(callbacks)), "{text}");
            assert_eq!(Size(callbacks).to_string(), written);
        }
        for text in ["", "0", "k", "-1", "1.5m", "many", "2000m", "99999999999999999999k"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
