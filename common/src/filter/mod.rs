//! What is not worth a credit: the filter of a `clay` destination, applied before a row is sent.
//!
//! A filter looks at one row's object and says why it is held back; which rows are the same row again is decided with
//! the table of the cool-downs, by the hash that [`Filter::identity`] makes of the chosen columns. Pure: the lists of
//! e-mail domains are compiled in ([`mailboxes`]).

mod domain;
pub mod mailboxes;

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::lead::{placeholder, pointer};
use crate::person::Person;
use crate::states::Reason;

/// The filter of a destination; the default one holds nothing back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Fields that have to have a value.
    pub required: Vec<String>,
    /// Fields that hold e-mail addresses; the first one with a value counts.
    pub email_fields: Vec<String>,
    /// Rows with a mailbox that anybody can have are held back.
    pub skip_personal: bool,
    /// Rows with a throw-away mailbox are held back.
    pub skip_disposable: bool,
    /// Domains, in lower case, that count as personal beside those of the list.
    pub personal_domains: HashSet<String>,
    /// Domains, in lower case, that count as disposable beside those of the list.
    pub disposable_domains: HashSet<String>,
    /// Domains, in lower case, that count as neither, whatever the lists say.
    pub kept_domains: HashSet<String>,
    /// The columns that make two rows the same; empty: no such comparison.
    pub unique_by: Vec<String>,
    /// For how long a row with the same columns is held back.
    pub within: Duration,
    /// Fields whose URLs and hosts are cut down to the bare domain.
    pub domain_fields: Vec<String>,
}

/// A field that was cut down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tidied<'a> {
    /// A member's name or a JSON pointer.
    pub field: &'a str,
    /// What it holds now.
    pub bare: String,
}

impl Filter {
    /// Cuts the domain fields of `object` down to bare domains; gives those that this changed. What is no domain stays
    /// as it is.
    pub fn tidy(&self, object: &mut Map<String, Value>) -> Vec<Tidied<'_>> {
        let mut tidied = Vec::new();
        for field in &self.domain_fields {
            let Some(Value::String(text)) = member_mut(object, field) else { continue };
            if let Some(bare) = domain::bare(text).filter(|bare| bare != text) {
                text.clone_from(&bare);
                tidied.push(Tidied { field, bare });
            }
        }
        tidied
    }

    /// `object` with its domain fields cut down.
    pub fn tidied<'a>(&self, object: &'a Map<String, Value>) -> Cow<'a, Map<String, Value>> {
        if self.domain_fields.is_empty() {
            return Cow::Borrowed(object);
        }
        let mut tidied = object.clone();
        self.tidy(&mut tidied);
        Cow::Owned(tidied)
    }

    /// Why `object` is held back, if it is.
    pub fn judge(&self, object: &Map<String, Value>) -> Option<Reason> {
        if self.required.iter().any(|field| present(object, field).is_none()) {
            return Some(Reason::MissingField);
        }
        if !self.skip_personal && !self.skip_disposable {
            return None;
        }
        let address = self.email_fields.iter().find_map(|field| present(object, field)?.as_str())?;
        let domain = domain::of_email(address)?;
        if covers(&domain, |part| self.kept_domains.contains(part)) {
            return None;
        }
        let disposable = |part: &str| self.disposable_domains.contains(part) || mailboxes::is_disposable(part);
        if self.skip_disposable && covers(&domain, disposable) {
            return Some(Reason::DisposableEmail);
        }
        let personal = |part: &str| self.personal_domains.contains(part) || mailboxes::is_personal(part);
        (self.skip_personal && covers(&domain, personal)).then_some(Reason::PersonalEmail)
    }

    /// The hash of the columns that make two rows the same; `None` where no column is chosen or one has no value. White
    /// space around values and their letter case do not count.
    pub fn identity(&self, object: &Map<String, Value>) -> Option<Person> {
        if self.unique_by.is_empty() {
            return None;
        }
        let values: Option<Vec<String>> =
            self.unique_by.iter().map(|field| present(object, field).map(comparable)).collect();
        Some(Person::by_columns(&self.unique_by, &values?))
    }

    /// The fields that it needs in every row to say anything: a file without such a column is a mistake.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        let email = (self.skip_personal || self.skip_disposable).then_some(&self.email_fields).into_iter().flatten();
        self.required.iter().chain(&self.unique_by).chain(email.take(1)).map(String::as_str)
    }
}

/// A value as it is compared: text without outer white space, in lower case; numbers and the rest as JSON.
fn comparable(value: &Value) -> String {
    match value {
        Value::String(text) => text.trim().to_lowercase(),
        other => other.to_string(),
    }
}

