#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(object) = value else { panic!("not an object: {value}") };
    object
}

fn normalise(body: Value) -> Lead {
    Lead::normalise(&object(body), &BTreeMap::new())
}

fn normalise_mapped(body: Value, mapping: &[(&str, &str)]) -> Lead {
    let mapping = mapping.iter().map(|(field, pointer)| ((*field).to_owned(), (*pointer).to_owned())).collect();
    Lead::normalise(&object(body), &mapping)
}

#[test]
fn a_full_lead_is_read() {
    let lead = normalise(json!({
        "email": " Jane@Example.com ",
        "first_name": "Jane",
        "last_name": "Doe",
        "company_name": "Acme",
        "job_title": "CTO",
        "employee_count": "1,200",
        "industry": "Software",
        "linkedin_url": "https://linkedin.com/in/jane",
        "icp_score": "85",
        "personalized_opener": "Loved your talk.",
        "tier": "A",
        "nested": {"a": [1, null, ""]},
    }));
    let expected = Lead {
        email: Some("Jane@Example.com".to_owned()),
        first_name: Some("Jane".to_owned()),
        last_name: Some("Doe".to_owned()),
        company_name: Some("Acme".to_owned()),
        job_title: Some("CTO".to_owned()),
        employee_count: Some(1200),
        industry: Some("Software".to_owned()),
        linkedin_url: Some("https://linkedin.com/in/jane".to_owned()),
        icp_score: IcpScore::new(85.0),
        personalized_opener: Some("Loved your talk.".to_owned()),
        extra: object(json!({"tier": "A", "nested": {"a": [1, null, ""]}})),
        warnings: vec![],
    };
    assert_eq!(lead, expected);
}

#[test]
fn scores() {
    for (value, expected, warning) in [
        (json!(0), Some(0.0), None),
        (json!("0"), Some(0.0), None),
        (json!(85), Some(85.0), None),
        (json!(85.5), Some(85.5), None),
        (json!("85.5"), Some(85.5), None),
        (json!("85%"), Some(85.0), None),
        (json!(" 85 % "), Some(85.0), None),
        (json!(-1), Some(-1.0), None),
        (json!(null), None, None),
        (json!(""), None, None),
        (json!("  "), None, None),
        (json!("/ICP Score"), None, Some("icp_score: placeholder")),
        (json!("{{ICP Score}}"), None, Some("icp_score: placeholder")),
        (json!("N/A"), None, Some("icp_score: placeholder")),
        (json!("high"), None, Some("icp_score: not a number")),
        (json!("NaN"), None, Some("icp_score: placeholder")),
        (json!(true), None, Some("icp_score: not a number")),
        (json!([85]), None, Some("icp_score: not a number")),
    ] {
        let lead = normalise(json!({"icp_score": value}));
        assert_eq!(lead.icp_score.map(IcpScore::get), expected, "{value}");
        assert_eq!(lead.warnings.first().map(String::as_str), warning, "{value}");
    }
}

#[test]
fn employee_counts() {
    for (value, expected, warning) in [
        (json!(250), Some(250), None),
        (json!("250"), Some(250), None),
        (json!("1,200"), Some(1200), None),
        (json!(250.0), Some(250), None),
        (json!(0), Some(0), None),
        (json!(null), None, None),
        (json!("51-200"), None, Some("employee_count: not a number")),
        (json!("10,001+"), None, Some("employee_count: not a number")),
        (json!("50%"), None, Some("employee_count: not a number")),
        (json!(250.5), None, Some("employee_count: not a count")),
        (json!(-5), None, Some("employee_count: not a count")),
        (json!(1e300), None, Some("employee_count: not a count")),
    ] {
        let lead = normalise(json!({"employee_count": value}));
        assert_eq!(lead.employee_count, expected, "{value}");
        assert_eq!(lead.warnings.first().map(String::as_str), warning, "{value}");
    }
}

#[test]
fn emails_look_like_addresses_or_are_missing() {
    for good in ["jane@example.com", "j.d+x@sub.example.co", "jané@exämple.de", "o'neil@example.com"] {
        assert_eq!(normalise(json!({"email": good})).email.as_deref(), Some(good));
    }
    let long = format!("{}@example.com", "x".repeat(250));
    for bad in [
        "jane",
        "jane@",
        "@example.com",
        "jane@example",
        "a@b@example.com",
        "jane@example.",
        "jane@.com",
        "jane@a..com",
        "Jane <jane@example.com>",
        "a@example.com;b",
        "a@example.com, b",
        "jane doe@example.com",
        &long,
    ] {
        let lead = normalise(json!({"email": bad}));
        assert_eq!((lead.email, lead.warnings), (None, vec!["email: not an e-mail address".to_owned()]), "{bad}");
    }
}

#[test]
fn texts_are_lenient_about_numbers_and_nothing_else() {
    let lead = normalise(json!({"company_name": 37, "first_name": {"a": 1}, "last_name": true, "industry": ["x"]}));
    assert_eq!(lead.company_name.as_deref(), Some("37"));
    assert_eq!((lead.first_name, lead.last_name, lead.industry), (None, None, None));
    assert_eq!(lead.warnings, ["first_name: not text", "last_name: not text", "industry: not text"]);
}

