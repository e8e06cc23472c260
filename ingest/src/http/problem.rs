//! What goes wrong, as RFC 9457 problem JSON. The `type` is stable: a relative reference, so that it names the same
//! problem under whatever URL the gateway is reached.
//!
//! None of these carries anything that the sender sent.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use common::canonical::Malformed;
use common::ids::CallbackId;
use common::rows::prepare::RowProblem;
use common::rows::split::Broken;
use common::signature::Refusal;
use serde::Serialize;
use serde_json::{Map, Value};

/// After how many seconds to come again, where a moment is enough.
const RETRY_AFTER_SECONDS: u32 = 1;
/// After how many seconds to come again, where something is broken.
const RETRY_AFTER_OUTAGE_SECONDS: u32 = 10;

/// Everything that a sender can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// 400: authenticated, but not a usable JSON object; kept in quarantine under `id`.
    Malformed { malformed: Malformed, id: CallbackId },
    /// 400: the database refused it; kept in quarantine under `id`.
    Refused { id: CallbackId },
    /// 400: the body's framing is wrong.
    BrokenBody,
    /// 401.
    Unauthorized(Refusal),
    /// 404.
    UnknownPath,
    /// 405.
    WrongMethod,
    /// 408.
    SlowBody,
    /// 409: kept in quarantine under `id`.
    Conflict { id: CallbackId },
    /// 413.
    TooLarge { bytes_max: usize },
    /// 415: not JSON.
    NotJson,
    /// 415: compressed.
    Encoded,
    /// 429.
    Overloaded,
    /// 431.
    TooManyHeaders { headers_max: usize },
    /// 503.
    Unavailable,
    /// 400, 409 or 413: the only row of a request.
    Row(RowProblem),
    /// 400: no row of a request can be taken.
    RowsRefused,
    /// 400: what comes next cannot be cut into rows.
    BrokenRows(Broken),
    /// 404: rows for a destination that nobody configured.
    UnknownDestination,
    /// 404: rows for a destination that is no table of Clay.
    NotForRows,
    /// 415: neither JSON nor lines of it.
    NotRows,
    /// 503: rows are not spooled.
    RowsUnavailable,
    /// 503: this process stops.
    RowsInterrupted,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantined: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<CallbackId>,
    /// What was taken nevertheless.
    #[serde(flatten)]
    members: Map<String, Value>,
}

