//! Routing rules: CEL expressions, compiled once, evaluated in order, every result kept.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::RuleConfig;

/// A compiled rule set.
pub struct RuleSet {
    version: String,
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
    /// The missing field, or the error.
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
    /// An earlier rule stopped the evaluation.
    NotReached,
    /// It failed: the callback ends as dead, reason `rule_error`.
    Error,
}

/// The whole evaluation of one lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// Every rule's result, in order.
    pub trace: Vec<RuleResult>,
    /// Destination → the rule that named it first.
    pub destinations: BTreeMap<String, String>,
    /// Whether a rule failed.
    pub failed: bool,
}

impl RuleSet {
    /// Compiles and checks `rules`.
    ///
    /// # Errors
    /// Every problem found: syntax, unknown root or function, unknown destination or source, size, nested comprehensions.
    pub fn compile(
        rules: &[RuleConfig],
        destinations: &[String],
        sources: &[String],
    ) -> Result<Self, Vec<RuleProblem>> {
        let _ = (rules, destinations, sources);
        todo!()
    }

    /// SHA-256 (hex) of the normalised rules.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Evaluates one lead. Pure; may need a deep stack: the worker calls it on threads of its own.
    pub fn evaluate(&self, input: &RuleInput<'_>) -> Evaluation {
        let _ = input;
        todo!()
    }
}