#[test]
fn placeholders_are_missing_and_leave_a_warning_without_their_value() {
    let lead = normalise(json!({
        "email": "/Work Email", "first_name": "{{First Name}}", "company_name": "[object Object]", "industry": "n/a",
        "Seniority": "/Seniority", "landing_page": "/pricing", "note": null, "blank": " ",
    }));
    assert_eq!(
        lead.warnings,
        [
            "email: placeholder",
            "first_name: placeholder",
            "company_name: placeholder",
            "industry: placeholder",
            "Seniority: placeholder"
        ]
    );
    let extra = object(json!({"landing_page": "/pricing"}));
    assert_eq!(Lead { warnings: vec![], ..lead }, Lead { extra, ..Lead::default() });
}

#[test]
fn the_mapping_comes_before_the_name() {
    let mapping =
        [("email", "/Work Email"), ("icp_score", "/scores/icp"), ("country", "/company/hq"), ("tier", "/Tier")];
    let body = json!({
        "Work Email": "work@example.com", "email": "home@example.com", "scores": {"icp": "91"}, "icp_score": 10,
        "company": {"hq": "NL"}, "Tier": "A", "other": 1,
    });
    let lead = normalise_mapped(body, &mapping);
    assert_eq!(lead.email.as_deref(), Some("work@example.com"));
    assert_eq!(lead.icp_score, IcpScore::new(91.0));
    let extra = json!({"country": "NL", "tier": "A", "other": 1, "scores": {"icp": "91"}, "company": {"hq": "NL"}});
    assert_eq!(lead.extra, object(extra));
    assert!(lead.warnings.is_empty(), "{:?}", lead.warnings);

    let lead =
        normalise_mapped(json!({"Work Email": "/Work Email", "email": "home@example.com", "Tier": ""}), &mapping);
    assert_eq!(lead.email.as_deref(), Some("home@example.com"));
    assert_eq!(lead.warnings, ["email: placeholder"]);
    assert!(lead.extra.is_empty());
}

#[test]
fn nul_is_replaced_everywhere() {
    assert_eq!(normalise(json!({"deep": [{"a\0": 1}]})).extra, object(json!({"deep": [{"a\u{fffd}": 1}]})));
    let body = json!({"first_name": "Ja\0ne", "\0key": 1, "nested": [{"a\0": 1}, "b\0"], "email": "a\0b@example.com"});
    let lead = normalise(body);
    assert_eq!(lead.first_name.as_deref(), Some("Ja\u{fffd}ne"));
    assert_eq!(lead.extra, object(json!({"\u{fffd}key": 1, "nested": [{"a\u{fffd}": 1}, "b\u{fffd}"]})));
    assert_eq!(lead.email.as_deref(), Some("a\u{fffd}b@example.com"));
    let expected =
        ["email: NUL replaced", "first_name: NUL replaced", "\u{fffd}key: NUL replaced", "nested: NUL replaced"];
    assert_eq!(lead.warnings, expected);
}

#[test]
fn warnings_are_bounded() {
    let body: Map<String, Value> = (0..1000).map(|n| (format!("{n}{}", "x".repeat(500)), json!("N/A"))).collect();
    let lead = normalise(Value::Object(body));
    assert_eq!(lead.warnings.len(), 32);
    assert!(lead.warnings.iter().all(|warning| warning.chars().count() <= 64 + ": placeholder".len()));
}

#[test]
fn the_flat_object_has_what_is_present() {
    let lead =
        normalise(json!({"email": "jane@example.com", "icp_score": "85.0", "employee_count": "7", "tier": {"a": 1}}));
    let expected = json!({"email": "jane@example.com", "icp_score": 85, "employee_count": 7, "tier": {"a": 1}});
    assert_eq!(lead.to_object(), object(expected));
    assert_eq!(normalise(json!({"icp_score": 85.5})).to_object(), object(json!({"icp_score": 85.5})));
    assert_eq!(normalise(json!({"icp_score": 0})).to_object(), object(json!({"icp_score": 0})));
    assert_eq!(normalise(json!({"icp_score": 1e300})).to_object(), object(json!({"icp_score": 1e300})));
    assert!(Lead::default().to_object().is_empty());
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[0-9,.% /{}@a-z\u{0}-]{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn any_body() -> impl Strategy<Value = Map<String, Value>> {
    let field = prop_oneof![
        3 => prop::sample::select(Lead::KNOWN_FIELDS).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::btree_map(field, any_value(), 0..12).prop_map(|members| members.into_iter().collect())
}

proptest! {
    #[test]
    fn a_normalised_lead_stays_what_it_is(body in any_body()) {
        let once = Lead::normalise(&body, &BTreeMap::new());
        let twice = Lead::normalise(&once.to_object(), &BTreeMap::new());
        prop_assert_eq!(twice.to_object(), once.to_object());
        prop_assert!(twice.warnings.is_empty(), "{:?}", twice.warnings);
    }

    #[test]
    fn postgres_can_store_every_lead(body in any_body()) {
        let lead = Lead::normalise(&body, &BTreeMap::new());
        let text = Value::Object(lead.to_object()).to_string();
        prop_assert!(!text.contains("\\u0000") || text.contains("\\\\u0000"), "{}", text);
        prop_assert!(lead.warnings.iter().all(|warning| !warning.contains('\0')));
    }

    #[test]
    fn a_field_that_is_present_is_kept_or_leaves_a_warning(body in any_body()) {
        let lead = Lead::normalise(&body, &BTreeMap::new());
        let object = lead.to_object();
        for (field, value) in &body {
            let empty = value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty());
            let warned = !lead.warnings.is_empty();
            prop_assert!(empty || warned || object.contains_key(field), "{}: {}", field, value);
        }
    }
}
