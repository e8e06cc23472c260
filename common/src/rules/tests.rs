#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

const DESTINATIONS: [&str; 5] = ["alerts", "outreach", "nurture", "zapier", "log"];

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn rule(name: &str, when: &str) -> RuleConfig {
    RuleConfig { name: name.to_owned(), when: when.to_owned(), to: names(&["log"]), source: Vec::new(), stop: false }
}

fn compile(rules: &[RuleConfig]) -> Result<RuleSet, Vec<RuleProblem>> {
    RuleSet::compile(rules, &names(&DESTINATIONS), &names(&["clay", "website-form"]))
}

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(object) = value else { panic!("not an object: {value}") };
    object
}

fn evaluate(rules: &RuleSet, lead: Value) -> Evaluation {
    let callback = object(json!({"id": "0195", "key_kind": "header", "revision": 1}));
    rules.evaluate(&RuleInput { lead: &object(lead), source: "clay", callback: &callback })
}

/// What one expression says of one lead.
fn say(when: &str, lead: Value) -> (RuleOutcome, Option<String>) {
    let rules = compile(&[rule("one", when)]).unwrap_or_else(|problems| panic!("{when}: {problems:?}"));
    let result = evaluate(&rules, lead).trace.remove(0);
    (result.result, result.detail)
}

fn problems(when: &str) -> Vec<String> {
    match compile(&[rule("one", when)]) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|problem| problem.what).collect(),
    }
}

#[test]
fn expressions_decide() {
    use RuleOutcome::{Matched, NoMatch};
    let lead = json!({
        "email": "jane@example.com", "icp_score": 85, "employee_count": 51, "exact": 85.5, "big": u64::MAX,
        "Work Title": "VP Sales", "tags": ["a", "b"], "company": {"size": 10, "hq": null}, "text_score": "1,200",
        "flag": true, "nothing": null,
    });
    for (when, expected) in [
        ("lead.icp_score >= 80", Matched),
        ("lead.icp_score >= 80.5", Matched),
        ("lead.icp_score > 85", NoMatch),
        ("lead.exact >= 80", Matched),
        ("lead.exact > 85 && lead.exact < 86", Matched),
        ("lead.icp_score - 90 < 0", Matched),
        ("lead.exact - 90 < 0", Matched),
        ("90 - lead.exact == 4.5", Matched),
        ("lead.exact * 2 == 171", Matched),
        ("lead.icp_score + 0.5 == lead.exact", Matched),
        ("lead.icp_score / 2 == 42", Matched),
        ("lead.icp_score / 2.0 == 42.5", Matched),
        ("lead.exact / 2 > 42", Matched),
        ("-lead.icp_score < 0 && -lead.exact < 0", Matched),
        ("lead.icp_score % 2 == 1", Matched),
        ("lead.employee_count > 50.5", Matched),
        ("lead.big > 5", Matched),
        ("lead.icp_score in [85, 90]", Matched),
        ("lead.icp_score in [85.0]", Matched),
        ("lead.icp_score == 85.0", Matched),
        ("number(lead.text_score) == 1200", Matched),
        ("number(lead.icp_score) - 5 == 80", Matched),
        ("number('85.5') > 85 && number(lead.exact) == 85.5", Matched),
        ("has(lead.email)", Matched),
        ("has(lead.phone)", NoMatch),
        ("has(lead.nothing)", NoMatch),
        ("has(lead.company.size) && !has(lead.company.hq)", Matched),
        ("lead[\"Work Title\"].startsWith('VP')", Matched),
        ("lead['Work Title'].matches('(?i)^vp')", Matched),
        ("matches(lead.email, '@example[.]com$')", Matched),
        ("lead.email.endsWith('@example.com') && lead.email.contains('jane')", Matched),
        ("size(lead.tags) == 2 && lead.tags.size() == 2", Matched),
        ("'a' in lead.tags && 'email' in lead", Matched),
        ("lead.tags.exists(t, t == 'b')", Matched),
        ("lead.tags.all(tag, tag.size() == 1)", Matched),
        ("lead.tags.exists_one(t, t == 'b')", Matched),
        ("lead.tags.filter(t, t != 'a').map(t, t + 'x') == ['bx']", Matched),
        ("lead.tags.map(t, t + t).exists(t, t == 'aa')", Matched),
        ("lead.tags + ['c'] == ['a', 'b', 'c']", Matched),
        ("source == 'clay' && callback.key_kind == 'header' && callback.revision > 0", Matched),
        ("lead.icp_score > 80 ? lead.flag : false", Matched),
        ("string(lead.icp_score) + 'x' == '85x'", Matched),
        ("true", Matched),
        ("false // never", NoMatch),
    ] {
        assert_eq!(say(when, lead.clone()), (expected, None), "{when}");
    }
}

