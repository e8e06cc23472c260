//! The public port's paths: one for each source, and the one for rows. A process that receives nothing has none.

use common::config::{Changed, Config, Source, Verification};
use serde_json::{Map, Value, json};

use super::answer;
use super::problems::{Kind, answers};

const BEARER: &str = "bearer";
const STANDARD: &str = "standard-webhooks";
const SIGNED_URL: &str = "signed-url";

pub(super) fn paths(config: &Config) -> Map<String, Value> {
    let base = match &config.ingest.public_url {
        Some(url) => url.as_str().trim_end_matches('/').to_owned(),
        None => format!("http://{}", config.ingest.listen),
    };
    let servers = json!([{ "url": base, "description": "The public port." }]);
    let mut paths = Map::new();
    for source in received_sources(config) {
        paths.insert(source.path.clone(), json!({ "servers": servers, "post": callback(source) }));
    }
    if !config.ingest.rows_tokens.is_empty() {
        paths.insert("/v1/rows/{destination}".to_owned(), json!({ "servers": servers, "post": rows(config) }));
    }
    paths
}

/// In a process that receives nothing, sources have no verification.
fn received_sources(config: &Config) -> impl Iterator<Item = &Source> {
    config.sources.values().filter(|source| !source.verify.is_empty())
}

/// What a credential of this kind is called, and the other schemes that it may come by.
fn schemes_of(verification: &Verification) -> Vec<(String, Value)> {
    let in_header = |name: &str, description: &str| json!({ "type": "apiKey", "in": "header", "name": name, "description": description });
    let bearer = || (BEARER.to_owned(), json!({ "type": "http", "scheme": "bearer" }));
    match verification {
        Verification::Token { header, .. } => {
            vec![(format!("token-{header}"), in_header(header, "The static secret.")), bearer()]
        }
        Verification::HmacSha256 { header, .. } => vec![(
            format!("hmac-{header}"),
            in_header(header, "HMAC-SHA256 of the raw body: hex, `sha256=<hex>` or base64."),
        )],
        Verification::StandardWebhooks { .. } => vec![(
            STANDARD.to_owned(),
            in_header("webhook-signature", "Standard Webhooks, with `webhook-id` and `webhook-timestamp`."),
        )],
        Verification::SignedUrl { .. } => vec![(
            SIGNED_URL.to_owned(),
            json!({ "type": "apiKey", "in": "query", "name": "cg_sig",
                "description": "The URL that claygate put into the row, with `cg_exp` and `cg_row`." }),
        )],
        Verification::None => Vec::new(),
    }
}

pub(super) fn security_schemes(config: &Config) -> Map<String, Value> {
    let verifications = received_sources(config).flat_map(|source| &source.verify);
    let mut schemes: Map<String, Value> = verifications.flat_map(schemes_of).collect();
    if !config.ingest.rows_tokens.is_empty() {
        schemes.insert(BEARER.to_owned(), json!({ "type": "http", "scheme": "bearer" }));
    }
    schemes
}

fn callback(source: &Source) -> Value {
    let mut security: Vec<Value> =
        source.verify.iter().flat_map(schemes_of).map(|(name, _)| json!({ name: [] })).collect();
    if source.verify.iter().any(|verification| matches!(verification, Verification::None)) {
        security.push(json!({}));
    }
    let mut responses = answers(|kind: &Kind| match kind.status {
        409 if source.idempotency.changed != Changed::Conflict => "",
        _ => kind.callbacks,
    });
    responses.insert("200".to_owned(), answer("It is durable.", "Received"));
    json!({
        "operationId": format!("callback-{}", source.name),
        "summary": format!("Takes a callback of the source {}", source.name),
        "tags": ["public port"],
        "security": security,
        "parameters": [
            key("Idempotency-Key", "The key by which a repeat is recognised, before the source's own rule."),
            key("webhook-id", "The same, where there is no Idempotency-Key."),
            run(),
        ],
        "requestBody": {
            "required": true,
            "description": "Any JSON object; other kinds of JSON (`text/json`, `…+json`) are taken too.",
            "content": { "application/json": { "schema": { "type": "object" } } },
        },
        "responses": responses,
    })
}

