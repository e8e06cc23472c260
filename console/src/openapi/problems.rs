//! Every kind of problem that the public port answers with. The `type`s are a contract.

use serde_json::{Map, Value, json};

/// A kind of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The status it comes with.
    pub status: u16,
    /// Its `type`.
    pub kind: &'static str,
    /// When a sender of callbacks gets it; empty: never.
    pub callbacks: &'static str,
    /// When a sender of rows gets it; empty: never.
    pub rows: &'static str,
}

const fn kind(status: u16, kind: &'static str, callbacks: &'static str, rows: &'static str) -> Kind {
    Kind { status, kind, callbacks, rows }
}

const MISSING: &str = "No credential was sent.";
const WRONG: &str = "The credential does not match.";
const ENCODED: &str = "The body is compressed.";
const FRAMING: &str = "The body's framing is wrong.";
const SLOW: &str = "The body came too slowly; the connection is closed.";
const HEADERS: &str = "The request has too many header fields.";
const OVERLOADED: &str = "Too much is taken at once; come again after Retry-After.";
const SIGNATURE: &str = "A signature was sent where the static secret is expected.";

/// Every kind, by status.
pub const KINDS: [Kind; 21] = [
    kind(
        400,
        "/problems/malformed",
        "The body is not a usable JSON object, or is no JSON to its end; `line` and `column` say where. A callback is kept in \
         quarantine under `id`.",
        "The body, or its only row, is not usable JSON. What was taken before is counted.",
    ),
    kind(400, "/problems/refused", "The database refused the body; it is kept in quarantine under `id`.", ""),
    kind(400, "/problems/broken-body", FRAMING, FRAMING),
    kind(400, "/problems/rows-refused", "", "No row can be taken; `problems` says what is wrong with each."),
    kind(401, "/problems/credential-missing", MISSING, MISSING),
    kind(401, "/problems/credential-wrong", WRONG, WRONG),
    kind(401, "/problems/static-secret-expected", SIGNATURE, SIGNATURE),
    kind(
        401,
        "/problems/credential-expired",
        "The timestamp is outside the tolerance, or the signed URL has expired.",
        "",
    ),
    kind(404, "/problems/unknown-path", "", ""),
    kind(404, "/problems/unknown-destination", "", "There is no destination of this name."),
    kind(404, "/problems/not-for-rows", "", "The destination is no table of Clay."),
    kind(405, "/problems/method-not-allowed", "", ""),
    kind(408, "/problems/body-timeout", SLOW, SLOW),
    kind(
        409,
        "/problems/changed-data",
        "The key was used with other data, which the source refuses (`changed = \"conflict\"`); kept in quarantine under `id`.",
        "The row's key was used with other data.",
    ),
    kind(413, "/problems/body-too-large", "The body is larger than the source takes.", ""),
    kind(413, "/problems/row-too-large", "", "The only row is larger than Clay takes."),
    kind(
        415,
        "/problems/not-json",
        "The body is neither JSON nor without a type.",
        "The body is neither JSON nor lines of JSON.",
    ),
    kind(415, "/problems/content-encoding", ENCODED, ENCODED),
    kind(429, "/problems/overloaded", OVERLOADED, OVERLOADED),
    kind(431, "/problems/too-many-headers", HEADERS, HEADERS),
    kind(
        503,
        "/problems/unavailable",
        "The callback could be stored neither in Postgres nor in the spool; come again after Retry-After.",
        "The rows could not be stored, or the process stops; send the same again after Retry-After.",
    ),
];

/// The answers, by status, of those kinds that `why` says something of.
pub(super) fn answers(why: impl Fn(&Kind) -> &'static str) -> Map<String, Value> {
    let mut answers = Map::new();
    for status in KINDS.iter().filter(|kind| !why(kind).is_empty()).map(|kind| kind.status) {
        let kinds: Vec<&Kind> = KINDS.iter().filter(|kind| kind.status == status && !why(kind).is_empty()).collect();
        let said: Vec<String> = kinds.iter().map(|kind| format!("`{}`: {}", kind.kind, why(kind))).collect();
        let types: Vec<&str> = kinds.iter().map(|kind| kind.kind).collect();
        let narrowed = json!({ "type": "object", "properties": {
            "type": { "enum": types }, "status": { "const": status },
        } });
        let schema = json!({ "allOf": [{ "$ref": "#/components/schemas/Problem" }, narrowed] });
        let mut answer = json!({
            "description": said.join("\n\n"),
            "content": { "application/problem+json": { "schema": schema } },
        });
        if let Some(headers) = headers(status) {
            answer["headers"] = headers;
        }
        answers.insert(status.to_string(), answer);
    }
    answers
}

/// Headers that always come with a status.
fn headers(status: u16) -> Option<Value> {
    let (name, description, schema) = match status {
        401 => ("WWW-Authenticate", "How to prove oneself.", json!({ "const": "Bearer" })),
        429 | 503 => ("Retry-After", "Seconds.", json!({ "type": "integer", "minimum": 1 })),
        _ => return None,
    };
    Some(json!({ name: { "description": description, "required": true, "schema": schema } }))
}

pub(super) fn schema() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457. None of its texts repeats what was sent. Of rows it also says what was taken, as \
                        `RowsReceived` does.",
        "required": ["type", "title", "status"],
        "properties": {
            "type": { "type": "string", "description": "Stable; relative to the URL of the gateway." },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "line": { "type": "integer", "minimum": 1 },
            "column": { "type": "integer", "minimum": 1 },
            "quarantined": { "const": true },
            "id": { "type": "string", "format": "uuid", "description": "Under which it is kept in quarantine." },
        },
    })
}
