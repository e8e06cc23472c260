//! What is configured where nobody configured anything: the source `clay`, the rules, and the destinations they name.

use super::tree::{Table, Value, parse, without_lines};
use super::{Environment, RuleConfig};
use crate::rules::default_rules;

/// Destinations of the built-in rules that record where they are not configured.
const RECORDING: [&str; 3] = ["alerts", "outreach", "nurture"];

/// The one that is left out where it is not configured.
const OPTIONAL: &str = "zapier";

/// Puts the built-in source and destinations into `tree`. `has_file` is false where no file was found: then
/// `SLACK_WEBHOOK_URL` and `ZAPIER_WEBHOOK_URL` are used where they are set.
pub(super) fn complete(tree: &mut Table, has_file: bool, environment: &Environment) {
    let mut built_in = String::new();
    if !tree.contains_key("sources") {
        built_in.push_str("[sources.clay]\npath = \"/api/clay/enriched\"\n");
    }
    if !tree.contains_key("rules") {
        let is_set = |variable| !has_file && environment.get(variable).is_some();
        for name in RECORDING {
            let slack = name == "alerts" && is_set("SLACK_WEBHOOK_URL");
            let kind = if slack { "kind = \"slack\"\nurl = \"${SLACK_WEBHOOK_URL}\"" } else { "kind = \"log\"" };
            built_in.push_str(&format!("[destinations.{name}]\n{kind}\nonce_per = \"30d\"\n"));
        }
        if is_set("ZAPIER_WEBHOOK_URL") {
            built_in.push_str(&format!(
                "[destinations.{OPTIONAL}]\nkind = \"http\"\nurl = \"${{ZAPIER_WEBHOOK_URL}}\"\nonce_per = \"30d\"\n"
            ));
        }
    }
    // The text above is valid TOML; a test reads every variant.
    for (section, node) in parse(&built_in).map(without_lines).unwrap_or_default() {
        match (tree.get_mut(&section).map(|node| &mut node.value), node.value) {
            (None, value) => {
                tree.insert(section, super::tree::Node { value, origin: node.origin });
            }
            (Some(Value::Table(own)), Value::Table(built_in)) => {
                for (name, node) in built_in {
                    own.entry(name).or_insert(node);
                }
            }
            // Not a table: reported when it is read.
            _ => {}
        }
    }
}

/// The built-in rules for what is configured.
pub(super) fn rules(has_destination: impl Fn(&str) -> bool) -> Vec<RuleConfig> {
    let mut rules = default_rules();
    for rule in &mut rules {
        rule.to.retain(|name| name != OPTIONAL || has_destination(name));
    }
    rules
}