impl Problem {
    /// Status, `type` and title. The `type`s are a contract.
    fn identity(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Malformed { .. } => {
                (StatusCode::BAD_REQUEST, "/problems/malformed", "The body is not a usable JSON object")
            }
            Self::Refused { .. } => (StatusCode::BAD_REQUEST, "/problems/refused", "The body cannot be stored"),
            Self::BrokenBody => (StatusCode::BAD_REQUEST, "/problems/broken-body", "The body could not be read"),
            Self::Unauthorized(Refusal::Missing) => {
                (StatusCode::UNAUTHORIZED, "/problems/credential-missing", "A credential is missing")
            }
            Self::Unauthorized(Refusal::Wrong) => {
                (StatusCode::UNAUTHORIZED, "/problems/credential-wrong", "The credential is wrong")
            }
            Self::Unauthorized(Refusal::SignatureSentToToken) => {
                (StatusCode::UNAUTHORIZED, "/problems/static-secret-expected", "This source expects the static secret")
            }
            Self::Unauthorized(Refusal::Expired) => {
                (StatusCode::UNAUTHORIZED, "/problems/credential-expired", "The credential has expired")
            }
            Self::UnknownPath => (StatusCode::NOT_FOUND, "/problems/unknown-path", "No source listens on this path"),
            Self::WrongMethod => (StatusCode::METHOD_NOT_ALLOWED, "/problems/method-not-allowed", "Only POST is taken"),
            Self::SlowBody => (StatusCode::REQUEST_TIMEOUT, "/problems/body-timeout", "The body came too slowly"),
            Self::Conflict { .. } => {
                (StatusCode::CONFLICT, "/problems/changed-data", "This key was used with other data")
            }
            Self::TooLarge { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, "/problems/body-too-large", "The body is too large")
            }
            Self::NotJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "/problems/not-json", "Only JSON is taken"),
            Self::Encoded => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "/problems/content-encoding", "Compressed bodies are not taken")
            }
            Self::Overloaded => (StatusCode::TOO_MANY_REQUESTS, "/problems/overloaded", "Too much at once"),
            Self::TooManyHeaders { .. } => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "/problems/too-many-headers",
                "The request has too many headers",
            ),
            Self::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "The callback could not be stored")
            }
            Self::Row(_) | Self::RowsRefused | Self::BrokenRows(_) => self.identity_of_rows(),
            Self::UnknownDestination => {
                (StatusCode::NOT_FOUND, "/problems/unknown-destination", "There is no destination of this name")
            }
            Self::NotForRows => {
                (StatusCode::NOT_FOUND, "/problems/not-for-rows", "Rows are taken for destinations of kind clay alone")
            }
            Self::NotRows => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "/problems/not-json", "Only JSON is taken"),
            Self::RowsUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "The rows could not be stored")
            }
            Self::RowsInterrupted => (StatusCode::SERVICE_UNAVAILABLE, "/problems/unavailable", "This process stops"),
        }
    }

    fn identity_of_rows(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Row(RowProblem::TooLarge { .. }) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "/problems/row-too-large", "The row is larger than Clay takes")
            }
            Self::Row(RowProblem::Conflict) => {
                (StatusCode::CONFLICT, "/problems/changed-data", "This key was used with other data")
            }
            Self::RowsRefused => (StatusCode::BAD_REQUEST, "/problems/rows-refused", "No row can be taken"),
            Self::BrokenRows(_) => {
                (StatusCode::BAD_REQUEST, "/problems/malformed", "The body is not usable JSON to its end")
            }
            _ => (StatusCode::BAD_REQUEST, "/problems/malformed", "The body is not a usable JSON object"),
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Self::Row(problem) => Some(problem.to_string()),
            Self::BrokenRows(broken) => Some(broken.to_string()),
            Self::RowsRefused => Some("`problems` says what is wrong with each".to_owned()),
            Self::NotRows => Some(
                "send application/json (an object or an array), or one object per line as application/x-ndjson"
                    .to_owned(),
            ),
            Self::RowsUnavailable | Self::RowsInterrupted => {
                Some("send the same again: rows that were taken are recognised".to_owned())
            }
            Self::Malformed { malformed, .. } => Some(malformed.to_string()),
            Self::Unauthorized(refusal) => Some(refusal.to_string()),
            Self::TooLarge { bytes_max } => Some(format!("at most {bytes_max} bytes are taken")),
            Self::TooManyHeaders { headers_max } => Some(format!("at most {headers_max} header fields are taken")),
            Self::NotJson => Some("send Content-Type: application/json, or leave the header out".to_owned()),
            Self::Conflict { .. } => Some("the source refuses changed data; the callback is kept aside".to_owned()),
            _ => None,
        }
    }

    /// The answer.
    pub(crate) fn into_response(self) -> HttpResponse {
        self.into_response_with(Map::new())
    }

    /// The answer, with `members` beside its own.
    pub(crate) fn into_response_with(self, members: Map<String, Value>) -> HttpResponse {
        let (status, kind, title) = self.identity();
        let (line, column) = match &self {
            Self::Malformed { malformed, .. } | Self::Row(RowProblem::Malformed(malformed)) => {
                (Some(malformed.line), Some(malformed.column))
            }
            _ => (None, None),
        };
        let id = match &self {
            Self::Malformed { id, .. } | Self::Refused { id } | Self::Conflict { id } => Some(*id),
            _ => None,
        };
        let quarantined = id.map(|_| true);
        let detail = self.detail();
        let document =
            Document { kind, title, status: status.as_u16(), detail, line, column, quarantined, id, members };
        let mut response = HttpResponse::build(status);
        match self {
            Self::WrongMethod => {
                response.insert_header((ALLOW, "POST"));
            }
            Self::Unauthorized(_) => {
                response.insert_header((WWW_AUTHENTICATE, "Bearer"));
            }
            Self::Overloaded => {
                response.insert_header((RETRY_AFTER, RETRY_AFTER_SECONDS));
            }
            Self::Unavailable | Self::RowsUnavailable | Self::RowsInterrupted => {
                response.insert_header((RETRY_AFTER, RETRY_AFTER_OUTAGE_SECONDS));
                if !matches!(self, Self::Unavailable) {
                    // The rest of a body of any length is not read.
                    response.force_close();
                }
            }
            // The rest of the body is not read: the connection cannot be used again.
            Self::TooLarge { .. } | Self::SlowBody | Self::BrokenBody | Self::BrokenRows(_) => {
                response.force_close();
            }
            _ => {}
        }
        let body = serde_json::to_vec(&document).unwrap_or_default();
        response.content_type("application/problem+json").body(body)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use console::openapi::KINDS;

    use super::*;

    /// One of each.
    fn every_problem() -> Vec<Problem> {
        let id = CallbackId::new();
        let malformed = Malformed { what: "EOF".to_owned(), line: 1, column: 1 };
        let refusals = [Refusal::Missing, Refusal::Wrong, Refusal::SignatureSentToToken, Refusal::Expired];
        let rows = [
            RowProblem::Malformed(malformed.clone()),
            RowProblem::Empty,
            RowProblem::TooLarge { bytes_max: 1 },
            RowProblem::Conflict,
        ];
        let mut problems = vec![
            Problem::Malformed { malformed, id },
            Problem::Refused { id },
            Problem::BrokenBody,
            Problem::UnknownPath,
            Problem::WrongMethod,
            Problem::SlowBody,
            Problem::Conflict { id },
            Problem::TooLarge { bytes_max: 1 },
            Problem::NotJson,
            Problem::Encoded,
            Problem::Overloaded,
            Problem::TooManyHeaders { headers_max: 1 },
            Problem::Unavailable,
            Problem::RowsRefused,
            Problem::BrokenRows(Broken::Unfinished),
            Problem::UnknownDestination,
            Problem::NotForRows,
            Problem::NotRows,
            Problem::RowsUnavailable,
            Problem::RowsInterrupted,
        ];
        problems.extend(refusals.map(Problem::Unauthorized));
        problems.extend(rows.map(Problem::Row));
        problems
    }

    #[test]
    fn the_openapi_document_has_every_problem_and_no_other() {
        let answered: BTreeSet<(u16, &str)> =
            every_problem().iter().map(|problem| (problem.identity().0.as_u16(), problem.identity().1)).collect();
        let documented: BTreeSet<(u16, &str)> = KINDS.iter().map(|kind| (kind.status, kind.kind)).collect();
        assert_eq!(answered, documented);
    }

    #[test]
    fn headers_that_the_document_promises_are_there() {
        for problem in every_problem() {
            let response = problem.clone().into_response();
            let wanted = match response.status().as_u16() {
                401 => Some("www-authenticate"),
                405 => Some("allow"),
                429 | 503 => Some("retry-after"),
                _ => None,
            };
            assert!(wanted.is_none_or(|name| response.headers().contains_key(name)), "{problem:?}");
        }
    }
}
