//! Reading the tree by the tables of [`super::schema`]: every getter names a declared key, applies its default, checks
//! its range, notes where the value came from, and reports what is wrong without stopping.
//!
//! A reader that is not `strict` belongs to a section that this process does not use: shape and ranges are checked as
//! everywhere, but variables may be unset, no file is read, and secrets come out empty.

use std::cell::RefCell;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;

use super::interpolation::{Gap, interpolate};
use super::schema::{Key, Kind, Preset, Section, nearest};
use super::tree::{Node, Origin, Table, Value};
use super::values::{parse_duration, parse_rate, parse_size};
use super::{Environment, Price, Problem, Rate, Setting};

/// What one reading has: its surroundings, and what it found.
pub(super) struct Context<'a> {
    pub(super) environment: &'a Environment,
    /// Relative paths start here.
    pub(super) folder: &'a Path,
    /// `claygate up` is to make missing secrets: they are no problem yet.
    pub(super) secrets_are_made: bool,
    pub(super) problems: RefCell<Vec<Problem>>,
    pub(super) warnings: RefCell<Vec<String>>,
    /// With the position of the key in its table.
    pub(super) settings: RefCell<Vec<(usize, Setting)>>,
    /// Every key a getter was called for, to compare with the tables.
    #[cfg(test)]
    pub(super) asked: RefCell<std::collections::BTreeSet<(&'static str, &'static str)>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(environment: &'a Environment, folder: &'a Path, secrets_are_made: bool) -> Self {
        Self {
            environment,
            folder,
            secrets_are_made,
            problems: RefCell::default(),
            warnings: RefCell::default(),
            settings: RefCell::default(),
            #[cfg(test)]
            asked: RefCell::default(),
        }
    }

    pub(super) fn problem(&self, path: impl Into<String>, place: String, what: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { path: path.into(), place, what: what.into() });
    }

    pub(super) fn warn(&self, warning: String) {
        self.warnings.borrow_mut().push(warning);
    }
}

/// One section of the tree.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) strict: bool,
    /// Notes nothing for `config show`: whoever holds this section already did.
    quiet: bool,
    section: &'static Section,
    table: Option<&'a Table>,
    path: String,
}

/// A string as it is meant and as it was written.
pub(super) struct Written {
    /// Variables are filled in.
    pub(super) meant: String,
    /// For messages: variables are not filled in.
    pub(super) shown: String,
}

impl<'a> Reader<'a> {
    /// Reads `table` (`None`: everything is left out) as a `section` at `path`.
    pub(super) fn new(
        context: &'a Context<'a>,
        section: &'static Section,
        table: Option<&'a Table>,
        path: impl Into<String>,
        strict: bool,
    ) -> Self {
        Self { context, strict, quiet: false, section, table, path: path.into() }
    }

    /// The same section of a process that uses it, or does not.
    pub(super) fn with_strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// The same section without notes.
    pub(super) fn quietly(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// The section's path, for example `destinations.outreach`.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The path of a key in it.
    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Whether the key (or, for a secret, its file) was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.node(name).is_some() || self.node(&format!("{name}_file")).is_some()
    }

    /// Reports a problem with a key, placed where it was written.
    pub(super) fn wrong(&self, name: &str, what: impl Into<String>) {
        let place = self.node(name).map(|node| node.origin.place()).unwrap_or_default();
        self.context.problem(self.path_of(name), place, what);
    }

    /// Notes a value for `config show`.
    pub(super) fn note(&self, name: &str, shown: Json, origin: &Origin) {
        if self.quiet {
            return;
        }
        let key = self.section.key_as_written(name);
        let position = self.section.keys.iter().position(|other| key.is_some_and(|key| key.name == other.name));
        let words = match key.map(|key| key.preset) {
            Some(Preset::Said(words)) if shown.is_null() => words,
            _ => "",
        };
        let setting =
            Setting { section: self.path.clone(), key: name.to_owned(), shown, words, origin: origin.clone() };
        self.context.settings.borrow_mut().push((position.unwrap_or(usize::MAX), setting));
    }

    /// Shows more of a secret than `***`, once it is known what may be seen.
    pub(super) fn show_as(&self, name: &str, shown: String) {
        let mut settings = self.context.settings.borrow_mut();
        let is_it = |setting: &Setting| setting.section == self.path && setting.key == name;
        if let Some((_, setting)) = settings.iter_mut().rfind(|(_, setting)| is_it(setting)) {
            setting.shown = Json::from(shown);
        }
    }

