//! An expression is refused at start, or ends in time on every lead and tells nothing of it.
//!
//! The input is the expression; behind a line `---` a lead may follow.

use std::cell::OnceCell;
use std::sync::Arc;

use common::canonical::check_body;
use common::config::RuleConfig;
use common::rules::{EVALUATION_DEADLINE, Evaluation, OwnedRuleInput, RuleOutcome, RuleSet, RuleThreads};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

/// What no error or trace may repeat.
const MARKER: &str = "marked-value-of-the-lead";

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (when, lead) = text.split_once("\n---\n").unwrap_or((text, "{}"));
    let rules = match compile(when) {
        Ok(rules) => rules,
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            return;
        }
    };
    // Spaces and comments are no part of a rule.
    let normal = rules.normalised()[0]["when"].as_str().unwrap();
    let again = compile(normal).unwrap_or_else(|problems| panic!("{normal:?} was taken before: {problems:?}"));
    assert_eq!(again.version(), rules.version(), "{when:?} has two versions");

    let own = check_body(lead.as_bytes()).map(|body| body.object).unwrap_or_default();
    let evaluations = evaluate(rules, vec![Map::new(), sample(), own]);
    let [empty, marked, _] = &evaluations[..] else { panic!("{} evaluations of three leads", evaluations.len()) };
    assert!(!empty.failed, "fails on a lead without fields, which is looked for at start: {empty:?}");
    let told = format!("{:?}", marked.trace);
    assert!(!told.contains(MARKER) || when.contains(MARKER), "tells of the lead: {told}");
    evaluations.iter().for_each(check_evaluation);
}

fn compile(when: &str) -> Result<RuleSet, Vec<String>> {
    let rule = RuleConfig {
        name: "r".to_owned(),
        when: when.to_owned(),
        to: vec!["log".to_owned()],
        source: Vec::new(),
        stop: false,
    };
    RuleSet::compile(&[rule], &["log".to_owned()], &[])
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn check_evaluation(evaluation: &Evaluation) {
    let [result] = &evaluation.trace[..] else { panic!("{} results of one rule", evaluation.trace.len()) };
    let detail = result.detail.as_deref().unwrap_or_default();
    assert_ne!(detail, "deadline", "an expression of a kilobyte that does not end");
    assert_ne!(detail, "the evaluation panicked");
    assert_eq!(evaluation.failed, result.result == RuleOutcome::Error);
    assert_eq!(evaluation.destinations.len(), usize::from(result.result == RuleOutcome::Matched));
    let has_detail = matches!(result.result, RuleOutcome::Error | RuleOutcome::MissingField);
    assert_eq!(!detail.is_empty(), has_detail, "{result:?}");
}

/// A lead with one value of every kind.
fn sample() -> Map<String, Value> {
    let lead = json!({
        "email": MARKER, "icp_score": 85, "ratio": 0.5, "yes": true, "tags": [MARKER, "x", 3], "nested": { "a": MARKER },
        MARKER: 1,
    });
    let Value::Object(lead) = lead else { unreachable!() };
    lead
}

fn evaluate(rules: RuleSet, leads: Vec<Map<String, Value>>) -> Vec<Evaluation> {
    thread_local!(static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() });
    let threads = RuleThreads::start(Arc::new(rules), 1, EVALUATION_DEADLINE).unwrap();
    let input = |lead| OwnedRuleInput { lead: Arc::new(lead), source: "clay".to_owned(), callback: Map::new() };
    let batch = leads.into_iter().map(input).collect();
    let build = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    RUNTIME.with(|runtime| runtime.get_or_init(build).block_on(threads.evaluate(batch)))
}
