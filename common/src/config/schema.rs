//! What can be set: sections and keys as data. The reader, the overrides, the suggestions and the reference page all
//! come from these tables, so that no key can exist undocumented. The tables themselves stand beside the structs that
//! they fill.

use std::time::Duration;

use super::values::{format_duration, format_size};

/// A table of the file.
#[derive(Debug)]
pub(super) struct Section {
    /// Its heading in the reference, for example `[ingest.limits]`.
    pub(super) title: &'static str,
    /// What it is about.
    pub(super) doc: &'static str,
    /// Its keys.
    pub(super) keys: &'static [Key],
}

/// One setting.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) preset: Preset,
    pub(super) doc: &'static str,
    /// The `kind`s of the section in which it has a meaning; empty: all.
    pub(super) only: &'static [&'static str],
}

/// What holds where a key is left out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Preset {
    /// It must be given.
    Required,
    /// This text, read as if it had been written.
    Is(&'static str),
    /// Something that cannot be written as a value, in words.
    Said(&'static str),
}

/// What a value has to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Text,
    Bool,
    Integer {
        min: i64,
        max: i64,
    },
    /// A number from 1 on, or "none".
    Limit {
        max: i64,
    },
    Duration {
        min: Duration,
        max: Duration,
    },
    Size {
        min: u64,
        max: u64,
    },
    Rate,
    /// A number with a fraction, or a string that is one.
    Price,
    Url,
    Address,
    Path,
    /// A string that is never shown; `<key>_file` names a file that holds it.
    Secret,
    OneOf(&'static [&'static str]),
    Texts,
    Durations {
        min: Duration,
        max: Duration,
    },
    Statuses,
    /// A list of secrets with optional expiry; `<key>_file` names a file that holds one.
    Secrets,
    /// Strings by name.
    TextTable,
    /// Secret strings by name.
    SecretTable,
    /// Any structure.
    Structure,
    Table(&'static Section),
    Tables(&'static Section),
    /// One table or a list of them.
    TableOrTables(&'static Section),
    /// Tables by a name of the user's choice.
    Named(&'static Section),
    /// Belongs to the product, and this version cannot do it; says what to do instead.
    NotYet(&'static str),
}

impl Key {
    pub(super) const fn new(name: &'static str, kind: Kind, preset: Preset, doc: &'static str) -> Self {
        Self { name, kind, preset, doc, only: &[] }
    }

    /// Limits the key to some of the section's `kind`s.
    pub(super) const fn only(mut self, kinds: &'static [&'static str]) -> Self {
        self.only = kinds;
        self
    }

    /// Whether `<name>_file` may be given in its place.
    pub(super) fn takes_file(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::Secrets)
    }
}

impl Section {
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The key that `written` (perhaps with `_file`) stands for.
    pub(super) fn key_as_written(&self, written: &str) -> Option<&'static Key> {
        self.key(written).or_else(|| self.key(written.strip_suffix("_file")?).filter(|key| key.takes_file()))
    }
}

impl Kind {
    /// Whether an environment variable can hold it.
    pub(super) fn is_scalar(&self) -> bool {
        matches!(
            self,
            Self::Text
                | Self::Bool
                | Self::Integer { .. }
                | Self::Limit { .. }
                | Self::Duration { .. }
                | Self::Size { .. }
                | Self::Rate
                | Self::Price
                | Self::Url
                | Self::Address
                | Self::Path
                | Self::Secret
                | Self::OneOf(_)
        )
    }

    /// What to write, for messages and the reference.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text => "a string".to_owned(),
            Self::Bool => "true or false".to_owned(),
            Self::Integer { min, max } => format!("an integer from {min} to {max}"),
            Self::Limit { max } => format!("an integer from 1 to {max}, or \"none\""),
            Self::Duration { min, max } => {
                format!("a duration from \"{}\" to \"{}\"", format_duration(*min), format_duration(*max))
            }
            Self::Size { min, max } => format!("a size from \"{}\" to \"{}\"", format_size(*min), format_size(*max)),
            Self::Rate => "a rate such as \"10/s\", \"300/m\" or \"400/h\"".to_owned(),
            Self::Price => "a decimal number such as 0.012".to_owned(),
            Self::Url => "a URL".to_owned(),
            Self::Address => "an address such as \"127.0.0.1:8080\"".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Secret => "a secret string".to_owned(),
            Self::OneOf(values) => {
                format!("one of {}", values.iter().map(|value| format!("\"{value}\"")).collect::<Vec<_>>().join(", "))
            }
            Self::Texts => "a list of strings".to_owned(),
            Self::Durations { min, max } => {
                format!("a list of durations from \"{}\" to \"{}\"", format_duration(*min), format_duration(*max))
            }
            Self::Statuses => "a list of statuses such as [409, \"500-599\"]".to_owned(),
            Self::Secrets => "a list of secrets".to_owned(),
            Self::TextTable => "a table of strings".to_owned(),
            Self::SecretTable => "a table of secret strings".to_owned(),
            Self::Structure => "any structure".to_owned(),
            Self::Table(_) | Self::Named(_) => "a table".to_owned(),
            Self::Tables(_) => "a list of tables".to_owned(),
            Self::TableOrTables(_) => "a table or a list of tables".to_owned(),
            Self::NotYet(_) => "not supported yet".to_owned(),
        }
    }
}

/// The candidate that `written` was most likely meant to be.
pub(super) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(written, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.5)
        // The first of equals: candidates come in the order of the tables.
        .fold(None, |best: Option<(f64, &str)>, next| match best {
            Some(best) if best.0 >= next.0 => Some(best),
            _ => Some(next),
        })
        .map(|(_, candidate)| candidate)
}
