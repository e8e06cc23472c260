//! Routing rules: CEL expressions, compiled once, evaluated in order, every result kept.
//!
//! A rule is checked as far as it can be before any lead meets it: its size and depth, every name and function in it,
//! its destinations and sources, and that it does not fail on a lead without fields. What is left to fail then is a
//! lead's own data, and that is told apart from a field that is simply not there: the latter is no match.
//!
//! Guards against what an expression can cost: 1 KiB of source, 32 levels, no comprehension inside another one's body;
//! and [`RuleThreads`] gives it a deep stack and a deadline.

mod check;
mod compile;
mod defaults;
mod evaluate;
mod normal;
mod numbers;
mod threads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cel::Env;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::RuleConfig;
use crate::lead::Lead;

pub use defaults::default_rules;
pub use threads::{EVALUATION_DEADLINE, OwnedRuleInput, RuleThreads};

/// A compiled rule set.
pub struct RuleSet {
    version: String,
    normalised: Value,
    rules: Vec<compile::Rule>,
    env: Arc<Env>,
}

/// Why a rule set cannot be used; shown at start and by `config check`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule \"{rule}\": {what}")]
pub struct RuleProblem {
    /// The rule's name.
    pub rule: String,
    /// What is wrong, and where in the expression.
    pub what: String,
}

/// What rules are evaluated over.
#[derive(Clone, Debug)]
pub struct RuleInput<'a> {
    /// The lead's present fields.
    pub lead: &'a Map<String, Value>,
    /// The source's name.
    pub source: &'a str,
    /// `callback`: id, key_kind, revision, received_at (RFC 3339), duplicate-free facts of the callback.
    pub callback: &'a Map<String, Value>,
}

/// What one rule said; stored in `claygate.decisions.trace`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleResult {
    /// The rule's name.
    pub rule: String,
    /// `matched`, `no_match`, `missing_field`, `other_source`, `not_reached`, or `error`.
    pub result: RuleOutcome,
    /// The missing field, or the error; names and types only, never a lead's values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The ways a rule can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleOutcome {
    /// True.
    Matched,
    /// False.
    NoMatch,
    /// Its evaluation ended in "no such key": no match.
    MissingField,
    /// Limited to other sources.
    OtherSource,
    /// An earlier rule stopped the evaluation, or failed.
    NotReached,
    /// It failed: the callback ends as dead, reason `rule_error`.
    Error,
}

/// The whole evaluation of one lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// Every rule's result, in order.
    pub trace: Vec<RuleResult>,
    /// Destination → the rule that named it first. Empty where a rule failed.
    pub destinations: BTreeMap<String, String>,
    /// Whether a rule failed.
    pub failed: bool,
}

impl RuleSet {
    /// Compiles and checks `rules`. No rules are a rule set too: it routes nothing.
    ///
    /// # Errors
    /// Every problem found: syntax, unknown root or function, unknown destination or source, a name that stands twice,
    /// size, depth, nested comprehensions, a result that is no bool, and whatever fails on a lead without fields.
    pub fn compile(
        rules: &[RuleConfig],
        destinations: &[String],
        sources: &[String],
    ) -> Result<Self, Vec<RuleProblem>> {
        compile::compile(rules, destinations, sources)
    }

    /// SHA-256 (hex) of the normalised rules.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The normalised rules, as `claygate.rule_sets` keeps them: names, expressions without superfluous white space and
    /// comments, destinations, sources, stops.
    pub fn normalised(&self) -> &Value {
        &self.normalised
    }

    /// Evaluates one lead. Pure, but recursive and as slow as its rules: the worker calls it on threads of their own
    /// ([`RuleThreads`]).
    pub fn evaluate(&self, input: &RuleInput<'_>) -> Evaluation {
        let mut trace = Vec::with_capacity(self.rules.len());
        self.evaluate_each(input, &mut |result| trace.push(result));
        self.conclude(trace)
    }

    /// Warnings, by rule, for fields under `lead` that are neither known nor among `declared` (the names that the
    /// sources' mappings declare): a misspelt one is missing from every lead, and its rule never matches.
    pub fn warn_undeclared_fields<'a>(&self, declared: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let names: BTreeSet<&str> = Lead::KNOWN_FIELDS.iter().copied().chain(declared).collect();
        let mut warnings = Vec::new();
        for rule in &self.rules {
            for field in rule.lead_fields.iter().filter(|field| !names.contains(field.as_str())) {
                let hint = nearest(field, names.iter().copied());
                warnings.push(format!(
                    "rule \"{}\" reads lead.{field}, which no source declares under [sources.<name>.fields]{hint}",
                    rule.name
                ));
            }
        }
        warnings
    }
}

/// `; did you mean "…"?`, where a name is near enough.
fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> String {
    names
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!("; did you mean \"{name}\"?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
