//! The body of the column: JSON with a placeholder for every chip, in the order of a lead's fields.

use common::config::Source;
use common::lead::Lead;

/// An object that keeps its order.
#[derive(Default)]
struct Object(Vec<(String, Entry)>);

enum Entry {
    Chip(String),
    Object(Object),
}

impl Object {
    /// Puts a chip where `pointer` leads; a place that is taken stays.
    fn put(&mut self, pointer: &[String], chip: &str) {
        let Some((key, rest)) = pointer.split_first() else { return };
        let at = self.0.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
            let entry = if rest.is_empty() { Entry::Chip(chip.to_owned()) } else { Entry::Object(Self::default()) };
            self.0.push((key.clone(), entry));
            self.0.len() - 1
        });
        if let Some((_, Entry::Object(inner))) = self.0.get_mut(at) {
            inner.put(rest, chip);
        }
    }

    fn write(&self, indent: usize, into: &mut String) {
        into.push('{');
        for (at, (key, entry)) in self.0.iter().enumerate() {
            into.push_str(if at == 0 { "\n" } else { ",\n" });
            into.push_str(&" ".repeat(indent + 2));
            into.push_str(&quote(key));
            into.push_str(": ");
            match entry {
                Entry::Chip(chip) => into.push_str(&quote(&format!("{{{{{chip}}}}}"))),
                Entry::Object(inner) => inner.write(indent + 2, into),
            }
        }
        into.push('\n');
        into.push_str(&" ".repeat(indent));
        into.push('}');
    }
}

/// Every field of a lead, those that the source maps, and those that its key is made of.
pub(super) fn write_body(source: &Source) -> String {
    let mut body = Object::default();
    for field in Lead::KNOWN_FIELDS {
        match source.fields.get(*field) {
            Some(pointer) => body.put(&split(pointer), &chip_of(field)),
            None => body.put(&[(*field).to_owned()], &chip_of(field)),
        }
    }
    let others = source.fields.iter().filter(|(field, _)| !Lead::KNOWN_FIELDS.contains(&field.as_str()));
    for (field, pointer) in others {
        body.put(&split(pointer), &chip_of(field));
    }
    for pointer in &source.idempotency.pointers {
        let parts = split(pointer);
        if let Some(last) = parts.last() {
            body.put(&parts, &chip_of(last));
        }
    }
    let mut text = String::new();
    body.write(0, &mut text);
    text
}

/// The parts of a JSON pointer.
fn split(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect()
}

/// What the column that fills a field is usually called.
fn chip_of(field: &str) -> String {
    match field {
        "email" => return "Work Email".to_owned(),
        "linkedin_url" => return "LinkedIn URL".to_owned(),
        "icp_score" => return "ICP Score".to_owned(),
        _ => {}
    }
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
    };
    field.split('_').map(capital).collect::<Vec<String>>().join(" ")
}

fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