fn rows(config: &Config) -> Value {
    let tables = config.destinations.values().filter(|destination| destination.clay().is_some());
    let names: Vec<&str> = tables.map(|destination| destination.name.as_str()).collect();
    let mut name = json!({ "type": "string" });
    if !names.is_empty() {
        name["enum"] = json!(names);
    }
    let mut responses = answers(|kind: &Kind| kind.rows);
    let taken = json!({ "anyOf": [
        { "$ref": "#/components/schemas/RowReceived" }, { "$ref": "#/components/schemas/RowsReceived" },
    ] });
    responses.insert(
        "200".to_owned(),
        json!({ "description": "Every row is durable, or was before.", "content": { "application/json": { "schema": taken } } }),
    );
    responses.insert("207".to_owned(), answer("Some rows are durable, and some were refused.", "RowsReceived"));
    let row = json!({ "type": "object", "minProperties": 1 });
    json!({
        "operationId": "rows",
        "summary": "Takes rows for a table of Clay",
        "tags": ["public port"],
        "security": [{ BEARER: [] }],
        "parameters": [
            { "name": "destination", "in": "path", "required": true, "schema": name },
            key("Idempotency-Key", "The key of the only row; of several, each place among them has a key of its own."),
            run(),
        ],
        "requestBody": {
            "required": true,
            "content": {
                "application/json": { "schema": { "anyOf": [row, { "type": "array", "items": row }] } },
                "application/x-ndjson": { "schema": { "type": "string", "description": "One object per line." } },
            },
        },
        "responses": responses,
    })
}

fn key(name: &str, description: &str) -> Value {
    json!({ "name": name, "in": "header", "description": description, "schema": { "type": "string" } })
}

fn run() -> Value {
    json!({
        "name": "run", "in": "query", "schema": { "type": "string" },
        "description": "Part of every key: another value sends the same data again.",
    })
}

pub(super) fn received() -> Value {
    let moment = json!({ "type": "string", "format": "date-time" });
    json!({
        "type": "object",
        "required": ["received", "id", "status", "duplicate", "timestamp"],
        "properties": {
            "received": { "const": true },
            "id": { "type": "string", "format": "uuid" },
            "status": { "enum": ["accepted", "duplicate", "spooled", "recorded"] },
            "duplicate": { "type": "boolean" },
            "timestamp": moment,
            "first_received_at": moment,
            "note": { "type": "string" },
        },
    })
}

pub(super) fn row_received() -> Value {
    json!({
        "type": "object",
        "required": ["received", "id", "status", "duplicate"],
        "properties": {
            "received": { "const": true },
            "id": { "type": "string", "format": "uuid" },
            "status": { "enum": ["accepted", "duplicate", "filtered"] },
            "duplicate": { "type": "boolean" },
            "reason": { "type": "string", "description": "Why it is held back, where it is." },
        },
    })
}

pub(super) fn rows_received() -> Value {
    let count = json!({ "type": "integer", "minimum": 0 });
    let row = json!({
        "type": "object",
        "required": ["line", "id", "status"],
        "properties": {
            "line": { "type": "integer", "minimum": 0 },
            "id": { "type": "string", "format": "uuid" },
            "status": { "enum": ["accepted", "duplicate", "filtered"] },
            "reason": { "type": "string" },
        },
    });
    let problem = json!({
        "type": "object",
        "required": ["line", "problem"],
        "properties": { "line": { "type": "integer", "minimum": 0 }, "problem": { "type": "string" } },
    });
    json!({
        "type": "object",
        "required": ["received", "batch", "next_line", "accepted", "duplicates", "filtered", "refused", "rows", "problems"],
        "properties": {
            "received": { "type": "boolean" },
            "batch": { "type": ["string", "null"], "format": "uuid" },
            "next_line": { "type": "integer", "minimum": 0, "description": "Every line before it is durable or refused." },
            "accepted": count, "duplicates": count, "filtered": count, "refused": count,
            "filtered_by": { "type": "object", "additionalProperties": count },
            "rows": { "type": "array", "items": row }, "rows_left_out": count,
            "problems": { "type": "array", "items": problem }, "problems_left_out": count,
        },
    })
}
