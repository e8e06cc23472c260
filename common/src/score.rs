//! The ICP score: a finite number, usually 0 to 100. 0 is a score.

/// An ICP score. Never NaN or infinite; -0 is 0.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct IcpScore(f64);

impl IcpScore {
    /// The score, if `value` is finite.
    pub fn new(value: f64) -> Option<Self> {
        value.is_finite().then_some(Self(value + 0.0))
    }

    /// Its value.
    pub const fn get(self) -> f64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_a_score_and_nonsense_is_none() {
        for value in [0.0, 85.0, 85.5, -3.0, 1e300] {
            assert_eq!(IcpScore::new(value).map(IcpScore::get), Some(value));
        }
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(IcpScore::new(value), None);
        }
        assert_eq!(IcpScore::new(-0.0).map(|score| score.get().is_sign_positive()), Some(true));
    }
}