#[test]
fn a_missing_field_is_no_match_and_is_named() {
    for (when, lead, expected) in [
        ("lead.icp_score >= 80", json!({}), Some("icp_score")),
        ("lead.icp_score >= 80", json!({"icp_score": null}), Some("icp_score")),
        ("lead['Work Email'] == 'x'", json!({}), Some("Work Email")),
        ("lead.company.size > 5", json!({}), Some("company")),
        ("lead.company.size > 5", json!({"company": {}}), Some("size")),
        ("number(lead.score) > 5", json!({}), Some("score")),
        ("lead.tags.exists(t, t == 'a')", json!({}), Some("tags")),
        ("lead.people.exists(p, p.age > 5)", json!({"people": [{}]}), Some("age")),
        ("lead.icp_score >= 80 && has(lead.email)", json!({"email": "jane@example.com"}), Some("icp_score")),
        ("!(lead.icp_score >= 80)", json!({}), Some("icp_score")),
        ("lead[lead.email] == 1", json!({"email": "jane@example.com"}), Some("a calculated key")),
        ("callback.row == 'x'", json!({}), Some("row")),
    ] {
        let expected = (RuleOutcome::MissingField, expected.map(str::to_owned));
        assert_eq!(say(when, lead.clone()), expected, "{when} on {lead}");
    }
    // What does not hang on the missing field is decided.
    assert_eq!(say("lead.icp_score >= 80 && has(lead.email)", json!({})).0, RuleOutcome::NoMatch);
    assert_eq!(say("lead.icp_score >= 80 || lead.vip", json!({"vip": true})).0, RuleOutcome::Matched);
    assert_eq!(say("lead.tags.exists(t, t.x == 1)", json!({"tags": [{}, {"x": 1}]})).0, RuleOutcome::Matched);
}

#[test]
fn every_other_failure_is_an_error_without_the_leads_values() {
    let secret = "jane-secret@example.com";
    for when in [
        "lead.email > 5",
        "lead.email - 5 > 0",
        "lead.email + 5 == 'x'",
        "number(lead.email) > 5",
        "int(lead.email) > 5",
        "number(lead.tags) > 5",
        "lead.email.exists(x, true)",
        "lead.email.size() / 0 == 1",
        "lead.tags[7] == 'x'",
        "lead.email",
        "lead.email && true",
        "!lead.email",
        "lead.email ? true : false",
        "lead.tags.contains('x')",
        "lead.email.startsWith(lead.icp_score)",
        "lead.email.missing.deeper == 1",
        "lead.email.matches(lead.broken)",
        "lead.icp_score * 9223372036854775807 > 0",
        "{lead.email: 1, lead.email: 2}.size() > 0",
    ] {
        let lead = json!({"email": secret, "tags": [secret], "icp_score": 85, "broken": "(secret"});
        let (result, detail) = say(when, lead);
        assert_eq!(result, RuleOutcome::Error, "{when}: {detail:?}");
        assert!(!detail.as_deref().unwrap().contains("secret"), "{when}: {detail:?}");
    }
    let (_, detail) = say("lead.email >= 80", json!({"email": secret}));
    assert_eq!(detail.unwrap(), "found no matching overload for '_>=_' applied to '(string, int)'");
    assert_eq!(say("lead.email", json!({"email": secret})).1.unwrap(), "gives string, not bool");
}