    /// Reports unknown keys, keys that this version cannot do, and keys without a meaning for `kind`.
    pub(super) fn check_keys(&self, kind: Option<&str>) {
        for (written, node) in self.table.into_iter().flatten() {
            let report = |what: String| self.context.problem(self.path_of(written), node.origin.place(), what);
            let Some(key) = self.section.key_as_written(written) else {
                report(self.unknown(written));
                continue;
            };
            if let Kind::NotYet(instead) = key.kind {
                report(instead.to_owned());
            }
            match kind {
                Some(kind) if !key.only.is_empty() && !key.only.contains(&kind) => {
                    report(format!("has no meaning for kind \"{kind}\": remove it"));
                }
                _ => {}
            }
            if key.name != written && self.node(key.name).is_some() {
                report(format!("is given beside {}: keep one of them", key.name));
            }
        }
    }

    fn unknown(&self, written: &str) -> String {
        let mut known: Vec<String> = Vec::new();
        for key in self.section.keys.iter().filter(|key| !matches!(key.kind, Kind::NotYet(_))) {
            known.push(key.name.to_owned());
            if key.takes_file() {
                known.push(format!("{}_file", key.name));
            }
        }
        match nearest(written, known.iter().map(String::as_str)) {
            Some(near) => format!("unknown key; did you mean `{near}`?"),
            None => format!("unknown key (known: {})", known.join(", ")),
        }
    }

    /// The declared key that a getter is called for.
    pub(super) fn key(&self, name: &'static str) -> Option<&'static Key> {
        #[cfg(test)]
        self.context.asked.borrow_mut().insert((self.section.title, name));
        let key = self.section.key(name);
        if key.is_none() {
            self.wrong(name, "is read but not declared in the table of its section");
        }
        key
    }

    pub(super) fn node(&self, name: &str) -> Option<&'a Node> {
        self.table?.get(name)
    }

    /// A string, or the default's text; `None` where nothing is given or a problem was reported.
    pub(super) fn written(&self, name: &'static str) -> Option<Written> {
        let key = self.key(name)?;
        let Some(node) = self.node(name) else { return self.preset(key) };
        match &node.value {
            Value::Text(text) => {
                let shown = if matches!(key.kind, Kind::Secret) { "***" } else { text.as_str() };
                self.note(name, Json::from(shown), &node.origin);
                let meant = self.complete(name, text, &node.origin)?;
                Some(Written { meant, shown: text.clone() })
            }
            other => {
                self.note(name, Json::from("?"), &node.origin);
                self.wrong(name, format!("expected {}, found {}", key.kind.describe(), other.describe()));
                None
            }
        }
    }

    fn preset(&self, key: &'static Key) -> Option<Written> {
        match key.preset {
            Preset::Required => {
                self.wrong(key.name, format!("is missing: {}", key.kind.describe()));
                None
            }
            Preset::Said(_) => {
                self.note(key.name, Json::Null, &Origin::Default);
                None
            }
            Preset::Is(text) => {
                let shown = match key.kind {
                    Kind::Integer { .. } => text.parse::<i64>().map_or(Json::Null, Json::from),
                    Kind::Bool => Json::from(text == "true"),
                    _ => Json::from(text),
                };
                self.note(key.name, shown, &Origin::Default);
                Some(Written { meant: text.to_owned(), shown: text.to_owned() })
            }
        }
    }

    /// Fills in variables; `None`: one is missing, which was reported where that matters.
    pub(super) fn complete(&self, name: &str, text: &str, origin: &Origin) -> Option<String> {
        // A variable's own value is taken as it is: what it holds may look like a variable.
        if matches!(origin, Origin::Variable(_)) {
            return Some(text.to_owned());
        }
        match interpolate(text, self.context.environment) {
            Ok(complete) => Some(complete),
            Err(Gap::Syntax) => {
                self.wrong(name, "has `${` without `NAME}` behind it: write ${NAME}, or $$ for a plain $");
                None
            }
            Err(Gap::Unset(names)) => {
                if self.strict {
                    let names = names.join(", ");
                    self.wrong(name, format!("needs the environment variable {names}, which is unset or empty"));
                }
                None
            }
        }
    }

