//! What counts as missing: null, emptiness, and the junk that a Clay column sends when a chip did not resolve.

use serde_json::Value;

/// Why a value counts as missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Null, empty, or white space alone.
    Empty,
    /// The name of a column, a template or a stringified object instead of a value.
    Placeholder,
}

/// What stands for "no value", in any letter case. Words that are also names of people or firms (`NA`, `None`, `Null`)
/// are not among them.
const NOTHING: [&str; 5] = ["n/a", "#n/a", "n.a.", "-", "—"];

/// The same as programs print it, in exactly this case.
const NOTHING_AS_PRINTED: [&str; 4] = ["null", "undefined", "NaN", "#REF!"];

/// Words in the names of fields in which a leading slash is a path, not an unresolved column.
const PATH_WORDS: [&str; 8] = ["url", "uri", "path", "page", "link", "href", "referrer", "file"];

/// Why `value` of the body's field `field` counts as missing, if it does.
pub(crate) fn missing(field: &str, value: &Value) -> Option<Missing> {
    match value {
        Value::Null => Some(Missing::Empty),
        Value::String(text) => missing_text(field, text),
        _ => None,
    }
}

fn missing_text(field: &str, text: &str) -> Option<Missing> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Missing::Empty);
    }
    let template = text.starts_with("{{") && text.ends_with("}}");
    let object = text.starts_with("[object ") && text.ends_with(']');
    let nothing = NOTHING.iter().any(|word| word.eq_ignore_ascii_case(text)) || NOTHING_AS_PRINTED.contains(&text);
    (template || object || nothing || (is_column_name(text) && !holds_paths(field))).then_some(Missing::Placeholder)
}

/// `/Work Email`: a slash and a letter.
fn is_column_name(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next() == Some('/') && characters.next().is_some_and(char::is_alphabetic)
}

/// Whether a value such as `/pricing` is possible in a field of that name. In `linkedin_url` it is not: that one holds
/// a whole URL.
fn holds_paths(field: &str) -> bool {
    let field = field.to_ascii_lowercase();
    field != "linkedin_url" && PATH_WORDS.iter().any(|word| field.contains(word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn junk_counts_as_missing() {
        for (field, value, expected) in [
            ("email", json!(null), Some(Missing::Empty)),
            ("email", json!(""), Some(Missing::Empty)),
            ("email", json!(" \t\u{a0}"), Some(Missing::Empty)),
            ("email", json!("/Work Email"), Some(Missing::Placeholder)),
            ("email", json!(" /work_email "), Some(Missing::Placeholder)),
            ("company_name", json!("/Überfirma"), Some(Missing::Placeholder)),
            ("email", json!("{{Work Email}}"), Some(Missing::Placeholder)),
            ("email", json!("[object Object]"), Some(Missing::Placeholder)),
            ("industry", json!("N/A"), Some(Missing::Placeholder)),
            ("industry", json!("n/a"), Some(Missing::Placeholder)),
            ("industry", json!("undefined"), Some(Missing::Placeholder)),
            ("linkedin_url", json!("/LinkedIn URL"), Some(Missing::Placeholder)),
            ("landing_page", json!("/pricing"), None),
            ("Referrer Path", json!("/a/b"), None),
            ("first_name", json!("Na"), None),
            ("last_name", json!("Null"), None),
            ("personalized_opener", json!("Loved {{your}} post"), None),
            ("personalized_opener", json!("/ 10 for the launch"), None),
            ("score", json!(0), None),
            ("flag", json!(false), None),
            ("list", json!([]), None),
        ] {
            assert_eq!(missing(field, &value), expected, "{field}: {value}");
        }
    }
}
