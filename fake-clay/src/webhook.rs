//! The webhook of a table: what it checks, in which order, and what it answers.

use std::convert::Infallible;
use std::time::Instant;

use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Map, Value, json};

use crate::counts::count;
use crate::fault::{Fault, How};
use crate::table::State;
use crate::workspace::Workspace;

/// Why a row was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Unknown,
    BadToken,
    WrongMethod,
    NoContentType,
    NoJson,
    TooLarge,
    Full,
}

/// Answers one request.
pub(crate) async fn receive(workspace: web::Data<Workspace>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let Some(table) = workspace.table(request.path()) else { return refused(Refusal::Unknown, &workspace) };
    let arrived = Instant::now();
    if !workspace.pass(arrived) {
        table.count(|counts| counts.dropped += 1);
        return dropped();
    }
    if !workspace.latency.is_zero() {
        tokio::time::sleep(workspace.latency).await;
    }
    if let Some(fault) = table.next_fault() {
        if fault.takes_row
            && let Ok(cells) = check(&workspace, &table, &request, &body)
        {
            table.take(cells);
        }
        return fail(fault).await;
    }
    let checked = check(&workspace, &table, &request, &body);
    // The room may be gone since it was looked at.
    let taken = checked.and_then(|cells| table.take(cells).then_some(()).ok_or(Refusal::Full));
    match taken {
        Ok(()) => HttpResponse::Ok().json(json!({"success": true})),
        Err(refusal) => {
            let answer = refused(refusal, &workspace);
            table.count(|counts| count(&mut counts.refused, answer.status().as_u16()));
            answer
        }
    }
}

/// The cells of the row that a request makes; `None`: an array, which becomes one row all the same.
fn check(
    workspace: &Workspace,
    table: &State,
    request: &HttpRequest,
    body: &[u8],
) -> Result<Option<Map<String, Value>>, Refusal> {
    let header = |name| request.headers().get(name).map(actix_web::http::header::HeaderValue::as_bytes);
    match table.refusal(header("x-clay-webhook-auth")) {
        Some(404) => return Err(Refusal::Unknown),
        Some(_) => return Err(Refusal::BadToken),
        None => {}
    }
    if request.method() != Method::POST {
        return Err(Refusal::WrongMethod);
    }
    let content_type = header("content-type").unwrap_or_default().to_ascii_lowercase();
    if !content_type.starts_with(b"application/json") {
        return Err(Refusal::NoContentType);
    }
    if body.len() > workspace.row_bytes_max {
        return Err(Refusal::TooLarge);
    }
    if table.is_full() {
        return Err(Refusal::Full);
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(cells)) => Ok(Some(cells)),
        Ok(Value::Array(_)) => Ok(None),
        _ => Err(Refusal::NoJson),
    }
}

fn dropped() -> HttpResponse {
    let body = json!({"type": "TooManyRequests", "message": "Rate limit exceeded"});
    HttpResponse::TooManyRequests().insert_header(("retry-after", "1")).json(body)
}

fn refused(refusal: Refusal, workspace: &Workspace) -> HttpResponse {
    let (status, kind, message) = match refusal {
        Refusal::Unknown => (404, "NotFound", "Webhook not found"),
        Refusal::BadToken => (401, "Unauthorized", "Invalid webhook auth token"),
        Refusal::WrongMethod => (404, "NotFound", "Cannot be reached with this method"),
        Refusal::NoContentType => (400, "BadRequest", "Content-Type must be application/json"),
        Refusal::NoJson => (400, "BadRequest", "Body is not a JSON object"),
        Refusal::TooLarge => (workspace.too_large_status, "PayloadTooLarge", "Payload too large"),
        Refusal::Full => (403, "Forbidden", "Record limit reached for webhook"),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    HttpResponse::build(status).json(json!({"type": kind, "message": message}))
}

async fn fail(fault: Fault) -> HttpResponse {
    match fault.how {
        How::Hang => std::future::pending().await,
        // A body that fails before its first byte takes the connection with it.
        How::Reset => HttpResponse::Ok()
            .streaming(stream::iter([Err::<Bytes, _>(std::io::Error::from(std::io::ErrorKind::Other))])),
        How::Status(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let body = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{\"type\":\"Fault\"}"))]);
            HttpResponse::build(status).streaming(body)
        }
    }
}
