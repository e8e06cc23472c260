//! The values in effect as TOML, each with where it comes from.

use std::fmt::Write;

use serde_json::Value as Json;

use super::{Origin, Setting};

/// Writes `settings` as TOML; behind each value stands whether it is a default, the file's line, or the variable.
pub fn to_toml(settings: &[Setting]) -> String {
    let mut sections: Vec<&str> = Vec::new();
    for setting in settings {
        if !sections.contains(&setting.section.as_str()) {
            sections.push(&setting.section);
        }
    }
    let mut text = String::new();
    for section in sections {
        write_heading(&mut text, section);
        for setting in settings.iter().filter(|setting| setting.section == section) {
            write_setting(&mut text, setting);
        }
    }
    text
}

/// Writing to a String cannot fail, here and below.
fn write_heading(text: &mut String, section: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    let _ = match section.strip_suffix(']').and_then(|section| section.rsplit_once('[')) {
        Some((list, _)) => writeln!(text, "[[{list}]]"),
        None => writeln!(text, "[{section}]"),
    };
}

fn write_setting(text: &mut String, setting: &Setting) {
    let origin = match &setting.origin {
        Origin::Default => "default".to_owned(),
        Origin::File { line } => format!("line {line}"),
        Origin::Variable(name) => name.clone(),
    };
    let _ = match &setting.shown {
        Json::Null => writeln!(text, "# {}: {}", setting.key, setting.words),
        shown => writeln!(text, "{} = {}  # {origin}", write_key(&setting.key), write_value(shown)),
    };
}

/// A key as TOML takes it: bare where that is possible.
pub(super) fn write_key(key: &str) -> String {
    let is_bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if is_bare { key.to_owned() } else { write_text(key) }
}

fn write_value(value: &Json) -> String {
    match value {
        // TOML knows no null; only an odd number (inf, nan) in a body comes here.
        Json::Null => "\"\"".to_owned(),
        Json::Bool(truth) => truth.to_string(),
        Json::Number(number) => number.to_string(),
        Json::String(text) => write_text(text),
        Json::Array(values) => format!("[{}]", values.iter().map(write_value).collect::<Vec<_>>().join(", ")),
        Json::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Json::Object(entries) => {
            let entry = |(key, value): (&String, &Json)| format!("{} = {}", write_key(key), write_value(value));
            format!("{{ {} }}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

fn write_text(text: &str) -> String {
    let mut written = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => written.push_str("\\\""),
            '\\' => written.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(written, "\\u{:04X}", c as u32);
            }
            c => written.push(c),
        }
    }
    written.push('"');
    written
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_read_back(key in ".{0,20}", text in ".*") {
            let setting = Setting {
                section: "rules[0]".to_owned(),
                key: key.clone(),
                shown: serde_json::json!([{ key.clone(): text }]),
                words: "",
                origin: Origin::Default,
            };
            let read: toml::Table = to_toml(&[setting]).parse().unwrap();
            prop_assert_eq!(read["rules"][0][key.as_str()][0][key.as_str()].as_str().unwrap(), text);
        }
    }
}
