//! The way of a request of rows, up to its body: path, method, proof, destination, kind of body, admission.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse, web};
use common::config::{Config, Destination, Verification};
use common::rows::split::Form;
use common::signature;
use serde_json::Map;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::answer::respond;
use super::reading::Reading;
use super::store::IdleConnections;
use crate::callback::run_parameter;
use crate::commit::writer::Shared;
use crate::http::admission::{Admission, Overloaded};
use crate::http::problem::Problem;
use crate::http::receive::{Parts, check_head, is_json};
use crate::telemetry::RowOutcomes;

/// What comes before a destination's name in the path.
const PATH: &str = "/v1/rows/";
const KEY_HEADER: &str = "idempotency-key";
/// The kinds of body that are lines, in lower case.
const LINES: [&str; 4] = ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];

/// What every request of rows needs.
pub(crate) struct RowGate {
    verify: Vec<Verification>,
    destinations: BTreeMap<String, Destination>,
    admission: Arc<Admission>,
    headers_max: usize,
    pub(super) body_timeout: Duration,
    pub(super) connections: IdleConnections,
    pub(super) shared: Arc<Shared>,
    pub(super) outcomes: RowOutcomes,
    pub(super) shutdown: CancellationToken,
}

impl RowGate {
    /// The gate of `config`; `None`: no token is configured, and nobody may come in.
    pub(crate) fn new(config: &Config, shared: &Arc<Shared>, shutdown: &CancellationToken) -> Option<Arc<Self>> {
        let (ingest, limits) = (&config.ingest, &config.ingest.limits);
        if ingest.rows_tokens.is_empty() {
            return None;
        }
        Some(Arc::new(Self {
            verify: vec![Verification::Token {
                header: "authorization".to_owned(),
                secrets: ingest.rows_tokens.clone(),
            }],
            destinations: config.destinations.clone(),
            admission: Admission::new(limits.rows_in_flight, usize::MAX),
            headers_max: limits.headers,
            body_timeout: limits.body_timeout,
            connections: IdleConnections::new(shared.settings.clone(), limits.commit_timeout),
            shared: Arc::clone(shared),
            outcomes: RowOutcomes::of(config),
            shutdown: shutdown.clone(),
        }))
    }
}

/// The destination that a path names, as it stands there.
pub(crate) fn destination_of(path: &str) -> Option<&str> {
    path.strip_prefix(PATH).filter(|name| !name.is_empty() && !name.contains('/'))
}

/// Answers a request of rows for the destination `name`. Gives the payload back with a problem: what is unread of it
/// closes the connection.
pub(crate) async fn receive_rows(
    request: &HttpRequest,
    payload: web::Payload,
    gate: &Arc<RowGate>,
    name: &str,
) -> (HttpResponse, Option<web::Payload>) {
    let (done, payload) = match admit(request, gate, name) {
        Ok((reading, permit)) => {
            // On its own, so that a sender who goes away cancels nothing: what was cut into rows is still committed.
            let task = actix_web::rt::spawn(async move {
                let mut payload = payload;
                let ended = reading.read(&mut payload).await;
                drop(permit);
                (respond(ended), payload)
            });
            match task.await {
                Ok((done, payload)) => (done, Some(payload)),
                Err(error) => {
                    tracing::error!(error = %error, "reading rows panicked");
                    (Err((Problem::RowsUnavailable, Map::new())), None)
                }
            }
        }
        Err(problem) => (Err((problem, Map::new())), Some(payload)),
    };
    gate.outcomes.count_request(done.as_ref().err().map(|(problem, _)| problem));
    match done {
        Ok(response) => (response, payload),
        Err((problem, members)) => (problem.into_response_with(members), payload),
    }
}

fn admit(
    request: &HttpRequest,
    gate: &Arc<RowGate>,
    name: &str,
) -> Result<(Reading, crate::http::admission::Permit), Problem> {
    check_head(request, gate.headers_max)?;
    let parts = Parts { headers: request.headers(), uri: request.uri() };
    signature::verify(&gate.verify, &parts, &[], OffsetDateTime::now_utc()).map_err(Problem::Unauthorized)?;
    let destination = gate.destinations.get(name).ok_or(Problem::UnknownDestination)?;
    if destination.clay().is_none() {
        return Err(Problem::NotForRows);
    }
    let form = form(request)?;
    let permit = gate.admission.admit(0).map_err(|Overloaded| Problem::Overloaded)?;
    if !gate.shared.health.is_up() {
        return Err(Problem::RowsUnavailable);
    }
    let header = request.headers().get(KEY_HEADER).and_then(|value| value.to_str().ok());
    let reading = Reading {
        gate: Arc::clone(gate),
        destination: destination.clone(),
        form,
        key_header: header.filter(|header| !header.trim().is_empty()).map(str::to_owned),
        run: run_parameter(request.query_string()).map(str::to_owned),
    };
    Ok((reading, permit))
}

fn form(request: &HttpRequest) -> Result<Form, Problem> {
    let kind = request.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?").trim());
    let kind = kind.unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        lines if LINES.contains(&lines) => Ok(Form::Lines),
        _ if is_json(kind) => Ok(Form::Document),
        _ => Err(Problem::NotRows),
    }
}