    /// A string that `parse` turns into a value; its error continues a sentence that starts with the value.
    pub(super) fn parsed<T, E: Display>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let written = self.written(name)?;
        parse(&written.meant).map_err(|what| self.wrong(name, format!("\"{}\" {what}", written.shown))).ok()
    }

    /// A string.
    pub(super) fn text(&self, name: &'static str) -> Option<String> {
        self.written(name).map(|written| written.meant)
    }

    /// One of the key's values.
    pub(super) fn choice(&self, name: &'static str) -> Option<String> {
        let Kind::OneOf(values) = self.key(name)?.kind else { return self.text(name) };
        self.parsed(name, |text| {
            if values.contains(&text) {
                return Ok(text.to_owned());
            }
            let known = values.join(", ");
            Err(match nearest(text, values.iter().copied()) {
                Some(near) => format!("is not known; did you mean \"{near}\"? (known: {known})"),
                None => format!("is not known (known: {known})"),
            })
        })
    }

    /// A duration within the key's range.
    pub(super) fn duration(&self, name: &'static str) -> Option<Duration> {
        let kind = self.key(name)?.kind;
        self.parsed(name, |text| check_duration(text, kind))
    }

    /// A size in bytes within the key's range.
    pub(super) fn size(&self, name: &'static str) -> Option<u64> {
        let kind = self.key(name)?.kind;
        self.parsed(name, |text| {
            let bytes = parse_size(text)?;
            match kind {
                Kind::Size { min, max } if !(min..=max).contains(&bytes) => {
                    Err(format!("is out of range: give {}", kind.describe()))
                }
                _ => Ok(bytes),
            }
        })
    }

    /// A rate, with the burst of one second.
    pub(super) fn rate(&self, name: &'static str) -> Option<Rate> {
        self.parsed(name, parse_rate)
    }

    /// A price, as a number or as a string.
    pub(super) fn price(&self, name: &'static str) -> Option<Price> {
        let number = match self.node(name).map(|node| (&node.value, &node.origin)) {
            Some((Value::Integer(number), origin)) => Some((number.to_string(), Json::from(*number), origin)),
            Some((Value::Float(number), origin)) => Some((number.to_string(), Json::from(*number), origin)),
            _ => None,
        };
        let Some((text, shown, origin)) = number else { return self.parsed(name, |text| Price::parse(text.trim())) };
        let _ = self.key(name);
        self.note(name, shown, origin);
        Price::parse(&text).map_err(|what| self.wrong(name, format!("{text} {what}"))).ok()
    }

    /// A path; a relative one starts at the file's folder.
    pub(super) fn file_path(&self, name: &'static str) -> Option<PathBuf> {
        self.text(name).map(|path| self.context.folder.join(path))
    }

    /// An integer within the key's range; 0 where nothing is given or a problem was reported.
    pub(super) fn integer<T: TryFrom<i64> + Default>(&self, name: &'static str) -> T {
        let number = match self.node(name).map(|node| (&node.value, &node.origin)) {
            Some((Value::Integer(number), origin)) => {
                let _ = self.key(name);
                self.note(name, Json::from(*number), origin);
                Some(*number)
            }
            _ => self.parsed(name, |text| text.trim().parse::<i64>().map_err(|_| "is not an integer")),
        };
        let (Some(number), Some(key)) = (number, self.section.key(name)) else { return T::default() };
        match key.kind {
            Kind::Integer { min, max } if !(min..=max).contains(&number) => {
                self.wrong(name, format!("{number} is out of range: give {}", key.kind.describe()));
                T::default()
            }
            _ => T::try_from(number).unwrap_or_default(),
        }
    }

    /// A number within the key's range; `None` where it says "none" or a problem was reported.
    pub(super) fn limit(&self, name: &'static str) -> Option<u64> {
        let Kind::Limit { max } = self.key(name)?.kind else { return None };
        let check = |number: i64| match u64::try_from(number) {
            Ok(number @ 1..) if number <= max.unsigned_abs() => Ok(Some(number)),
            _ => Err(format!("is out of range: give {}", Kind::Limit { max }.describe())),
        };
        if let Some(Value::Integer(number)) = self.node(name).map(|node| &node.value) {
            self.note(name, Json::from(*number), &self.node(name)?.origin);
            return check(*number).map_err(|what| self.wrong(name, format!("{number} {what}"))).ok().flatten();
        }
        let parse = |text: &str| match text.trim() {
            "none" => Ok(None),
            text => text.parse().map_err(|_| "is neither an integer nor \"none\"".to_owned()).and_then(check),
        };
        self.parsed(name, parse).flatten()
    }

    /// True or false.
    pub(super) fn truth(&self, name: &'static str) -> bool {
        match self.node(name).map(|node| (&node.value, &node.origin)) {
            Some((Value::Bool(truth), origin)) => {
                let _ = self.key(name);
                self.note(name, Json::from(*truth), origin);
                *truth
            }
            _ => self
                .parsed(name, |text| text.parse::<bool>().map_err(|_| "is neither true nor false"))
                .unwrap_or_default(),
        }
    }
}

/// A duration within a key's range.
pub(super) fn check_duration(text: &str, kind: Kind) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    match kind {
        Kind::Duration { min, max } | Kind::Durations { min, max } if !(min..=max).contains(&duration) => {
            Err(format!("is out of range: give {}", kind.describe()))
        }
        _ => Ok(duration),
    }
}