#[test]
fn rules_run_in_order_and_stop() {
    let mut first = RuleConfig { to: names(&["alerts", "log"]), ..rule("first", "lead.n > 1") };
    let second = RuleConfig { to: names(&["log", "nurture"]), stop: true, ..rule("second", "lead.n > 2") };
    let elsewhere = RuleConfig { source: names(&["website-form"]), ..rule("elsewhere", "true") };
    let here = RuleConfig { source: names(&["website-form", "clay"]), to: names(&["zapier"]), ..rule("here", "true") };
    let rules = compile(&[first.clone(), elsewhere.clone(), second.clone(), here.clone()]).unwrap();
    let routes = |evaluation: &Evaluation| -> Vec<String> {
        evaluation.destinations.iter().map(|(destination, rule)| format!("{destination} by {rule}")).collect()
    };
    let outcomes = |evaluation: &Evaluation| evaluation.trace.iter().map(|r| r.result).collect::<Vec<_>>();
    use RuleOutcome::{Error, Matched, MissingField, NoMatch, NotReached, OtherSource};

    let all = evaluate(&rules, json!({"n": 3}));
    assert_eq!(outcomes(&all), [Matched, OtherSource, Matched, NotReached]);
    assert_eq!(routes(&all), ["alerts by first", "log by first", "nurture by second"]);
    let some = evaluate(&rules, json!({"n": 2}));
    assert_eq!(outcomes(&some), [Matched, OtherSource, NoMatch, Matched]);
    assert_eq!(routes(&some), ["alerts by first", "log by first", "zapier by here"]);
    let none = evaluate(&rules, json!({}));
    assert_eq!(outcomes(&none), [MissingField, OtherSource, MissingField, Matched]);

    // After a failure nothing is sent anywhere, whatever matched before it.
    first.when = "lead.n > 1 || true".to_owned();
    let rules = compile(&[first, second, here]).unwrap();
    let failed = evaluate(&rules, json!({"n": "three"}));
    assert_eq!(outcomes(&failed), [Matched, Error, NotReached]);
    assert!(failed.failed && failed.destinations.is_empty(), "{failed:?}");
}

#[test]
fn a_trace_is_stored_as_words() {
    let rules = compile(&[rule("a", "lead.x > 1"), rule("b", "true")]).unwrap();
    let trace = serde_json::to_value(evaluate(&rules, json!({})).trace).unwrap();
    let expected = json!([{"rule": "a", "result": "missing_field", "detail": "x"}, {"rule": "b", "result": "matched"}]);
    assert_eq!(trace, expected);
}

#[test]
fn what_cannot_work_is_found_before_any_lead() {
    for (when, expected) in [
        ("", "input"),
        ("lead.icp_score >=", "1:"),
        ("lead.icp_score >= 80)", "1:21"),
        (
            "led.icp_score >= 80",
            "unknown name \"led\" (there are lead, source and callback); did you mean \"lead\"? at 1:1",
        ),
        ("true &&\n  x > 1", "unknown name \"x\" (there are lead, source and callback) at 2:3"),
        (".lead.x == 1", "unknown name \".lead\""),
        ("lead.tags.all(t, u == 1)", "unknown name \"u\""),
        ("lead.tags.all(t, true) && t == 1", "unknown name \"t\""),
        ("nmber(lead.x) > 1", "unknown function \"nmber\" with 1 arguments; did you mean \"number\"?"),
        ("lead.email.endWith('x')", "unknown function \"endWith\" with 1 arguments; did you mean \"endsWith\"?"),
        ("lead.x.number() > 1", "unknown function \"number\""),
        ("contains(lead.x, 'a')", "unknown function \"contains\""),
        ("has(lead)", "has"),
        ("lead.tags.exist(t, t == 1)", "unknown function \"exist\""),
        ("optional.of(1) == 1", "unknown name \"optional\""),
        ("lead.?x == 1", "unsupported syntax"),
        ("timestamp('2026-01-01T00:00:00Z') == 1", "unknown function \"timestamp\""),
        ("type(lead.x) == int", "unknown function \"type\""),
        ("Foo{a: 1} == 1", "messages cannot be made here"),
        ("lead.a.exists(x, lead.b.exists(y, x == y))", "a comprehension inside another one at 1:"),
        ("lead.a.map(x, lead.b.filter(y, y > 1)).size() > 1", "a comprehension inside another one"),
        ("lead.x.matches('(')", "no regular expression"),
        ("matches(lead.x, '[')", "no regular expression"),
        ("'yes'", "fails on a lead without fields: gives string, not bool"),
        ("1 + 'a' == 2", "fails on a lead without fields"),
        ("source > 5", "fails on a lead without fields"),
        ("@result == 1", "1:1"),
    ] {
        let found = problems(when);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{when}: {found:?}");
    }
    let long = format!("lead.x == '{}'", "x".repeat(1024));
    assert_eq!(problems(&long), ["`when` is longer than 1024 bytes"]);
    let chain = format!("lead.x{} > 1", "+1".repeat(200));
    assert!(problems(&chain).iter().any(|problem| problem.contains("nested too deep")), "{:?}", problems(&chain));
    assert_eq!(problems(&format!("{}false", "lead.x == 1 || ".repeat(60))), Vec::<String>::new());
}

