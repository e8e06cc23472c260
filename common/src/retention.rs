//! What is kept for how long. Pure; [`crate::db::retention`] removes.

use std::time::Duration;

/// A kind of what is stored, in the order in which it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Attempts with what was answered, by whole weeks.
    Attempts,
    /// Raw bodies of callbacks with their headers, by whole weeks.
    Bodies,
    /// Normalised leads.
    Leads,
    /// Decisions with every rule's result.
    Decisions,
    /// Objects of rows that were handed in.
    Rows,
    /// Everything else of a callback or row: what makes a repeat one.
    Keys,
}

impl What {
    /// All of them, in order.
    pub const ALL: [Self; 6] = [Self::Attempts, Self::Bodies, Self::Leads, Self::Decisions, Self::Rows, Self::Keys];

    /// The word in `[retention]`, in `claygate.retention_marks` and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Bodies => "bodies",
            Self::Leads => "leads",
            Self::Decisions => "decisions",
            Self::Rows => "rows",
            Self::Keys => "keys",
        }
    }

    /// Whether it goes by whole weeks.
    pub const fn is_weekly(self) -> bool {
        matches!(self, Self::Attempts | Self::Bodies)
    }
}

/// How long each kind is kept; `None`: for ever, or as long as `keys`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// See [`What::Attempts`].
    pub attempts: Option<Duration>,
    /// See [`What::Bodies`].
    pub bodies: Option<Duration>,
    /// See [`What::Leads`].
    pub leads: Option<Duration>,
    /// See [`What::Decisions`].
    pub decisions: Option<Duration>,
    /// See [`What::Rows`].
    pub rows: Option<Duration>,
    /// See [`What::Keys`]. Nothing outlives it.
    pub keys: Option<Duration>,
}

impl Policy {
    /// The time of its own that `what` has.
    pub fn own(&self, what: What) -> Option<Duration> {
        match what {
            What::Attempts => self.attempts,
            What::Bodies => self.bodies,
            What::Leads => self.leads,
            What::Decisions => self.decisions,
            What::Rows => self.rows,
            What::Keys => self.keys,
        }
    }

    /// How long `what` is removed by itself. With its callback or row everything goes; whole weeks are cheaper than that,
    /// so they go by themselves even where they have no time of their own.
    pub fn of(&self, what: What) -> Option<Duration> {
        self.own(what).or(if what.is_weekly() { self.keys } else { None })
    }

    /// Whether nothing is ever removed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn whole_weeks_go_no_later_than_the_keys_and_nothing_goes_that_nobody_named() {
        let policy = Policy { leads: Some(DAY), keys: Some(DAY * 9), ..Policy::default() };
        let times = What::ALL.map(|what| policy.of(what).map(|time| time.as_secs() / 86_400));
        assert_eq!(times, [Some(9), Some(9), Some(1), None, None, Some(9)]);
        assert!(!policy.is_empty());
        assert!(Policy::default().is_empty());
        assert_eq!(What::ALL.map(|what| Policy::default().of(what)), [None; 6]);
    }
}
