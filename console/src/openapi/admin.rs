//! The admin port's paths: `admin.listen`, where this document comes from.

use serde_json::{Map, Value, json};

use super::answer;

pub(super) fn paths() -> Map<String, Value> {
    let text = |description: &str, kind: &str| json!({ "description": description, "content": { kind: { "schema": { "type": "string" } } } });
    let mut readiness = Map::new();
    readiness.insert("200".to_owned(), answer("It can do its work.", "Readiness"));
    readiness.insert("503".to_owned(), answer("It cannot; `checks` says what is wrong.", "Readiness"));
    let document = json!({
        "description": "This document.",
        "content": { "application/json": { "schema": { "type": "object", "required": ["openapi", "info", "paths"] } } },
    });
    [
        ("/livez", "Whether the process is alive", json!({ "200": text("It is.", "text/plain") })),
        ("/readyz", "Whether each part can do its work", Value::Object(readiness)),
        (
            "/metrics",
            "Metrics in the text format of Prometheus",
            json!({ "200": text("Every metric, at 0 where nothing has happened yet.", "text/plain") }),
        ),
        ("/openapi.json", "This document", json!({ "200": document })),
    ]
    .into_iter()
    .map(|(path, summary, responses)| {
        let name = path.trim_start_matches('/').trim_end_matches(".json");
        let operation = json!({
            "operationId": name, "summary": summary, "tags": ["admin port"], "security": [], "responses": responses,
        });
        (path.to_owned(), json!({ "get": operation }))
    })
    .collect()
}

pub(super) fn readiness() -> Value {
    let check = json!({
        "type": "object",
        "required": ["name", "ready"],
        "properties": {
            "name": { "type": "string" },
            "ready": { "type": "boolean" },
            "detail": { "type": "string", "description": "Why not, or what it is doing." },
            "warnings": { "type": "array", "items": { "type": "string" } },
        },
    });
    json!({
        "type": "object",
        "required": ["ready", "checks"],
        "properties": { "ready": { "type": "boolean" }, "checks": { "type": "array", "items": check } },
    })
}
