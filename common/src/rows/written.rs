//! Changing a row's text in places: everything else keeps its digits. A parsed number has those of a double at most.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};

use crate::filter::Tidied;
use crate::lead::pointer;

/// `raw`, an object, with new text in the fields that were tidied. `None`: it is not the object that they were found in.
pub(super) fn replace(raw: &[u8], tidied: &[Tidied<'_>]) -> Option<Vec<u8>> {
    let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(raw).ok()?;
    for Tidied { field, bare } in tidied {
        let (first, below) =
            if field.starts_with('/') { pointer::split_first(field)? } else { ((*field).to_owned(), "") };
        let member = members.get_mut(&first)?;
        *member = put(member, below, bare)?;
    }
    serde_json::to_vec(&members).ok()
}

/// `value` with `text` where the pointer points to. As deep as the pointer.
fn put(value: &RawValue, pointer: &str, text: &str) -> Option<Box<RawValue>> {
    if pointer.is_empty() {
        return to_raw_value(text).ok();
    }
    let (first, below) = pointer::split_first(pointer)?;
    if value.get().starts_with('[') {
        let mut items: Vec<Box<RawValue>> = serde_json::from_str(value.get()).ok()?;
        let item = items.get_mut(first.parse::<usize>().ok()?)?;
        *item = put(item, below, text)?;
        return to_raw_value(&items).ok();
    }
    let mut members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(value.get()).ok()?;
    let member = members.get_mut(&first)?;
    *member = put(member, below, text)?;
    to_raw_value(&members).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_is_named_changes() {
        let raw = br#"{"n":123456789012345678901, "a":[1.10, {"b/c":"x", "d":36893488147419103232}], "s":"x"}"#;
        for (field, expected) in [
            ("s", r#"{"a":[1.10, {"b/c":"x", "d":36893488147419103232}],"n":123456789012345678901,"s":"y"}"#),
            ("/s", r#"{"a":[1.10, {"b/c":"x", "d":36893488147419103232}],"n":123456789012345678901,"s":"y"}"#),
            ("/a/1/b~1c", r#"{"a":[1.10,{"b/c":"y","d":36893488147419103232}],"n":123456789012345678901,"s":"x"}"#),
        ] {
            let tidied = [Tidied { field, bare: "y".to_owned() }];
            assert_eq!(String::from_utf8(replace(raw, &tidied).unwrap()).unwrap(), expected);
        }
        assert_eq!(replace(raw, &[Tidied { field: "/a/7", bare: String::new() }]), None);
    }
}
