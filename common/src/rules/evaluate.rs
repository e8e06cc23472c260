//! One lead through all rules.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString};
use cel::common::value::Val;
use cel::{Context, ExecutionError, Value as CelValue};
use serde_json::{Map, Value};

use super::compile::Rule;
use super::{Evaluation, RuleInput, RuleOutcome, RuleResult, RuleSet};

impl RuleSet {
    /// Gives every rule's result as soon as it is known, in order.
    pub(super) fn evaluate_each(&self, input: &RuleInput<'_>, give: &mut dyn FnMut(RuleResult)) {
        let mut context = Context::with_env(Arc::clone(&self.env));
        context.add_variable_as_val("lead", map(input.lead));
        context.add_variable_as_val("source", Box::new(CelString::from(input.source)));
        context.add_variable_as_val("callback", map(input.callback));
        let mut ended = false;
        for rule in &self.rules {
            let (result, detail) = if ended {
                (RuleOutcome::NotReached, None)
            } else if !rule.source.is_empty() && rule.source.iter().all(|source| source != input.source) {
                (RuleOutcome::OtherSource, None)
            } else {
                rule.evaluate(&context)
            };
            ended |= result == RuleOutcome::Error || (result == RuleOutcome::Matched && rule.stop);
            give(RuleResult { rule: rule.name.clone(), result, detail });
        }
    }

    /// What follows from a complete trace.
    pub(super) fn conclude(&self, trace: Vec<RuleResult>) -> Evaluation {
        let failed = trace.iter().any(|result| result.result == RuleOutcome::Error);
        let mut destinations = BTreeMap::new();
        for (rule, result) in self.rules.iter().zip(&trace) {
            if result.result == RuleOutcome::Matched && !failed {
                for destination in &rule.to {
                    destinations.entry(destination.clone()).or_insert_with(|| rule.name.clone());
                }
            }
        }
        Evaluation { trace, destinations, failed }
    }

    /// Completes a trace whose next rule did not end.
    pub(super) fn cut_short(&self, mut trace: Vec<RuleResult>, detail: &str) -> Evaluation {
        let mut unfinished = self.rules.iter().skip(trace.len()).map(|rule| rule.name.clone());
        if let Some(rule) = unfinished.next() {
            trace.push(RuleResult { rule, result: RuleOutcome::Error, detail: Some(detail.to_owned()) });
        }
        trace.extend(unfinished.map(|rule| RuleResult { rule, result: RuleOutcome::NotReached, detail: None }));
        self.conclude(trace)
    }
}

impl Rule {
    fn evaluate(&self, context: &Context<'_, '_>) -> (RuleOutcome, Option<String>) {
        match CelValue::resolve_val(&self.expression, context) {
            Ok(value) => match value.downcast_ref::<CelBool>() {
                Some(matched) if *matched.inner() => (RuleOutcome::Matched, None),
                Some(_) => (RuleOutcome::NoMatch, None),
                None => (RuleOutcome::Error, Some(format!("gives {}, not bool", value.get_type().name()))),
            },
            Err(ExecutionError::NoSuchKey(key)) => {
                // A key that was calculated may be a lead's value.
                let named = self.names.contains(key.as_str());
                (RuleOutcome::MissingField, Some(if named { key.to_string() } else { "a calculated key".to_owned() }))
            }
            Err(error) => (RuleOutcome::Error, Some(describe(&error))),
        }
    }
}

/// The error without the values in it: they are a lead's.
fn describe(error: &ExecutionError) -> String {
    use ExecutionError as E;
    match error {
        E::NoSuchOverload(overload) => overload.to_string(),
        E::UnsupportedBinaryOperator(operator, left, right) => {
            format!("'{operator}' does not work on {} and {}", left.type_of(), right.type_of())
        }
        E::ValuesNotComparable(left, right) => {
            format!("{} and {} cannot be compared", left.type_of(), right.type_of())
        }
        E::UnexpectedType { want, .. } => format!("a value is not of type {want}"),
        E::FunctionError { function, .. } => format!("{function}() cannot read its argument"),
        E::DivisionByZero(_) | E::RemainderByZero(_) => "division by zero".to_owned(),
        E::Overflow(..) => "a number is out of range".to_owned(),
        E::IndexOutOfBounds(_) => "an index is out of bounds".to_owned(),
        _ => "the evaluation failed".to_owned(),
    }
}

/// A JSON object as CEL sees it: null members are absent, as missing ones are. Strings are borrowed.
fn map<'v>(members: &'v Map<String, Value>) -> Box<dyn Val + 'v> {
    let present = members.iter().filter(|(_, value)| !value.is_null());
    let map: HashMap<CelMapKey<'v>, Box<dyn Val + 'v>> =
        present.map(|(key, value)| (CelMapKey::String(CelString::from(key.as_str())), bind(value))).collect();
    Box::new(CelMap::from(map))
}

fn bind<'v>(value: &'v Value) -> Box<dyn Val + 'v> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(truth) => Box::new(CelBool::from(*truth)),
        // What is beyond i64 is a double like every other number.
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Box::new(CelInt::from(whole)),
            None => Box::new(CelDouble::from(number.as_f64().unwrap_or_default())),
        },
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Array(items) => Box::new(CelList::from(items.iter().map(bind).collect::<Vec<_>>())),
        Value::Object(members) => map(members),
    }
}
