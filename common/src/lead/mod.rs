//! A lead: what routing and destinations see of a callback's body.

pub(crate) mod placeholder;
pub(crate) mod pointer;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::person::Person;
use crate::score::IcpScore;

/// A normalised lead. Missing, null, empty and placeholder values are `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lead {
    /// E-mail address, trimmed, as written.
    pub email: Option<String>,
    /// First name.
    pub first_name: Option<String>,
    /// Last name.
    pub last_name: Option<String>,
    /// Company.
    pub company_name: Option<String>,
    /// Title.
    pub job_title: Option<String>,
    /// Employees.
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
    /// What was odd, for example `email: placeholder`; field names and kinds only, never values.
    pub warnings: Vec<String>,
}

impl Lead {
    /// Reads a lead out of a body; `mapping` is field name → JSON pointer. Never fails: what cannot be read is missing
    /// and leaves a warning.
    pub fn normalise(object: &Map<String, Value>, mapping: &BTreeMap<String, String>) -> Self {
        let _ = (object, mapping);
        todo!()
    }

    /// The person behind it, if it names one.
    pub fn person(&self) -> Option<Person> {
        todo!()
    }

    /// The lead as one flat JSON object: present fields only, extras beside the known ones.
    pub fn to_object(&self) -> Map<String, Value> {
        todo!()
    }

    /// The inverse of what `claygate.leads` keeps: known columns and extras.
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
}