/// Whatever fits into a kibibyte is compiled or refused, and evaluated if compiled, without running out of stack.
#[test]
fn deep_expressions_are_refused_or_survived() {
    let nested = |open: &str, inner: &str, close: &str, n| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    for (when, compiles) in [
        (nested("(", "true", ")", 500), false),
        (nested("[", "lead.x", "]", 500), false),
        (nested("{1:", "lead.x", "}", 200), false),
        (nested("size(", "lead.x", ")", 160), false),
        (nested("!", "true", "", 1000), true),
        (nested("lead.x == 1 ? true : ", "true", "", 28), true),
        (format!("{}lead.x > 5", "1 + ".repeat(28)), true),
        (format!("{}lead.x > 5", "1 + ".repeat(40)), false),
        (nested("(", &format!("{}lead.x > 5", "1 + ".repeat(28)), ")", 28), true),
        (nested("", "lead", ".x", 500), false),
        (nested("", "lead", "[0]", 300), false),
        (nested("1 + ", "lead.x", "", 250), false),
        (nested("", "lead.x", " == 1 && lead.x", 60), true),
        (nested("lead.x.all(t, ", "true", ")", 60), false),
        ("((((((((".repeat(128), false),
        ("'".repeat(1024), false),
    ] {
        let compiled = compile(&[rule("one", &when)]);
        assert_eq!(compiled.is_ok(), compiles, "{when}: {:?}", compiled.as_ref().err());
        if let Ok(rules) = compiled {
            // On the small stack of a test thread.
            assert_eq!(evaluate(&rules, json!({"x": 1})).trace.len(), 1, "{when}");
        }
    }
}

#[test]
fn all_problems_are_given_at_once() {
    let rules = [
        RuleConfig { to: names(&["outreech", "log"]), ..rule("a", "led.x == 1 && foo(lead.y)") },
        RuleConfig { source: names(&["website_form"]), ..rule("a", "true") },
        rule("c", "lead."),
    ];
    let found: Vec<String> = compile(&rules).err().unwrap().iter().map(ToString::to_string).collect();
    for expected in [
        "rule \"a\": there is no destination \"outreech\"; did you mean \"outreach\"?",
        "rule \"a\": unknown name \"led\"",
        "rule \"a\": unknown function \"foo\"",
        "rule \"a\": the name stands twice",
        "rule \"a\": there is no source \"website_form\"; did you mean \"website-form\"?",
        "rule \"c\": ",
    ] {
        assert!(found.iter().any(|problem| problem.starts_with(expected)), "{expected}: {found:#?}");
    }
}

#[test]
fn the_version_changes_with_what_decides() {
    let base = vec![rule("a", "lead.x >= 80 && lead.y == 'p  q'"), rule("b", "true")];
    let version = |rules: &[RuleConfig]| compile(rules).unwrap().version().to_owned();
    let changed = |change: &dyn Fn(&mut Vec<RuleConfig>)| {
        let mut rules = base.clone();
        change(&mut rules);
        version(&rules) != version(&base)
    };
    assert_eq!(version(&base).len(), 64);
    assert!(!changed(&|rules| rules[0].when = "  lead.x  >=\n 80 && // why\n lead.y == 'p  q'".to_owned()));
    assert!(changed(&|rules| rules[0].when = "lead.x >= 80 && lead.y == 'p q'".to_owned()));
    assert!(changed(&|rules| rules[0].when = "lead.x >= 81 && lead.y == 'p  q'".to_owned()));
    assert!(changed(&|rules| rules[0].name = "z".to_owned()));
    assert!(changed(&|rules| rules[0].to = names(&["alerts"])));
    assert!(changed(&|rules| rules[0].source = names(&["clay"])));
    assert!(changed(&|rules| rules[0].stop = true));
    assert!(changed(&|rules| rules.reverse()));
    assert!(changed(&|rules| rules.truncate(1)));
    let normalised = compile(&base[1..]).unwrap().normalised().clone();
    assert_eq!(normalised, json!([{"name": "b", "when": "true", "to": ["log"], "source": [], "stop": false}]));
}

