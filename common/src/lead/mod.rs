//! A lead: what routing and destinations see of a callback's body.
//!
//! Clay's columns send numbers as strings, templates that did not resolve, and nothing at all; [`Lead::normalise`] reads
//! what can be read, leaves the rest out and says so in [`Lead::warnings`]. The body itself is never changed.

pub(crate) mod number;
pub(crate) mod placeholder;
pub(crate) mod pointer;
mod reader;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::person::Person;
use crate::score::IcpScore;

/// A normalised lead. Missing, null, empty and placeholder values are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lead {
    /// E-mail address, trimmed, otherwise as written.
    pub email: Option<String>,
    /// First name.
    pub first_name: Option<String>,
    /// Last name.
    pub last_name: Option<String>,
    /// Company.
    pub company_name: Option<String>,
    /// Title.
    pub job_title: Option<String>,
    /// Employees, at least 0.
    pub employee_count: Option<i64>,
    /// Industry.
    pub industry: Option<String>,
    /// LinkedIn profile URL.
    pub linkedin_url: Option<String>,
    /// ICP score.
    pub icp_score: Option<IcpScore>,
    /// Opener.
    pub personalized_opener: Option<String>,
    /// Every other field of the body (without missing and placeholder values), as it came.
    pub extra: Map<String, Value>,
    /// What was odd, for example `email: placeholder`; field names and kinds only, never values. At most 32.
    pub warnings: Vec<String>,
}

impl Lead {
    /// The fields that every lead may have, in the order of `claygate.leads`.
    pub const KNOWN_FIELDS: &'static [&'static str] = &[
        "email",
        "first_name",
        "last_name",
        "company_name",
        "job_title",
        "employee_count",
        "industry",
        "linkedin_url",
        "icp_score",
        "personalized_opener",
    ];

    /// Reads a lead out of a body; `mapping` is field name → JSON pointer. Never fails: what cannot be read is missing
    /// and leaves a warning.
    ///
    /// A field is looked up at its pointer first, then under its own name. Names of the mapping that are no known field
    /// become extras; a top-level field that a pointer names is not an extra again. Numbers may be strings (`"85"`,
    /// `"1,200"`; a score also `"85%"`). NUL becomes U+FFFD, which PostgreSQL can store.
    pub fn normalise(object: &Map<String, Value>, mapping: &BTreeMap<String, String>) -> Self {
        reader::Reader::new(object, mapping).read()
    }

    /// The person behind it, if it names one.
    pub fn person(&self) -> Option<Person> {
        Person::of(self)
    }

    /// The lead as one flat JSON object: present fields only, extras beside the known ones. A whole score is an integer.
    pub fn to_object(&self) -> Map<String, Value> {
        let mut object = self.extra.clone();
        let text = |value: &Option<String>| value.clone().map(Value::String);
        for (field, value) in [
            ("email", text(&self.email)),
            ("first_name", text(&self.first_name)),
            ("last_name", text(&self.last_name)),
            ("company_name", text(&self.company_name)),
            ("job_title", text(&self.job_title)),
            ("employee_count", self.employee_count.map(Value::from)),
            ("industry", text(&self.industry)),
            ("linkedin_url", text(&self.linkedin_url)),
            ("icp_score", self.icp_score.map(|score| reader::to_json_number(score.get()))),
            ("personalized_opener", text(&self.personalized_opener)),
        ] {
            if let Some(value) = value {
                object.insert(field.to_owned(), value);
            }
        }
        object
    }
}

#[cfg(test)]
mod tests;
