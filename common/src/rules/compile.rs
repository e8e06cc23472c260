//! From configured rules to ones that can be evaluated, with every problem on the way.

use std::collections::BTreeSet;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::{Context, Env, ParseErrors};
use serde_json::Map;

use super::check::{self, Findings};
use super::{RuleInput, RuleOutcome, RuleProblem, RuleSet, nearest, normal, numbers};
use crate::config::RuleConfig;

/// The longest expression.
const SOURCE_BYTES_MAX: usize = 1024;
/// The stack for parsing and for a first evaluation: both are recursive, and the caller's may be small.
pub(super) const STACK_BYTES: usize = 16 * 1024 * 1024;

/// One compiled rule.
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) to: Vec<String>,
    pub(super) source: Vec<String>,
    pub(super) stop: bool,
    pub(super) expression: IdedExpr,
    /// Fields read as `lead.<field>` or `lead["<field>"]`.
    pub(super) lead_fields: BTreeSet<String>,
    /// Every field and string that the expression itself spells.
    pub(super) names: BTreeSet<String>,
}

pub(super) fn compile(
    rules: &[RuleConfig],
    destinations: &[String],
    sources: &[String],
) -> Result<RuleSet, Vec<RuleProblem>> {
    let env = Arc::new(environment().map_err(|what| vec![RuleProblem { rule: String::new(), what }])?);
    let mut problems = Vec::new();
    let mut compiled = Vec::new();
    let mut names = BTreeSet::new();
    for rule in rules {
        let mut found = check_names(rule, destinations, sources);
        if !names.insert(rule.name.as_str()) {
            found.push("the name stands twice".to_owned());
        }
        match on_deep_stack(|| compile_expression(rule, &env)) {
            Ok(rule) => compiled.push(rule),
            Err(more) => found.extend(more),
        }
        problems.extend(found.into_iter().map(|what| RuleProblem { rule: rule.name.clone(), what }));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let normalised = normal::normalise(rules);
    Ok(RuleSet { version: normal::version(&normalised), normalised, rules: compiled, env })
}

/// CEL's standard functions and macros, without optional values, and our numbers.
fn environment() -> Result<Env, String> {
    let mut env = Env::stdlib().with_optional_support(false);
    numbers::declare(&mut env).map_err(|error| error.to_string())?;
    Ok(env)
}

fn check_names(rule: &RuleConfig, destinations: &[String], sources: &[String]) -> Vec<String> {
    let unknown = |kind: &str, wanted: &[String], known: &[String]| -> Vec<String> {
        let unknown = wanted.iter().filter(|name| !known.contains(name));
        let hint = |name: &str| nearest(name, known.iter().map(String::as_str));
        unknown.map(|name| format!("there is no {kind} \"{name}\"{}", hint(name))).collect()
    };
    let mut problems = unknown("destination", &rule.to, destinations);
    problems.extend(unknown("source", &rule.source, sources));
    problems
}

fn compile_expression(rule: &RuleConfig, env: &Arc<Env>) -> Result<Rule, Vec<String>> {
    if rule.when.len() > SOURCE_BYTES_MAX {
        return Err(vec![format!("`when` is longer than {SOURCE_BYTES_MAX} bytes")]);
    }
    let program = env.compile(&rule.when).map_err(|errors| describe_syntax(&errors))?;
    let Findings { problems, patterns, lead_fields, names } = check::check(program.expression(), program.source_info());
    if !problems.is_empty() {
        return Err(problems);
    }
    for pattern in patterns {
        check_pattern(env, &pattern)?;
    }
    let mut expression = program.expression().clone();
    widen_arithmetic(&mut expression);
    let rule = Rule {
        name: rule.name.clone(),
        to: rule.to.clone(),
        source: rule.source.clone(),
        stop: rule.stop,
        expression,
        lead_fields,
        names,
    };
    try_without_fields(rule, env)
}

fn describe_syntax(errors: &ParseErrors) -> Vec<String> {
    errors.errors.iter().map(|error| format!("{} at {}:{}", error.msg, error.pos.0, error.pos.1)).collect()
}

/// A pattern that is no regular expression would fail on every lead.
fn check_pattern(env: &Arc<Env>, pattern: &str) -> Result<(), Vec<String>> {
    let mut context = Context::with_env(Arc::clone(env));
    context.add_variable_from_value("pattern", pattern.to_owned());
    let tried = env.compile("''.matches(pattern)").map(|program| program.execute(&context));
    match tried {
        Ok(Ok(_)) => Ok(()),
        _ => Err(vec!["matches() is given a pattern that is no regular expression".to_owned()]),
    }
}

/// A rule that fails on a lead without fields, or gives no bool there, would do so on others.
fn try_without_fields(rule: Rule, env: &Arc<Env>) -> Result<Rule, Vec<String>> {
    let one =
        RuleSet { version: String::new(), normalised: Default::default(), rules: vec![rule], env: Arc::clone(env) };
    let (nothing, mut result) = (Map::new(), None);
    let source = one.rules.first().and_then(|rule| rule.source.first()).map_or("", String::as_str);
    let input = RuleInput { lead: &nothing, source, callback: &nothing };
    one.evaluate_each(&input, &mut |rule| result = Some(rule));
    match result {
        Some(result) if result.result == RuleOutcome::Error => {
            Err(vec![format!("fails on a lead without fields: {}", result.detail.unwrap_or_default())])
        }
        _ => Ok(one.rules).and_then(|rules| rules.into_iter().next().ok_or_else(Vec::new)),
    }
}

/// Lets written-out arithmetic mix ints and doubles; see [`numbers`].
fn widen_arithmetic(expression: &mut IdedExpr) {
    match &mut expression.expr {
        Expr::Call(call) => {
            // `@result + …` is how a macro collects its list, which CEL recognises and does in place.
            let collects =
                matches!(call.args.first().map(|first| &first.expr), Some(Expr::Ident(name)) if name.starts_with('@'));
            let operator = numbers::OPERATORS.iter().find(|(operator, ..)| *operator == call.func_name);
            if let (Some((_, function, _)), false) = (operator, collects) {
                call.func_name = (*function).to_owned();
            }
            call.target.iter_mut().for_each(|target| widen_arithmetic(target));
            call.args.iter_mut().for_each(widen_arithmetic);
        }
        Expr::Comprehension(comprehension) => {
            let parts = comprehension.as_mut();
            for part in [&mut parts.iter_range, &mut parts.accu_init, &mut parts.loop_cond, &mut parts.loop_step] {
                widen_arithmetic(part);
            }
            widen_arithmetic(&mut parts.result);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(widen_arithmetic),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    widen_arithmetic(&mut entry.key);
                    widen_arithmetic(&mut entry.value);
                }
            }
        }
        Expr::Select(select) => widen_arithmetic(&mut select.operand),
        Expr::Struct(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

/// Runs `work` on a thread with a deep stack.
fn on_deep_stack<T: Send>(work: impl FnOnce() -> Result<T, Vec<String>> + Send) -> Result<T, Vec<String>> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("rules".to_owned()).stack_size(STACK_BYTES);
        let thread =
            thread.spawn_scoped(scope, work).map_err(|error| vec![format!("no thread to compile on: {error}")])?;
        thread.join().unwrap_or_else(|_| Err(vec!["the expression cannot be compiled".to_owned()]))
    })
}
