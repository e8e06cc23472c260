//! The OpenAPI document and the public port say the same.

use std::collections::BTreeSet;

use common::config::{Config, Environment, Role};
use console::openapi::{KINDS, document};
use serde_json::Value;

use crate::gateway::{Answer, CLAY, Site};

const ROWS: &str = "/v1/rows/";

/// Every answer that a test of this crate gets has to be described: called for all of them.
pub(crate) fn assert_documented(path: &str, answer: &Answer) {
    if matches!(answer.status, 200 | 207) {
        assert_eq!(answer.header("content-type"), "application/json");
        return;
    }
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let kind = KINDS.iter().find(|kind| (kind.status, kind.kind) == (answer.status, answer.text("type")));
    let kind = kind.unwrap_or_else(|| panic!("{path} answers what the document does not have: {answer:?}"));
    let said = if path.starts_with(ROWS) { kind.rows } else { kind.callbacks };
    // What belongs to no operation is described for the whole port.
    assert!(
        !said.is_empty() || matches!(kind.kind, "/problems/unknown-path" | "/problems/method-not-allowed"),
        "{path}: {kind:?}"
    );
}

/// A kind that no test provokes is a promise that nobody keeps.
#[test]
fn every_documented_kind_is_provoked_by_a_test() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let tests: String = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    for kind in KINDS {
        assert!(tests.contains(kind.kind), "no test here provokes {kind:?}");
    }
}

/// With every kind of verification, and with rows.
const EVERYTHING: &str = r#"
[sources.signed]
path = "/signed"
idempotency = { changed = "conflict" }
verify = [
  { kind = "hmac-sha256", header = "X-Signature", secrets = ["a-secret-of-the-document"] },
  { kind = "standard-webhooks", secrets = ["whsec_MDEyMzQ1Njc4OWFiY2RlZg=="] },
  { kind = "signed-url", secrets = ["a-secret-of-the-document"] },
]
[sources.open]
path = "/open"
verify = { kind = "none" }
[destinations.leads]
kind = "clay"
workspace = "acme"
webhooks = [{ url = "https://clay.example.com/1" }]
"#;

const ROWS_TOKEN: &str = "rows-token-of-the-document";

fn everything() -> String {
    let ingest = format!("[ingest]\nlisten = \"127.0.0.1:0\"\nthreads = 1\nrows_tokens = [\"{ROWS_TOKEN}\"]\n");
    format!("{ingest}[ingest.limits]\ncommit_timeout = \"60s\"\n{CLAY}{EVERYTHING}")
}

#[tokio::test]
async fn the_document_has_the_paths_that_are_answered_and_no_secret() {
    let (site, gateway) = Site::with(&everything()).await;
    let document = document(&site.config(&everything()));
    let text = document.to_string();
    assert!(
        !text.contains("a-secret-of")
            && !text.contains("a-static-secret")
            && !text.contains(ROWS_TOKEN)
            && !text.contains("whsec_")
    );
    let posts: BTreeSet<&str> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, item)| item.get("post").is_some())
        .map(|(path, _)| path.as_str())
        .collect();
    assert_eq!(posts, BTreeSet::from([crate::gateway::PATH, "/open", "/signed", "/v1/rows/{destination}"]));
    for path in posts {
        let operation = &document["paths"][path]["post"];
        let open = operation["security"].as_array().unwrap().contains(&serde_json::json!({}));
        let answer = Answer::of(gateway.request_to(&path.replace("{destination}", "leads")).body("{}")).await;
        assert_eq!(answer.status, if open { 200 } else { 401 }, "{path}: {answer:?}");
        assert!(operation["responses"].get(answer.status.to_string()).is_some(), "{path}: {answer:?}");
        // Only a source that refuses changed data has an answer for that.
        assert_eq!(operation["responses"].get("409").is_some(), path == "/signed" || path.starts_with(ROWS), "{path}");
        for scheme in operation["security"].as_array().unwrap().iter().flat_map(|one| one.as_object().unwrap().keys()) {
            assert!(document["components"]["securitySchemes"].get(scheme).is_some(), "{scheme} is not described");
        }
    }
    gateway.stop(&site).await;
}

#[tokio::test]
async fn a_row_above_what_clay_takes_and_a_body_without_its_framing_are_told_so() {
    let (site, gateway) = Site::with(&everything()).await;
    let row = format!(r#"{{"a":"{}"}}"#, "x".repeat(200_000));
    let answer = Answer::of(gateway.request_to("/v1/rows/leads").bearer_auth(ROWS_TOKEN).body(row)).await;
    assert_eq!((answer.status, answer.text("type")), (413, "/problems/row-too-large"));
    let secret = crate::gateway::SECRET;
    let head = format!("POST {} HTTP/1.1\r\nHost: localhost\r\nX-Clay-Signature: {secret}\r\n", crate::gateway::PATH);
    let stream =
        gateway.connect(format!("{head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nno length\r\n")).await;
    let answer = crate::gateway::read_to_end(stream).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("/problems/broken-body"), "{answer}");
    gateway.stop(&site).await;
}

/// A worker has no public port, and its document none either.
#[test]
fn a_process_that_receives_nothing_has_no_public_paths() {
    let toml = "[database]\nurl = \"postgres://claygate@db.example.com/claygate\"\n";
    let config = Config::from_toml(Role::Worker, toml, &Environment::default()).unwrap();
    let document: Value = document(&config);
    let paths: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(paths, ["/livez", "/metrics", "/openapi.json", "/readyz"]);
}