#[test]
fn a_field_that_nobody_declares_is_warned_of() {
    let rules = [
        rule("a", "lead.icp_scor > 1 && lead.tier == 'A' && has(lead.hq) && lead.email == 'x'"),
        rule("b", "lead['Funding'] == 1 && source == 'x' && lead.tags.all(lead, lead.unseen > 1) && lead.c.deep > 1"),
    ];
    let warnings = compile(&rules).unwrap().warn_undeclared_fields(["tier", "tags"]);
    let expected = [
        "rule \"a\" reads lead.hq, which no source declares under [sources.<name>.fields]",
        "rule \"a\" reads lead.icp_scor, which no source declares under [sources.<name>.fields]; did you mean \"icp_score\"?",
        "rule \"b\" reads lead.Funding, which no source declares under [sources.<name>.fields]",
        "rule \"b\" reads lead.c, which no source declares under [sources.<name>.fields]",
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn the_default_rules_route_by_score() {
    let rules = compile(&default_rules()).unwrap();
    let email = "jane@example.com";
    for (lead, expected) in [
        (json!({"icp_score": 95, "email": email}), &["alerts", "outreach", "zapier"][..]),
        (json!({"icp_score": 90, "email": email}), &["alerts", "outreach", "zapier"]),
        (json!({"icp_score": 90}), &["alerts", "nurture", "zapier"]),
        (json!({"icp_score": 89.9, "email": email}), &["outreach", "zapier"]),
        (json!({"icp_score": 80, "email": email}), &["outreach", "zapier"]),
        (json!({"icp_score": 80}), &["nurture", "zapier"]),
        (json!({"icp_score": 79.5, "email": email}), &["nurture", "zapier"]),
        (json!({"icp_score": 50}), &["nurture", "zapier"]),
        (json!({"icp_score": 49.9, "email": email}), &[]),
        (json!({"icp_score": 0, "email": email}), &[]),
        (json!({"email": email}), &[]),
        (json!({}), &[]),
    ] {
        let evaluation = evaluate(&rules, lead.clone());
        assert!(!evaluation.failed, "{lead}");
        assert_eq!(evaluation.destinations.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{lead}");
    }
    assert!(rules.warn_undeclared_fields([]).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_expression_makes_it_panic(when in "[ ()\\[\\]{}.,'\"!&|<>=+*/%?:a-c0-9-]{0,40}|(lead|\\.x|\\(|\\)|has| \\+ |[0-9]|'a'|&&|\\.all\\(t,){0,12}") {
        if let Ok(rules) = compile(&[rule("one", &when)]) {
            let evaluation = evaluate(&rules, json!({"x": 1, "a": "b"}));
            prop_assert_eq!(evaluation.trace.len(), 1);
        }
    }

    #[test]
    fn numbers_compare_and_subtract_in_any_mixture(score in prop_oneof![(-1000i64..1000).prop_map(Value::from), (-1000.0..1000.0f64).prop_map(Value::from)]) {
        let number = score.as_f64().unwrap();
        let matched = |when: &str| say(when, json!({"icp_score": score})).0 == RuleOutcome::Matched;
        prop_assert_eq!(matched("lead.icp_score >= 80"), number >= 80.0);
        prop_assert_eq!(matched("lead.icp_score < 80.5"), number < 80.5);
        prop_assert_eq!(matched("lead.icp_score - 90 > -10"), number - 90.0 > -10.0);
        prop_assert_eq!(matched("lead.icp_score + 0.5 > 80"), number + 0.5 > 80.0);
    }
}
