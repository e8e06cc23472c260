//! What is wrong with a configuration: every problem at once, each with its place, none with a secret.

use std::fmt;

/// One thing that has to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The setting's path, for example `destinations.outreach.rate`; empty: the whole file.
    pub path: String,
    /// Where it was written, for example `line 12` or `CLAYGATE_WORKER__DRAIN`; empty: nowhere.
    pub place: String,
    /// What is wrong and what to change. Never holds a secret's value.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path.as_str(), self.place.as_str()) {
            ("", "") => write!(f, "{}", self.what),
            ("", place) => write!(f, "{place}: {}", self.what),
            (path, "") => write!(f, "{path}: {}", self.what),
            (path, place) => write!(f, "{path} ({place}): {}", self.what),
        }
    }
}

/// Why a configuration cannot be used: everything that was found, in the order of the file's sections.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// An error about the whole file.
    pub(super) fn whole(place: String, what: String) -> Self {
        Self { problems: vec![Problem { path: String::new(), place, what }] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => write!(f, "the configuration cannot be used: {one}"),
            many => {
                write!(f, "the configuration cannot be used; {} things have to be changed:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}
