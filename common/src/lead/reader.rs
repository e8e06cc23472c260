//! Reading one body: where a field stands, what it may be read as, and what was odd about it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Number, Value};

use super::Lead;
use super::number::parse_number;
use super::placeholder::{Missing, missing};
use super::pointer;
use crate::score::IcpScore;

/// Warnings kept on one lead.
const WARNINGS_MAX: usize = 32;
/// Characters of an unknown field's name that a warning repeats.
const NAME_CHARS_MAX: usize = 64;
/// The longest e-mail address (RFC 5321, with erratum 1690).
const EMAIL_BYTES_MAX: usize = 254;
/// Integers up to here are exact in a double.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

pub(super) struct Reader<'a> {
    object: &'a Map<String, Value>,
    mapping: &'a BTreeMap<String, String>,
    warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(object: &'a Map<String, Value>, mapping: &'a BTreeMap<String, String>) -> Self {
        Self { object, mapping, warnings: Vec::new() }
    }

    pub(super) fn read(mut self) -> Lead {
        Lead {
            email: self.email("email"),
            first_name: self.text("first_name"),
            last_name: self.text("last_name"),
            company_name: self.text("company_name"),
            job_title: self.text("job_title"),
            employee_count: self.count("employee_count"),
            industry: self.text("industry"),
            linkedin_url: self.text("linkedin_url"),
            icp_score: self.score("icp_score"),
            personalized_opener: self.text("personalized_opener"),
            extra: self.extra(),
            warnings: self.warnings,
        }
    }

    /// The field's value: at its pointer, else under its own name.
    fn find(&mut self, field: &str) -> Option<&'a Value> {
        let mapped = self.mapping.get(field).and_then(|path| pointer::lookup(self.object, path));
        for value in mapped.into_iter().chain(self.object.get(field)) {
            match missing(field, value) {
                None => return Some(value),
                Some(Missing::Empty) => {}
                Some(Missing::Placeholder) => self.warn(field, "placeholder"),
            }
        }
        None
    }

    fn text(&mut self, field: &str) -> Option<String> {
        match self.find(field)? {
            Value::String(text) => {
                let text = self.without_nul(field, text);
                Some(text.trim().to_owned())
            }
            Value::Number(number) => Some(number.to_string()),
            _ => self.unreadable(field, "not text"),
        }
    }

    fn email(&mut self, field: &str) -> Option<String> {
        let text = self.text(field)?;
        if is_email_address(&text) { Some(text) } else { self.unreadable(field, "not an e-mail address") }
    }

    fn score(&mut self, field: &str) -> Option<IcpScore> {
        let number = match self.find(field)? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => parse_number(text.trim().strip_suffix('%').unwrap_or(text)),
            _ => None,
        };
        number.and_then(IcpScore::new).or_else(|| self.unreadable(field, "not a number"))
    }

    fn count(&mut self, field: &str) -> Option<i64> {
        let number = match self.find(field)? {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => parse_number(text),
            _ => None,
        };
        match number {
            None => self.unreadable(field, "not a number"),
            Some(number) if number.fract() == 0.0 && (0.0..=EXACT_MAX).contains(&number) => Some(number as i64),
            Some(_) => self.unreadable(field, "not a count"),
        }
    }

    /// Fields that the mapping names beside the known ones, and all others of the body.
    fn extra(&mut self) -> Map<String, Value> {
        let mapped: BTreeSet<String> = self.mapping.values().filter_map(|path| pointer::top_level_key(path)).collect();
        let mapping = self.mapping;
        let mut extra = Map::new();
        for field in mapping.keys().filter(|field| !is_known(field)) {
            if let Some(value) = self.find(field) {
                self.keep(&mut extra, field, value);
            }
        }
        for (field, value) in self.object {
            if is_known(field) || mapped.contains(field) || mapping.contains_key(field) {
                continue;
            }
            match missing(field, value) {
                None => self.keep(&mut extra, field, value),
                Some(Missing::Empty) => {}
                Some(Missing::Placeholder) => self.warn(field, "placeholder"),
            }
        }
        extra
    }

    fn keep(&mut self, extra: &mut Map<String, Value>, field: &str, value: &Value) {
        let (field, value) = if field.contains('\0') || has_nul(value) {
            self.warn(field, "NUL replaced");
            (replace_nul(field), replace_nul_in(value))
        } else {
            (field.to_owned(), value.clone())
        };
        extra.insert(field, value);
    }

    fn without_nul(&mut self, field: &str, text: &str) -> String {
        if text.contains('\0') {
            self.warn(field, "NUL replaced");
        }
        replace_nul(text)
    }

    fn unreadable<T>(&mut self, field: &str, kind: &str) -> Option<T> {
        self.warn(field, kind);
        None
    }

    fn warn(&mut self, field: &str, kind: &str) {
        let name: String = replace_nul(field).chars().take(NAME_CHARS_MAX).collect();
        let warning = format!("{name}: {kind}");
        if self.warnings.len() < WARNINGS_MAX && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

fn is_known(field: &str) -> bool {
    Lead::KNOWN_FIELDS.contains(&field)
}

/// One `@`, something before it, labels and a dot behind it, and nothing that separates several addresses.
fn is_email_address(text: &str) -> bool {
    let odd =
        |character: char| character.is_whitespace() || character.is_control() || "<>(),;:\"[]".contains(character);
    let Some((local, domain)) = text.split_once('@') else { return false };
    text.len() <= EMAIL_BYTES_MAX
        && !text.contains(odd)
        && !local.is_empty()
        && !domain.contains('@')
        && domain.contains('.')
        && domain.split('.').all(|label| !label.is_empty())
}

/// PostgreSQL's text and jsonb cannot hold NUL.
fn replace_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(key, value)| key.contains('\0') || has_nul(value)),
        _ => false,
    }
}

fn replace_nul_in(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(replace_nul(text)),
        Value::Array(items) => Value::Array(items.iter().map(replace_nul_in).collect()),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(key, value)| (replace_nul(key), replace_nul_in(value))).collect())
        }
        other => other.clone(),
    }
}

/// An integer where the number is one, so that `85.0` reads as `85`.
pub(super) fn to_json_number(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() <= EXACT_MAX {
        Value::from(number as i64)
    } else {
        Number::from_f64(number).map_or(Value::Null, Value::Number)
    }
}
