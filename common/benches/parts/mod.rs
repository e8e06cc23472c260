//! The pure parts that every callback passes, as [`pure`](../pure.rs) times them and [`instructions`](../instructions.rs)
//! counts them.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, SystemTime};

use common::canonical::{check_body, check_body_for};
use common::config::{ActiveSecret, Verification};
use common::idempotency::{KeyInput, derive_key};
use common::lead::Lead;
use common::retry::{DEFAULT_RETRIES, next_wait, parse_retry_after};
use common::rules::{RuleInput, RuleSet, default_rules};
use common::signature::{RequestParts, verify};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use time::OffsetDateTime;

const SECRET: &str = "a-secret-of-the-bench-that-guards-nothing";
const HEADER: &str = "x-clay-signature";

/// One of them, with what it needs.
pub(crate) struct Part {
    /// What it belongs to, for example `signature`.
    pub(crate) group: &'static str,
    /// Its name in the group.
    pub(crate) name: String,
    /// How long the body is that all of it is read of, in bytes.
    pub(crate) bytes: Option<usize>,
    /// Does it once.
    pub(crate) run: Box<dyn Fn()>,
}

impl Part {
    fn new<T>(group: &'static str, name: impl Into<String>, run: impl Fn() -> T + 'static) -> Self {
        let run = Box::new(move || drop(black_box(run())));
        Self { group, name: name.into(), bytes: None, run }
    }

    fn of(self, body: &[u8]) -> Self {
        Self { bytes: Some(body.len()), ..self }
    }
}

/// All of them, in the order that a callback passes them.
pub(crate) fn all() -> Vec<Part> {
    [signature(), key(), normalising(), rules(), retry()].into_iter().flatten().collect()
}

/// A lead of about `bytes`, as Clay sends it.
fn body(bytes: usize) -> Vec<u8> {
    let mut lead = json!({
        "email": "ada@leads.example", "first_name": "Ada", "last_name": "Lovelace",
        "company_name": "Analytical Engines Ltd", "job_title": "Head of Computing", "employee_count": "1,200",
        "industry": "Computer Hardware", "linkedin_url": null, "icp_score": "85",
        "personalized_opener": "Your note on the Bernoulli numbers made our week.",
    });
    let entry = json!({"title": "Engineer", "company": "Example Ltd", "years": 3});
    let missing = bytes.saturating_sub(lead.to_string().len()) / entry.to_string().len();
    lead["experience"] = Value::Array(vec![entry; missing]);
    lead.to_string().into_bytes()
}

fn bodies() -> [(&'static str, Vec<u8>); 2] {
    [("600B", body(600)), ("20kB", body(20_000))]
}

fn object(body: &[u8]) -> Map<String, Value> {
    check_body(body).unwrap().object
}

struct Proof(Vec<u8>);

impl RequestParts for Proof {
    fn header(&self, name: &str) -> Option<&[u8]> {
        (name == HEADER).then_some(&self.0[..])
    }

    fn path_and_query(&self) -> &str {
        "/api/clay/enriched"
    }
}

fn signature() -> Vec<Part> {
    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
    let secrets = || vec![ActiveSecret { value: SECRET.to_owned().into(), expires_at: None }];
    let mut parts = Vec::new();
    for (name, body) in bodies() {
        let hmac = [Verification::HmacSha256 { header: HEADER.to_owned(), secrets: secrets() }];
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(&body);
        let proof = Proof(hex::encode(mac.finalize().into_bytes()).into_bytes());
        let bytes = body.clone();
        let part = Part::new("signature", format!("hmac/{name}"), move || {
            verify(black_box(&hmac), &proof, &body, NOW).unwrap();
        });
        parts.push(part.of(&bytes));
    }
    let token = [Verification::Token { header: HEADER.to_owned(), secrets: secrets() }];
    let proof = Proof(SECRET.as_bytes().to_vec());
    parts.push(Part::new("signature", "token", move || verify(black_box(&token), &proof, b"{}", NOW).unwrap()));
    parts
}

fn key() -> Vec<Part> {
    let mut parts = Vec::new();
    for (name, body) in bodies() {
        let again = body.clone();
        let tree = Part::new("key", format!("parse and digest/{name}"), move || check_body(black_box(&again)));
        parts.push(tree.of(&body));
        let bytes = body.clone();
        let check = Part::new("key", format!("check and digest/{name}"), move || check_body_for(black_box(&body), &[]));
        parts.push(check.of(&bytes));
    }
    for (name, header, pointers) in [
        ("content", None, &[][..]),
        ("header", Some("0198c5a7-0000-7000-8000-000000000000"), &[][..]),
        ("pointers", None, &["/email", "/company_name"][..]),
    ] {
        let checked = check_body(&body(600)).unwrap();
        let pointers: Vec<String> = pointers.iter().map(|pointer| (*pointer).to_owned()).collect();
        parts.push(Part::new("key", name, move || {
            let (object, digest) = (&checked.object, &checked.digest);
            derive_key(black_box(&KeyInput { header, pointers: &pointers, object, digest, run: None }))
        }));
    }
    parts
}

fn normalising() -> Vec<Part> {
    let mut parts = Vec::new();
    for (name, body) in bodies() {
        let mapping = BTreeMap::from([("email".to_owned(), "/Work Email".to_owned())]);
        let object = object(&body);
        let lead = Lead::normalise(&object, &mapping);
        parts.push(Part::new("normalising", format!("lead/{name}"), move || {
            Lead::normalise(black_box(&object), &mapping)
        }));
        parts.push(Part::new("normalising", format!("to object/{name}"), move || black_box(&lead).to_object()));
    }
    let lead = Lead::normalise(&object(&body(600)), &BTreeMap::new());
    parts.push(Part::new("normalising", "person", move || black_box(&lead).person()));
    parts
}

fn rules() -> Vec<Part> {
    let part = |(name, body): (&str, Vec<u8>)| {
        let destinations = ["alerts", "outreach", "nurture", "zapier"].map(str::to_owned);
        let rules = RuleSet::compile(&default_rules(), &destinations, &["clay".to_owned()]).unwrap();
        let lead = Lead::normalise(&object(&body), &BTreeMap::new()).to_object();
        let callback = Map::new();
        Part::new("rules", format!("default/{name}"), move || {
            rules.evaluate(black_box(&RuleInput { lead: &lead, source: "clay", callback: &callback }))
        })
    };
    bodies().map(part).into()
}

fn retry() -> Vec<Part> {
    let asked = Some(Duration::from_secs(60));
    let wait = move || next_wait(black_box(&DEFAULT_RETRIES), black_box(3), black_box(asked), black_box(0.5));
    let mut parts = vec![Part::new("retry", "next wait", wait)];
    for (name, value) in
        [("seconds", "120"), ("date", "Sun, 01 Mar 2026 12:01:00 GMT"), ("iso", "2026-03-01T12:01:00Z")]
    {
        let parse = move || parse_retry_after(black_box(value), SystemTime::UNIX_EPOCH);
        parts.push(Part::new("retry", format!("retry-after/{name}"), parse));
    }
    parts
}
