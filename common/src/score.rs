//! The ICP score: a finite number, usually 0 to 100. 0 is a score.

/// An ICP score. Never NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct IcpScore(f64);

impl IcpScore {
    /// The score, if `value` is finite.
    pub fn new(value: f64) -> Option<Self> {
        value.is_finite().then_some(Self(value))
    }

    /// Its value.
    pub const fn get(self) -> f64 {
        self.0
    }
}
