//! What goes wrong, as RFC 9457 problem JSON. The `type` is stable: a relative reference, so that it names the same
//! problem under whatever URL the gateway is reached.
//!
//! None of these carries anything that the sender sent.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use common::canonical::Malformed;
use common::ids::CallbackId;
use common::signature::Refusal;
use serde::Serialize;

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
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
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
        let (status, kind, title) = self.identity();
        let (line, column) = match &self {
            Self::Malformed { malformed, .. } => (Some(malformed.line), Some(malformed.column)),
            _ => (None, None),
        };
        let id = match &self {
            Self::Malformed { id, .. } | Self::Refused { id } | Self::Conflict { id } => Some(*id),
            _ => None,
        };
        let quarantined = id.map(|_| true);
        let detail = self.detail();
        let document = Document { kind, title, status: status.as_u16(), detail, line, column, quarantined, id };
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
            Self::Unavailable => {
                response.insert_header((RETRY_AFTER, RETRY_AFTER_OUTAGE_SECONDS));
            }
            // The rest of the body is not read: the connection cannot be used again.
            Self::TooLarge { .. } | Self::SlowBody | Self::BrokenBody => {
                response.force_close();
            }
            _ => {}
        }
        let body = serde_json::to_vec(&document).unwrap_or_default();
        response.content_type("application/problem+json").body(body)
    }
}
