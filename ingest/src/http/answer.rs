//! The answer to a callback that was taken. Small on purpose: Clay shows it in the cell.

use actix_web::HttpResponse;
use common::ids::CallbackId;
use serde::Serialize;
use time::OffsetDateTime;

const DUPLICATE_NOTE: &str = "Same data as before; not sent again. Add ?run=2 to the URL to send it again.";

/// What was done with the callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Accepted,
    Duplicate,
    Spooled,
    Recorded,
}

#[derive(Serialize)]
struct Answer {
    received: bool,
    id: CallbackId,
    status: Status,
    duplicate: bool,
    #[serde(with = "time::serde::rfc3339")]
    timestamp: OffsetDateTime,
    #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    first_received_at: Option<OffsetDateTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

/// A callback that was taken for the first time.
pub(crate) fn taken(id: CallbackId, status: Status, timestamp: OffsetDateTime) -> HttpResponse {
    let answer =
        Answer { received: true, id, status, duplicate: false, timestamp, first_received_at: None, note: None };
    ok(&answer)
}

/// A repeat of callback `id`.
pub(crate) fn duplicate(id: CallbackId, first_received_at: OffsetDateTime, timestamp: OffsetDateTime) -> HttpResponse {
    ok(&Answer {
        received: true,
        id,
        status: Status::Duplicate,
        duplicate: true,
        timestamp,
        first_received_at: Some(first_received_at),
        note: Some(DUPLICATE_NOTE),
    })
}

fn ok(answer: &Answer) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(serde_json::to_vec(answer).unwrap_or_default())
}
