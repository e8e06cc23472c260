//! The way of a request: path, limits, body, proof, key, commit, answer.
//!
//! The proof is over the raw bytes, before anything of the body is parsed. From the moment the body is read nothing
//! depends on the client any more: the entry, with its in-flight permit, belongs to the writers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::http::{Method, Uri};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use common::canonical::Malformed;
use common::crash::{self, Point};
use common::db::quarantine;
use common::signature::{self, Proof, RequestParts};
use time::OffsetDateTime;

use super::admission::{Admission, Overloaded, Permit};
use super::answer::{self, Status};
use super::body::{self, BodyProblem};
use super::headers;
use super::problem::Problem;
use crate::callback::{self, Read, Request};
use crate::commit::mailbox::{Mailbox, Reply};
use crate::commit::queue::{Job, Queue};
use crate::commit::writer::Shared;
use crate::commit::{Entry, Outcome};
use crate::rows::receive::{RowGate, destination_of, receive_rows};
use crate::sources::{Source, Sources};
use crate::telemetry::Outcomes;

/// Headers that hold an explicit key, the first that is there counts.
pub(crate) const KEY_HEADERS: [&str; 2] = ["idempotency-key", "webhook-id"];

/// What every request needs.
pub(crate) struct Gate {
    pub(crate) sources: Sources,
    pub(crate) admission: Arc<Admission>,
    pub(crate) headers_max: usize,
    pub(crate) body_timeout: Duration,
    pub(crate) shared: Arc<Shared>,
    /// What requests of rows need; `None`: nobody may send any.
    pub(crate) rows: Option<Arc<RowGate>>,
}

/// Answers one request.
pub(crate) async fn receive(
    request: HttpRequest,
    mut payload: web::Payload,
    gate: web::Data<Gate>,
    mailbox: web::Data<Mailbox>,
) -> HttpResponse {
    let source = gate.sources.on(request.path());
    if let (None, Some(rows), Some(destination)) = (source, &gate.rows, destination_of(request.path())) {
        let (response, unread) = receive_rows(&request, payload, rows, destination).await;
        return response.map_body(|_, answer| match unread {
            Some(unread) => BoxBody::new(WithUnread { answer, _unread: unread }),
            None => answer,
        });
    }
    let problem = match source {
        None => Problem::UnknownPath,
        Some(source) => match take(&request, &mut payload, &gate, source, &mailbox).await {
            Ok(response) => return response,
            Err(problem) => {
                source.outcomes.count_problem(&problem);
                problem
            }
        },
    };
    problem.into_response().map_body(|_, answer| BoxBody::new(WithUnread { answer, _unread: payload }))
}

async fn take(
    request: &HttpRequest,
    payload: &mut web::Payload,
    gate: &Gate,
    source: &Source,
    mailbox: &Arc<Mailbox>,
) -> Result<HttpResponse, Problem> {
    check_head(request, gate.headers_max)?;
    let kind = request.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    if kind.is_some_and(|kind| !is_json(kind.trim())) {
        return Err(Problem::NotJson);
    }
    // Who can be refused by the head alone never gets to hold memory or a slot.
    let proven = if source.proof_is_in_head { Some(prove(request, &[], source)?) } else { None };
    let (body, permit) = read_body(request, payload, gate, source).await?;
    let body_read_at = Instant::now();
    let proof = match proven {
        Some(proof) => proof,
        None => prove(request, &body, source)?,
    };
    let Read { entry, malformed, pointers_missed } = read_callback(request, body, gate, source, proof);
    if pointers_missed {
        source.outcomes.pointers_missed.increment(1);
    }
    crash::point(Point::AfterVerify);
    let outcome = submit(&gate.shared.queue, entry, permit, mailbox).await;
    source.outcomes.ack_seconds.record(body_read_at.elapsed());
    respond(outcome, malformed, &source.outcomes)
}

/// What is asked of every request: method, number of headers, no compression.
pub(crate) fn check_head(request: &HttpRequest, headers_max: usize) -> Result<(), Problem> {
    if request.method() != Method::POST {
        return Err(Problem::WrongMethod);
    }
    if request.headers().len() > headers_max {
        return Err(Problem::TooManyHeaders { headers_max });
    }
    let coding = request.headers().get(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?").trim());
    if coding.is_some_and(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity")) {
        return Err(Problem::Encoded);
    }
    Ok(())
}

/// `application/json`, `text/json` and `…+json`, with or without parameters; an empty header counts as absent.
pub(crate) fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(essence.as_str(), "" | "application/json" | "text/json") || essence.ends_with("+json")
}

