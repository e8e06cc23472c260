//! The OpenAPI 3.1 document of both ports, made of the configuration: paths, headers and destinations come from there.
//!
//! It is data, written by hand. Tests hold it to the running servers: ingest's to the public port, this crate's to the
//! admin port; `cargo xtask proof` has schemathesis try the rest. It holds no secret.

mod admin;
mod problems;
mod public;

use common::config::Config;
use serde_json::{Value, json};

pub use problems::{KINDS, Kind};

/// The document of the ports that a process of this configuration answers on.
pub fn document(config: &Config) -> Value {
    let mut paths = admin::paths();
    paths.extend(public::paths(config));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "claygate",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": DESCRIPTION,
        },
        "paths": paths,
        "components": {
            "securitySchemes": public::security_schemes(config),
            "schemas": { "Problem": problems::schema(), "Received": public::received(), "RowReceived": public::row_received(),
                "RowsReceived": public::rows_received(), "Readiness": admin::readiness() },
        },
    })
}

const DESCRIPTION: &str = "\
What goes wrong is answered with application/problem+json (RFC 9457), and its `type` is stable. On the public port any other path \
answers 404 (/problems/unknown-path), any other method 405 (/problems/method-not-allowed, with Allow). What cannot be \
parsed as HTTP answers a bare 400, 408 or 431 without a body, and closes the connection.";

/// An answer with a JSON body of a schema.
fn answer(description: &str, schema: &str) -> Value {
    json!({
        "description": description,
        "content": { "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } },
    })
}
