//! A lead is read once and for all: reading what was read changes nothing more, and no warning holds a value.

use std::collections::{BTreeMap, BTreeSet};

use common::canonical::check_body;
use common::lead::Lead;
use serde_json::{Map, Value};

/// What a warning may say of a field.
const KINDS: [&str; 6] =
    ["placeholder", "NUL replaced", "not text", "not an e-mail address", "not a number", "not a count"];

pub(crate) fn check(input: &[u8]) {
    let Ok(body) = check_body(input) else { return };
    check_mapped(&body.object, &BTreeMap::new());
    let mapping = [("email", "/Work Email"), ("icp_score", "/score/0"), ("plan", "/a/b"), ("id", "/id")];
    check_mapped(&body.object, &mapping.map(|(field, path)| (field.to_owned(), path.to_owned())).into());
}

fn check_mapped(body: &Map<String, Value>, mapping: &BTreeMap<String, String>) {
    let lead = Lead::normalise(body, mapping);
    assert_eq!(lead, Lead::normalise(body, mapping), "read twice, read differently");
    check_warnings(&lead, body, mapping);
    let object = lead.to_object();
    assert!(!holds_nul(&Value::Object(object.clone())), "NUL, which PostgreSQL cannot hold");
    for (field, value) in &object {
        assert!(!value.is_null(), "{field} is there and null");
        assert!(value.as_str().is_none_or(|text| !text.trim().is_empty()), "{field} is there and empty");
    }
    for field in Lead::KNOWN_FIELDS {
        let value = object.get(*field);
        match *field {
            "employee_count" => assert!(value.is_none_or(|value| value.as_u64().is_some()), "{value:?} employees"),
            "icp_score" => assert!(value.is_none_or(|value| value.as_f64().is_some_and(f64::is_finite)), "{value:?}"),
            _ => assert!(value.is_none_or(Value::is_string), "{field} is no text"),
        }
    }

    let again = Lead::normalise(&object, &BTreeMap::new());
    assert_eq!(again.warnings, Vec::<String>::new(), "what was read leaves warnings");
    assert_eq!(again, Lead { warnings: Vec::new(), ..lead.clone() }, "reading what was read changes it");
    assert_eq!(again.person(), lead.person());
}

/// Warnings name fields and kinds.
fn check_warnings(lead: &Lead, body: &Map<String, Value>, mapping: &BTreeMap<String, String>) {
    assert!(lead.warnings.len() <= 32, "{} warnings", lead.warnings.len());
    let clean = |name: &str| name.replace('\0', "\u{fffd}").chars().take(64).collect::<String>();
    let known = Lead::KNOWN_FIELDS.iter().copied().map(str::to_owned);
    let fields: BTreeSet<String> = body.keys().chain(mapping.keys()).map(|name| clean(name)).chain(known).collect();
    for warning in &lead.warnings {
        let said = KINDS.iter().any(|kind| {
            warning
                .strip_suffix(kind)
                .and_then(|name| name.strip_suffix(": "))
                .is_some_and(|name| fields.contains(name))
        });
        assert!(said, "a warning that is no field and kind: {warning}");
    }
    assert_eq!(lead.warnings.iter().collect::<BTreeSet<_>>().len(), lead.warnings.len(), "a warning twice");
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(members) => members.iter().any(|(key, value)| key.contains('\0') || holds_nul(value)),
        _ => false,
    }
}
