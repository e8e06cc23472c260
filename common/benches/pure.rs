//! Micro-benchmarks of the pure parts that every callback passes: `cargo bench -p common --bench pure`.
//!
//! They say what a change to one part costs, to the nanosecond and on an otherwise idle machine; what it means for the
//! whole is said by `cargo xtask bench`. Instructions, where the machine counts them:
//! `perf stat -e instructions cargo bench -p common --bench pure -- signature --profile-time 5`.
#![allow(clippy::unwrap_used, missing_docs)]

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
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use time::OffsetDateTime;

const SECRET: &str = "a-secret-of-the-bench-that-guards-nothing";
const HEADER: &str = "x-clay-signature";

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

struct Parts(Vec<u8>);

impl RequestParts for Parts {
    fn header(&self, name: &str) -> Option<&[u8]> {
        (name == HEADER).then_some(&self.0[..])
    }

    fn path_and_query(&self) -> &str {
        "/api/clay/enriched"
    }
}

fn signature(c: &mut Criterion) {
    let mut group = c.benchmark_group("signature");
    let secrets = || vec![ActiveSecret { value: SECRET.to_owned().into(), expires_at: None }];
    let now = OffsetDateTime::UNIX_EPOCH;
    let token = [Verification::Token { header: HEADER.to_owned(), secrets: secrets() }];
    let hmac = [Verification::HmacSha256 { header: HEADER.to_owned(), secrets: secrets() }];
    for (name, body) in bodies() {
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
        mac.update(&body);
        let signed = Parts(hex::encode(mac.finalize().into_bytes()).into_bytes());
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("hmac", name), |b| {
            b.iter(|| verify(black_box(&hmac), &signed, &body, now).unwrap());
        });
    }
    let parts = Parts(SECRET.as_bytes().to_vec());
    group.bench_function("token", |b| b.iter(|| verify(black_box(&token), &parts, b"{}", now).unwrap()));
    group.finish();
}

fn key(c: &mut Criterion) {
    let mut group = c.benchmark_group("key");
    for (name, body) in bodies() {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("parse and digest", name), |b| b.iter(|| check_body(black_box(&body))));
        group.bench_function(BenchmarkId::new("check and digest", name), |b| {
            b.iter(|| check_body_for(black_box(&body), &[]));
        });
    }
    let checked = check_body(&body(600)).unwrap();
    let pointers = ["/email".to_owned(), "/company_name".to_owned()];
    let input = KeyInput { header: None, pointers: &[], object: &checked.object, digest: &checked.digest, run: None };
    group.bench_function("content", |b| b.iter(|| derive_key(black_box(&input))));
    group.bench_function("header", |b| {
        b.iter(|| derive_key(black_box(&KeyInput { header: Some("0198c5a7-0000-7000-8000-000000000000"), ..input })));
    });
    group.bench_function("pointers", |b| {
        b.iter(|| derive_key(black_box(&KeyInput { pointers: &pointers, ..input })));
    });
    group.finish();
}

fn normalising(c: &mut Criterion) {
    let mut group = c.benchmark_group("normalising");
    let mapping = BTreeMap::from([("email".to_owned(), "/Work Email".to_owned())]);
    for (name, body) in bodies() {
        let object = object(&body);
        group.bench_function(BenchmarkId::new("lead", name), |b| {
            b.iter(|| Lead::normalise(black_box(&object), &mapping));
        });
        let lead = Lead::normalise(&object, &mapping);
        group.bench_function(BenchmarkId::new("to object", name), |b| b.iter(|| black_box(&lead).to_object()));
    }
    let lead = Lead::normalise(&object(&body(600)), &mapping);
    group.bench_function("person", |b| b.iter(|| black_box(&lead).person()));
    group.finish();
}

fn rules(c: &mut Criterion) {
    let mut group = c.benchmark_group("rules");
    let destinations = ["alerts", "outreach", "nurture", "zapier"].map(str::to_owned);
    let rules = RuleSet::compile(&default_rules(), &destinations, &["clay".to_owned()]).unwrap();
    let callback = Map::new();
    for (name, body) in bodies() {
        let lead = Lead::normalise(&object(&body), &BTreeMap::new()).to_object();
        let input = RuleInput { lead: &lead, source: "clay", callback: &callback };
        group.bench_function(BenchmarkId::new("default", name), |b| b.iter(|| rules.evaluate(black_box(&input))));
    }
    group.finish();
}

fn retry(c: &mut Criterion) {
    let mut group = c.benchmark_group("retry");
    let asked = Some(Duration::from_secs(60));
    group.bench_function("next wait", |b| {
        b.iter(|| next_wait(black_box(&DEFAULT_RETRIES), black_box(3), black_box(asked), black_box(0.5)));
    });
    let now = SystemTime::UNIX_EPOCH;
    for (name, value) in
        [("seconds", "120"), ("date", "Sun, 01 Mar 2026 12:01:00 GMT"), ("iso", "2026-03-01T12:01:00Z")]
    {
        group.bench_function(BenchmarkId::new("retry-after", name), |b| {
            b.iter(|| parse_retry_after(black_box(value), now));
        });
    }
    group.finish();
}

criterion_group!(pure, signature, key, normalising, rules, retry);
criterion_main!(pure);
