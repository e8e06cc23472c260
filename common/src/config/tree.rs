//! The file as a tree whose every value remembers where it was written. Knows TOML; knows nothing of settings.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// A value and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

pub(super) type Table = BTreeMap<String, Node>;

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    /// As written; TOML's own types of time are read by whoever wants one.
    Time(String),
    List(Vec<Node>),
    Table(Table),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file, with the 1-based line.
    File {
        /// The line.
        line: usize,
    },
    /// An environment variable of this name.
    Variable(String),
}

impl Origin {
    /// For messages: `line 12`, the variable's name, or nothing.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Default => String::new(),
            Self::File { line } => format!("line {line}"),
            Self::Variable(name) => name.clone(),
        }
    }
}

impl Value {
    /// What it is, for messages.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number with a fraction",
            Self::Bool(_) => "true or false",
            Self::Time(_) => "a date or time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }

    /// The value as JSON, as written (nothing is interpolated).
    pub(super) fn to_json(&self) -> Json {
        match self {
            Self::Text(text) | Self::Time(text) => Json::from(text.as_str()),
            Self::Integer(number) => Json::from(*number),
            Self::Float(number) => Json::from(*number),
            Self::Bool(truth) => Json::from(*truth),
            Self::List(nodes) => nodes.iter().map(|node| node.value.to_json()).collect(),
            Self::Table(table) => table.iter().map(|(key, node)| (key.clone(), node.value.to_json())).collect(),
        }
    }
}

/// Parses a TOML document.
///
/// # Errors
/// The first syntax error with its line and column, and nothing of the text around it, which may be a secret.
pub(super) fn parse(text: &str) -> Result<Table, ConfigError> {
    let lines = Lines::of(text);
    let document = DeTable::parse(text).map_err(|error| {
        let place = error.span().map(|span| lines.place(span.start)).unwrap_or_default();
        ConfigError::whole(place, format!("not valid TOML: {}", error.message()))
    })?;
    Ok(convert_table(document.get_ref(), &lines))
}

/// Built-in settings, which nobody wrote.
pub(super) fn without_lines(table: Table) -> Table {
    table
        .into_iter()
        .map(|(key, node)| {
            let value = match node.value {
                Value::Table(table) => Value::Table(without_lines(table)),
                other => other,
            };
            (key, Node { value, origin: Origin::Default })
        })
        .collect()
}

/// Where lines start, in bytes.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|start| *start <= at)
    }

    fn place(&self, at: usize) -> String {
        let line = self.line(at);
        let start = self.0.get(line.saturating_sub(1)).copied().unwrap_or_default();
        format!("line {line}, column {}", at.saturating_sub(start) + 1)
    }
}

fn convert_table(table: &DeTable<'_>, lines: &Lines) -> Table {
    table
        .iter()
        .map(|(key, value)| {
            // The key's line: a value that spans lines, or a table, is looked for where its name stands.
            let line = lines.line(key.span().start);
            (key.get_ref().to_string(), Node { value: convert(value, lines), origin: Origin::File { line } })
        })
        .collect()
}

fn convert(value: &Spanned<DeValue<'_>>, lines: &Lines) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Text(number.as_str().to_owned()),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => Value::Text(number.as_str().to_owned()),
        },
        DeValue::Boolean(truth) => Value::Bool(*truth),
        DeValue::Datetime(time) => Value::Time(time.to_string()),
        DeValue::Array(values) => Value::List(
            values
                .iter()
                .map(|value| Node {
                    value: convert(value, lines),
                    origin: Origin::File { line: lines.line(value.span().start) },
                })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(convert_table(table, lines)),
    }
}