async fn read_body(
    request: &HttpRequest,
    payload: &mut web::Payload,
    gate: &Gate,
    source: &Source,
) -> Result<(Bytes, Permit), Problem> {
    let bytes_max = source.body_bytes_max;
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes > bytes_max) {
        return Err(Problem::TooLarge { bytes_max });
    }
    let mut permit = gate.admission.admit(announced.unwrap_or(0)).map_err(|Overloaded| Problem::Overloaded)?;
    let body =
        body::read(payload, bytes_max, gate.body_timeout, &mut permit).await.map_err(|problem| match problem {
            BodyProblem::TooLarge => Problem::TooLarge { bytes_max },
            BodyProblem::TooSlow => Problem::SlowBody,
            BodyProblem::Overloaded => Problem::Overloaded,
            BodyProblem::Broken => Problem::BrokenBody,
        })?;
    Ok((body, permit))
}

/// Checks the credentials of the request, over its raw body.
fn prove(request: &HttpRequest, body: &[u8], source: &Source) -> Result<Proof, Problem> {
    let parts = Parts { headers: request.headers(), uri: request.uri() };
    signature::verify(&source.config.verify, &parts, body, OffsetDateTime::now_utc()).map_err(Problem::Unauthorized)
}

fn read_callback(request: &HttpRequest, body: Bytes, gate: &Gate, source: &Source, proof: Proof) -> Read {
    let query = request.query_string();
    let run = callback::run_parameter(query);
    let headers = headers::to_json(request.headers(), gate.sources.secret_headers(), request.path(), run);
    let key_header = key_header(request.headers());
    callback::read(Request { source, body, headers, key_header, query, proven_row: proof.row })
}

/// The first that says something of `Idempotency-Key` and `webhook-id`.
fn key_header(headers: &HeaderMap) -> Option<&str> {
    KEY_HEADERS.iter().find_map(|name| headers.get(*name)?.to_str().ok().filter(|value| !value.trim().is_empty()))
}

async fn submit(queue: &Queue, entry: Entry, permit: Permit, mailbox: &Arc<Mailbox>) -> Outcome {
    let (reply, outcome) = Reply::by(mailbox);
    queue.push(Job { entry, reply, permit });
    // Dropped without an answer, by a writer that died or a queue that is closed: the sender has to come again.
    outcome.await.unwrap_or(Outcome::Unavailable)
}

fn respond(outcome: Outcome, malformed: Option<Malformed>, outcomes: &Outcomes) -> Result<HttpResponse, Problem> {
    Ok(match outcome {
        Outcome::Accepted { id, at } => {
            outcomes.accepted.increment(1);
            answer::taken(id, Status::Accepted, at)
        }
        Outcome::Recorded { id, at } => {
            outcomes.recorded.increment(1);
            answer::taken(id, Status::Recorded, at)
        }
        Outcome::Spooled { id, at } => {
            outcomes.spooled.increment(1);
            answer::taken(id, Status::Spooled, at)
        }
        Outcome::Duplicate { id, first_received_at, at } => {
            outcomes.duplicate.increment(1);
            answer::duplicate(id, first_received_at, at)
        }
        Outcome::Quarantined { id, problem: quarantine::Problem::Conflict } => return Err(Problem::Conflict { id }),
        Outcome::Quarantined { id, .. } => {
            return Err(match malformed {
                Some(malformed) => Problem::Malformed { malformed, id },
                None => Problem::Refused { id },
            });
        }
        Outcome::Present | Outcome::Unavailable => return Err(Problem::Unavailable),
    })
}

/// An answer that holds what was not read of its request. A body that is dropped before the answer is sent would be
/// read to its end, however long the sender makes that; one that is still there closes the connection.
struct WithUnread {
    answer: BoxBody,
    _unread: web::Payload,
}

impl MessageBody for WithUnread {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.answer.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.answer).poll_next(context)
    }
}

/// The request as a verification sees it.
pub(crate) struct Parts<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) uri: &'a Uri,
}

impl RequestParts for Parts<'_> {
    fn header(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.headers.get_all(name);
        match (values.next(), values.next()) {
            (Some(only), None) => Some(only.as_bytes()),
            _ => None,
        }
    }

    fn path_and_query(&self) -> &str {
        self.uri.path_and_query().map_or("", |path| path.as_str())
    }
}
