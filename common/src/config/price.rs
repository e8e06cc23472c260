//! What a row costs: a decimal number without a currency, exact to a millionth.

use std::fmt;

/// The longest fraction, in digits.
const DIGITS: usize = 6;
/// Millionths of one.
const ONE: u64 = 1_000_000;
/// The highest price of one row, in ones.
const MAX: u64 = 1_000_000;

/// A price, in whatever unit its user counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Price(u64);

impl Price {
    /// Reads `0.012`. What an `Err` says continues a sentence that starts with the value.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let how = || "is not a price: write a decimal number of at most six places from 0 to 1000000, such as 0.012";
        let (whole, fraction) = text.split_once('.').map_or((text, "0"), |(whole, fraction)| (whole, fraction));
        let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !are_digits(whole) || !are_digits(fraction) || fraction.len() > DIGITS {
            return Err(how().to_owned());
        }
        let whole: u64 = whole.parse().map_err(|_| how().to_owned())?;
        let fraction: u64 = format!("{fraction:0<DIGITS$}").parse().map_err(|_| how().to_owned())?;
        let price = whole.checked_mul(ONE).and_then(|ones| ones.checked_add(fraction));
        price.filter(|price| *price <= MAX * ONE).map(Self).ok_or_else(|| how().to_owned())
    }

    /// What `n` rows cost.
    pub fn times(self, n: u64) -> Self {
        Self(self.0.saturating_mul(n))
    }

    /// The part of one of `n`, rounded to a millionth; `None` where there are none.
    pub fn shared_by(self, n: u64) -> Option<Self> {
        (n > 0).then(|| Self(self.0.saturating_add(n / 2) / n))
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:0DIGITS$}", self.0 % ONE);
        let fraction = fraction.trim_end_matches('0');
        write!(f, "{}", self.0 / ONE)?;
        if fraction.is_empty() { Ok(()) } else { write!(f, ".{fraction}") }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn prices_are_exact_decimals() {
        for (text, shown) in [("0.012", "0.012"), ("3", "3"), ("1.50", "1.5"), ("0", "0"), ("1000000", "1000000")] {
            assert_eq!(Price::parse(text).unwrap().to_string(), shown);
        }
        for text in ["", ".5", "5.", "-1", "1,5", "1e3", "0.0000001", "1000000.1", "99999999999999999999", "NaN", "$1"]
        {
            assert!(Price::parse(text).is_err(), "{text}");
        }
        let price = Price::parse("0.012").unwrap();
        assert_eq!(price.times(1240).to_string(), "14.88");
        assert_eq!(price.times(1240).shared_by(1180).unwrap().to_string(), "0.01261");
        assert_eq!(price.shared_by(0), None);
    }
}
