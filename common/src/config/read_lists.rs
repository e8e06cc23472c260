//! Reading lists, free tables and nested sections. See [`super::read`].

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::Value as Json;

use super::StatusSet;
use super::read::{Reader, check_duration};
use super::schema::{Kind, Preset, Section};
use super::show::write_key;
use super::tree::{Node, Origin, Value};
use super::values::parse_status;

/// Most entries of any list.
const LIST_MAX: usize = 1_000;

/// What an undeclared table is read as, after that was reported.
static NOTHING: Section = Section { title: "", doc: "", keys: &[] };

impl<'a> Reader<'a> {
    /// The nodes of a list; empty where it is left out.
    pub(super) fn list(&self, name: &'static str) -> Option<&'a [Node]> {
        let key = self.key(name)?;
        let Some(node) = self.node(name) else {
            match key.preset {
                Preset::Required => self.wrong(name, format!("is missing: {}", key.kind.describe())),
                Preset::Is(_) | Preset::Said(_) => self.note(name, Json::Array(Vec::new()), &Origin::Default),
            }
            return None;
        };
        match &node.value {
            Value::List(nodes) if nodes.len() > LIST_MAX => {
                self.wrong(name, format!("has more than {LIST_MAX} entries"));
                None
            }
            Value::List(nodes) => {
                let hide = |node: &Node| match &node.value {
                    Value::Table(table) => {
                        Json::Object(table.iter().map(|(key, node)| (key.clone(), show(key, node))).collect())
                    }
                    _ => Json::from("***"),
                };
                let shown = if key.takes_file() { nodes.iter().map(hide).collect() } else { node.value.to_json() };
                self.note(name, shown, &node.origin);
                Some(nodes)
            }
            other => {
                self.wrong(name, format!("expected {}, found {}", key.kind.describe(), other.describe()));
                None
            }
        }
    }

    /// A list of strings, each turned into a value by `parse`.
    pub(super) fn parsed_list<T>(
        &self,
        name: &'static str,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let nodes = self.list(name)?;
        let mut values = Vec::with_capacity(nodes.len());
        for node in nodes {
            let (text, shown) = match &node.value {
                Value::Text(text) => (self.complete(name, text, &node.origin), text.clone()),
                Value::Integer(number) => (Some(number.to_string()), number.to_string()),
                other => {
                    self.wrong(name, format!("holds {} where a string belongs", other.describe()));
                    continue;
                }
            };
            match text.map(|text| parse(&text)) {
                Some(Ok(value)) => values.push(value),
                Some(Err(what)) => {
                    self.context.problem(self.path_of(name), node.origin.place(), format!("\"{shown}\" {what}"));
                }
                None => {}
            }
        }
        Some(values)
    }

    /// A list of strings; empty where it is left out.
    pub(super) fn texts(&self, name: &'static str) -> Vec<String> {
        self.parsed_list(name, |text| Ok(text.to_owned())).unwrap_or_default()
    }

    /// A list of durations within the key's range; its default is written with commas.
    pub(super) fn durations(&self, name: &'static str) -> Vec<Duration> {
        let Some(key) = self.key(name) else { return Vec::new() };
        match (self.node(name), key.preset) {
            (None, Preset::Is(text)) => {
                let parts: Vec<&str> = text.split(", ").collect();
                self.note(name, parts.clone().into(), &Origin::Default);
                parts.into_iter().filter_map(|part| check_duration(part, key.kind).ok()).collect()
            }
            _ => self.parsed_list(name, |text| check_duration(text, key.kind)).unwrap_or_default(),
        }
    }

    /// A set of statuses.
    pub(super) fn statuses(&self, name: &'static str) -> StatusSet {
        let mut set = StatusSet::default();
        let _ = self.parsed_list(name, |text| parse_status(text, &mut set));
        set
    }

    /// A table of strings.
    pub(super) fn text_table(&self, name: &'static str) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        let Some(key) = self.key(name) else { return texts };
        let Some(node) = self.node(name) else {
            self.note(name, Json::Object(serde_json::Map::new()), &Origin::Default);
            return texts;
        };
        let Value::Table(table) = &node.value else {
            self.wrong(name, format!("expected {}, found {}", key.kind.describe(), node.value.describe()));
            return texts;
        };
        let is_secret = matches!(key.kind, Kind::SecretTable);
        let shown = table
            .iter()
            .map(|(entry, node)| (entry.clone(), if is_secret { Json::from("***") } else { node.value.to_json() }));
        self.note(name, Json::Object(shown.collect()), &node.origin);
        for (entry, node) in table {
            match &node.value {
                Value::Text(text) => {
                    if let Some(text) = self.complete(name, text, &node.origin) {
                        texts.insert(entry.clone(), text);
                    }
                }
                other => self.wrong(name, format!("{entry}: expected a string, found {}", other.describe())),
            }
        }
        texts
    }

    /// A table of secret strings.
    pub(super) fn secret_table(&self, name: &'static str) -> BTreeMap<String, SecretString> {
        let keep = |text: String| if self.strict { SecretString::from(text) } else { SecretString::default() };
        self.text_table(name).into_iter().map(|(entry, text)| (entry, keep(text))).collect()
    }

    /// Any structure, its strings filled in; `None` where it is left out.
    pub(super) fn structure(&self, name: &'static str) -> Option<Json> {
        self.key(name)?;
        let Some(node) = self.node(name) else {
            self.note(name, Json::Null, &Origin::Default);
            return None;
        };
        self.note(name, node.value.to_json(), &node.origin);
        self.fill_in(name, node)
    }

    fn fill_in(&self, name: &'static str, node: &Node) -> Option<Json> {
        Some(match &node.value {
            Value::Text(text) => Json::from(self.complete(name, text, &node.origin)?),
            Value::List(nodes) => nodes.iter().map(|node| self.fill_in(name, node)).collect::<Option<Json>>()?,
            Value::Table(table) => Json::Object(
                table
                    .iter()
                    .map(|(key, node)| Some((key.clone(), self.fill_in(name, node)?)))
                    .collect::<Option<serde_json::Map<_, _>>>()?,
            ),
            other => other.to_json(),
        })
    }

    /// A nested section, its keys checked; everything in it is left out where the table is.
    pub(super) fn table(&self, name: &'static str) -> Reader<'a> {
        let reader = self.table_of_kinds(name);
        reader.check_keys(None);
        reader
    }

    /// A nested section whose keys its own `kind` decides about: they are not yet checked.
    pub(super) fn table_of_kinds(&self, name: &'static str) -> Reader<'a> {
        let section = match self.key(name).map(|key| key.kind) {
            Some(Kind::Table(section)) => section,
            _ => &NOTHING,
        };
        self.node(name)
            .and_then(|node| self.nested(self.path_of(name), section, node))
            .unwrap_or_else(|| Reader::new(self.context, section, None, self.path_of(name), self.strict))
    }

    /// Nested sections in a list, or a single one, their keys not yet checked; empty where they are left out.
    pub(super) fn tables(&self, name: &'static str) -> Vec<Reader<'a>> {
        let (section, one_is_enough) = match self.key(name).map(|key| key.kind) {
            Some(Kind::Tables(section)) => (section, false),
            Some(Kind::TableOrTables(section)) => (section, true),
            _ => return Vec::new(),
        };
        let Some(node) = self.node(name) else { return Vec::new() };
        match &node.value {
            Value::Table(_) if one_is_enough => self.nested(self.path_of(name), section, node).into_iter().collect(),
            Value::List(nodes) if nodes.len() > LIST_MAX => {
                self.wrong(name, format!("has more than {LIST_MAX} entries"));
                Vec::new()
            }
            Value::List(nodes) => {
                let path = self.path_of(name);
                let nested = |(at, node)| self.nested(format!("{path}[{at}]"), section, node);
                nodes.iter().enumerate().filter_map(nested).collect()
            }
            other => {
                let expected = if one_is_enough { "a table or a list of tables" } else { "a list of tables" };
                self.wrong(name, format!("expected {expected}, found {}", other.describe()));
                Vec::new()
            }
        }
    }

    /// Nested sections by name, their keys not yet checked.
    pub(super) fn named(&self, name: &'static str) -> Vec<(String, Reader<'a>)> {
        let Some(Kind::Named(section)) = self.key(name).map(|key| key.kind) else { return Vec::new() };
        let Some(node) = self.node(name) else { return Vec::new() };
        let Value::Table(table) = &node.value else {
            self.wrong(name, format!("expected a table of tables, found {}", node.value.describe()));
            return Vec::new();
        };
        let path = self.path_of(name);
        table
            .iter()
            .filter_map(|(entry, node)| {
                let reader = self.nested(format!("{path}.{}", write_key(entry)), section, node)?;
                Some((entry.clone(), reader))
            })
            .collect()
    }

    fn nested(&self, path: String, section: &'static Section, node: &'a Node) -> Option<Reader<'a>> {
        match &node.value {
            Value::Table(table) => Some(Reader::new(self.context, section, Some(table), path, self.strict)),
            other => {
                let what = format!("expected a table, found {}", other.describe());
                self.context.problem(path, node.origin.place(), what);
                None
            }
        }
    }
}

/// A value in a secret's table: what is no secret may be seen.
fn show(key: &str, node: &Node) -> Json {
    match key {
        "expires" | "value_file" => node.value.to_json(),
        _ => Json::from("***"),
    }
}