/// The value of a field, which is a member's name or a JSON pointer, unless it counts as missing.
fn present<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a Value> {
    let value = if field.starts_with('/') { pointer::lookup(object, field) } else { object.get(field) }?;
    let name = field.rsplit('/').next().unwrap_or_default();
    placeholder::missing(name, value).is_none().then_some(value)
}

fn member_mut<'a>(object: &'a mut Map<String, Value>, field: &str) -> Option<&'a mut Value> {
    if !field.starts_with('/') {
        return object.get_mut(field);
    }
    let (first, below) = pointer::split_first(field)?;
    object.get_mut(&first)?.pointer_mut(below)
}

/// Whether `listed` knows the domain or one that it is a part of (`mail.example.com`, `example.com`, not `com`).
fn covers(domain: &str, listed: impl Fn(&str) -> bool) -> bool {
    let mut part = domain;
    while part.contains('.') {
        if listed(part) {
            return true;
        }
        part = part.split_once('.').map_or("", |(_, parent)| parent);
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn set(domains: &[&str]) -> HashSet<String> {
        domains.iter().map(|domain| (*domain).to_owned()).collect()
    }

    fn filter() -> Filter {
        Filter {
            required: vec!["email".to_owned()],
            email_fields: vec!["email".to_owned()],
            skip_personal: true,
            skip_disposable: true,
            personal_domains: set(&["isp.example"]),
            disposable_domains: set(&["burner.example"]),
            kept_domains: set(&["mail.com"]),
            ..Filter::default()
        }
    }

    #[test]
    fn each_row_is_held_back_for_its_reason_or_not_at_all() {
        for (row, expected) in [
            (json!({"email": "ada@acme.example"}), None),
            (json!({"email": ""}), Some(Reason::MissingField)),
            (json!({"email": "/Work Email"}), Some(Reason::MissingField)),
            (json!({"name": "Ada"}), Some(Reason::MissingField)),
            (json!({"email": "ada@gmail.com"}), Some(Reason::PersonalEmail)),
            (json!({"email": " Ada <ADA@GMail.COM> "}), Some(Reason::PersonalEmail)),
            (json!({"email": "ada@home.isp.example"}), Some(Reason::PersonalEmail)),
            (json!({"email": "ada@notgmail.com"}), None),
            (json!({"email": "ada@mailinator.com"}), Some(Reason::DisposableEmail)),
            (json!({"email": "ada@x.y.mailinator.com."}), Some(Reason::DisposableEmail)),
            (json!({"email": "ada@burner.example"}), Some(Reason::DisposableEmail)),
            (json!({"email": "ada@mail.com"}), None),
            (json!({"email": "ada@eu.mail.com"}), None),
            (json!({"email": "no address at all"}), None),
            (json!({"email": 7}), None),
        ] {
            assert_eq!(filter().judge(&object(row.clone())), expected, "{row}");
        }
        assert_eq!(Filter::default().judge(&object(json!({"email": "ada@mailinator.com"}))), None);
    }

    #[test]
    fn rows_are_the_same_by_the_chosen_columns_alone() {
        let filter = Filter { unique_by: vec!["email".to_owned(), "/company/domain".to_owned()], ..Filter::default() };
        let of = |row: Value| filter.identity(&object(row));
        let row = of(json!({"email": "ada@acme.example", "company": {"domain": "acme.example"}, "n": 1}));
        assert!(row.is_some());
        assert_eq!(row, of(json!({"email": " ADA@acme.example", "company": {"domain": "Acme.Example"}, "n": 2})));
        assert_ne!(row, of(json!({"email": "bob@acme.example", "company": {"domain": "acme.example"}})));
        assert_eq!(of(json!({"email": "ada@acme.example"})), None, "a column is missing");
        assert_eq!(Filter::default().identity(&object(json!({"email": "ada@acme.example"}))), None);
    }

    #[test]
    fn urls_become_bare_domains_and_the_rest_stays() {
        let filter = Filter { domain_fields: vec!["website".to_owned(), "/a/b".to_owned()], ..Filter::default() };
        for (row, expected) in [
            (json!({"website": "https://www.Example.com/x?y"}), json!({"website": "example.com"})),
            (json!({"website": "HTTP://shop.example.co.uk:8080"}), json!({"website": "shop.example.co.uk"})),
            (json!({"a": {"b": "www.example.com"}}), json!({"a": {"b": "example.com"}})),
            (json!({"website": "unknown"}), json!({"website": "unknown"})),
            (json!({"website": 5, "other": "https://a.example"}), json!({"website": 5, "other": "https://a.example"})),
        ] {
            let mut tidied = object(row.clone());
            assert_eq!(!filter.tidy(&mut tidied).is_empty(), row != expected, "{row}");
            assert_eq!(Value::Object(tidied), expected);
        }
    }
}
