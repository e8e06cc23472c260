//! The normal form of a rule set, whose hash is its version: what does not change a decision does not change it.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::RuleConfig;

pub(super) fn normalise(rules: &[RuleConfig]) -> Value {
    let rule = |rule: &RuleConfig| {
        json!({
            "name": rule.name,
            "when": normalise_expression(&rule.when),
            "to": rule.to,
            "source": rule.source,
            "stop": rule.stop,
        })
    };
    rules.iter().map(rule).collect()
}

/// SHA-256 in hex. The text is canonical: objects print their keys in order.
pub(super) fn version(normalised: &Value) -> String {
    hex::encode(Sha256::digest(normalised.to_string()))
}

/// One space for every run of white space and comments, none at the ends; strings stay as they are.
fn normalise_expression(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut gap = false;
    while let Some(next) = rest.chars().next() {
        let taken = if next.is_whitespace() {
            gap = true;
            next.len_utf8()
        } else if rest.starts_with("//") {
            gap = true;
            rest.find('\n').unwrap_or(rest.len())
        } else {
            if std::mem::take(&mut gap) && !out.is_empty() {
                out.push(' ');
            }
            let raw = out.ends_with(['r', 'R']);
            let taken = if matches!(next, '"' | '\'') { string_length(rest, next, raw) } else { next.len_utf8() };
            out.push_str(&rest[..taken]);
            taken
        };
        rest = &rest[taken..];
    }
    out
}

/// The bytes of the string literal at the start of `text`, quotes included; all of it where the literal has no end.
fn string_length(text: &str, quote: char, raw: bool) -> usize {
    let triple: String = [quote; 3].iter().collect();
    let end = if text.starts_with(&triple) { triple.as_str() } else { &triple[..1] };
    let mut at = end.len();
    while let Some(rest) = text.get(at..) {
        if rest.starts_with(end) {
            return at + end.len();
        }
        let mut characters = rest.chars();
        let Some(character) = characters.next() else { break };
        at += character.len_utf8();
        if character == '\\' && !raw {
            at += characters.next().map_or(0, char::len_utf8);
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn white_space_outside_strings_does_not_count() {
        for (source, expected) in [
            ("  lead.a  >=\n\t80 ", "lead.a >= 80"),
            ("lead.a == \"x  y\"  && b", "lead.a == \"x  y\" && b"),
            ("a == 'x  \\'  y'  &&  b", "a == 'x  \\'  y' && b"),
            ("a == \"x \\\\\"   + b", "a == \"x \\\\\" + b"),
            ("a == r\"x \\\"   + b", "a == r\"x \\\" + b"),
            ("a == \"\"\"x  \"  y\"\"\"   + b", "a == \"\"\"x  \"  y\"\"\" + b"),
            ("a == \"\"   + b", "a == \"\" + b"),
            ("a // why\n  && b // \"  quoted  \"", "a && b"),
            ("a == 'http://x  y'", "a == 'http://x  y'"),
            ("a == \"open  end", "a == \"open  end"),
            ("é  ==  'é  '", "é == 'é  '"),
            ("", ""),
            ("  // nothing", ""),
        ] {
            assert_eq!(normalise_expression(source), expected, "{source}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing_more(source in "[ab .\\n\\\\\"'r/é]{0,24}") {
            let once = normalise_expression(&source);
            prop_assert_eq!(normalise_expression(&once), once);
        }
    }
}
