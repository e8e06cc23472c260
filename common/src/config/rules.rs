//! `[[rules]]`: where a lead goes. What the expressions mean is the business of [`crate::rules`].

use serde_json::Value as Json;

use super::read::{Context, Reader};
use super::schema::{Key, Kind, Preset, Section};
use super::tree::{Origin, Value};
use super::values::check_name;

/// One `[[rules]]` entry.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RuleConfig {
    /// The rule's name, `[a-z][a-z0-9_-]*`, unique.
    pub name: String,
    /// A CEL expression over `lead`, `source` and `callback` that gives a bool.
    pub when: String,
    /// Destinations, by name.
    pub to: Vec<String>,
    /// Sources it is limited to; empty: all.
    pub source: Vec<String>,
    /// Whether a match ends the evaluation.
    pub stop: bool,
}

pub(super) static RULE: Section = Section {
    title: "[[rules]]",
    doc: "Evaluated in order for every lead; one's own rules replace the built-in ones as a whole. Without any: a score \
          of at least 90 goes to `alerts`; of at least 80, with an email, to `outreach`; else of at least 50 to \
          `nurture`; else nowhere; and every routed lead to `zapier`, where that is configured. Of these destinations \
          one that is not configured only records (`kind = \"log\"`, `once_per = \"30d\"`).",
    keys: &[
        Key::new("name", Kind::Text, Preset::Required, "Its name, `[a-z][a-z0-9_-]*`, unique."),
        Key::new(
            "when",
            Kind::Text,
            Preset::Required,
            "A CEL expression over `lead`, `source` and `callback`, for example \
             `lead.icp_score >= 80 && has(lead.email)`. A rule whose evaluation ends in a missing field does not match.",
        ),
        Key::new("to", Kind::Texts, Preset::Said("none"), "Destinations. May be empty where `stop` is true."),
        Key::new("source", Kind::Texts, Preset::Said("all"), "Sources it is limited to."),
        Key::new("stop", Kind::Bool, Preset::Is("false"), "Whether a match ends the evaluation."),
    ],
};

pub(super) fn read_rule(reader: &Reader<'_>, names: &mut Vec<String>) -> RuleConfig {
    reader.check_keys(None);
    let name = reader.parsed("name", |text| check_name(text).map(|()| text.to_owned())).unwrap_or_default();
    if names.contains(&name) && !name.is_empty() {
        reader.wrong("name", format!("\"{name}\" names an earlier rule too: names are unique"));
    }
    names.push(name.clone());
    let rule = RuleConfig {
        name,
        when: reader.text("when").unwrap_or_default(),
        to: reader.texts("to"),
        source: reader.texts("source"),
        stop: reader.truth("stop"),
    };
    if !rule.stop && !reader.has("to") {
        reader.wrong("to", "is missing: name a destination, or set stop = true to end the evaluation here");
    } else if !rule.stop && matches!(reader.node("to").map(|node| &node.value), Some(Value::List(to)) if to.is_empty())
    {
        reader
            .wrong("to", "is empty and stop is false, so the rule does nothing: name a destination or set stop = true");
    }
    rule
}

/// Notes rules that nobody wrote for `config show`.
pub(super) fn note_built_in(rules: &[RuleConfig], context: &Context<'_>) {
    for (at, rule) in rules.iter().enumerate() {
        let reader = Reader::new(context, &RULE, None, format!("rules[{at}]"), true);
        let note = |name, shown: Json| reader.note(name, shown, &Origin::Default);
        note("name", rule.name.as_str().into());
        note("when", rule.when.as_str().into());
        note("to", rule.to.clone().into());
        note("source", rule.source.clone().into());
        note("stop", rule.stop.into());
    }
}
