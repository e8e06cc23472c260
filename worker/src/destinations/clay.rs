//! Rows into a table of Clay: one object per request, to one of the table's webhook URLs, and what its answers mean.
//!
//! Which URL a row goes to, and that it is counted before, is not known here (`crate::deliver`). An answer may speak of the
//! row (400, 413), of the workspace (429), or of the URL (401, 403, 404, 410): then the same row may go to another one.
//! A URL never appears in an error.

use std::collections::BTreeMap;
use std::time::Duration;

use common::config::{Body, CallbackUrl, ClayDestination, Destination, StatusSet};
use common::db::attempts::Taken;
use common::db::clay_webhooks::Pool;
use common::filter::Filter;
use common::ids::RowId;
use common::signature::sign_url;
use common::states::{Class, Reason, WebhookState};
use minijinja::Value as TemplateValue;
use minijinja::value::Serde;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Method, Request};
use secrecy::ExposeSecret;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use url::Url;

use super::classify::{Answer, Dialect, classify};
use super::client::{HttpClient, Reply, SendError};
use super::guard::Guard;
use super::request::{AGENT, BuildError, ClaygateObject};
use super::send::{explain, failed, unbuilt};
use super::signing::request_id;
use super::template::{JsonTemplate, RenderProblem, Templates};
use super::{Outcome, PrepareError, RESPONSE_KEPT_BYTES};
use crate::lanes::LeasedDelivery;

/// Most bytes of one row (Clay's documentation of webhooks: 100 KB).
pub(crate) const ROW_BYTES_MAX: usize = 100_000;
/// The field by which a row is known again when it comes back.
const ID_FIELD: &str = "claygate_id";
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-clay-webhook-auth");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// How long a 429 that names no time is waited for, and the least.
const THROTTLED_FOR: Duration = Duration::from_secs(1);
/// What Clay's 403 says when a URL has taken all that it ever takes.
const FULL: &str = "record limit reached";

/// A table of Clay, ready to be sent to.
pub struct ClayTarget {
    pool: Pool,
    webhooks: BTreeMap<String, Prepared>,
    body: Option<JsonTemplate>,
    filter: Filter,
    callback_url: Option<CallbackUrl>,
    expect_within: Option<Duration>,
    templates: Templates,
    guard: Guard,
    client: HttpClient,
}

struct Prepared {
    url: Url,
    token: Option<HeaderValue>,
}

/// A row as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Row(Vec<u8>);

/// How one request went.
#[derive(Debug)]
pub(crate) struct Answered {
    /// As of any destination.
    pub(crate) outcome: Outcome,
    /// Whether Clay took the row.
    pub(crate) taken: Taken,
    /// What becomes of the URL, where the answer speaks of it and not of the row.
    pub(crate) webhook: Option<WebhookState>,
}

impl ClayTarget {
    pub(super) fn prepare(
        destination: &Destination,
        clay: &ClayDestination,
        guard: Guard,
        client: HttpClient,
    ) -> Result<Self, PrepareError> {
        let name = &destination.name;
        let mut templates = Templates::new();
        let body = compile_body(name, clay, &mut templates)?;
        let prepare = |(at, webhook): (usize, &common::config::ClayWebhook)| {
            let wrong = || PrepareError::Webhook { destination: name.clone(), number: at + 1 };
            let url = Url::parse(webhook.url.expose_secret()).map_err(|_| wrong())?;
            let token = webhook.token.as_ref().map(|token| {
                let mut value = HeaderValue::from_bytes(token.expose_secret().as_bytes()).map_err(|_| wrong())?;
                value.set_sensitive(true);
                Ok::<_, PrepareError>(value)
            });
            Ok((webhook.name.to_string(), Prepared { url, token: token.transpose()? }))
        };
        let pool = Pool {
            destination: name.clone(),
            workspace: destination.workspace.clone().unwrap_or_default(),
            webhooks: clay.webhooks.iter().map(|webhook| webhook.name.to_string()).collect(),
            cap: clay.cap,
            rollover: clay.rollover,
        };
        let webhooks = clay.webhooks.iter().enumerate().map(prepare).collect::<Result<_, PrepareError>>()?;
        let (callback_url, expect_within) = (clay.callback_url.clone(), clay.expect_within);
        let filter = clay.filter.clone();
        Ok(Self { pool, webhooks, body, filter, callback_url, expect_within, templates, guard, client })
    }

    /// The URLs, by name.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// How long after it was sent a row should be back; `None`: nothing is expected back.
    pub(crate) fn expect_within(&self) -> Option<Duration> {
        self.expect_within
    }

    /// The row of a delivery, by its id; `Err`: how its attempt ends, unsent.
    pub(crate) fn build(&self, delivery: &LeasedDelivery, id: RowId) -> Result<Row, Outcome> {
        let mut added = Map::new();
        added.insert(ID_FIELD.to_owned(), json!(id));
        if let Some(callback_url) = &self.callback_url {
            added.insert(callback_url.field.clone(), json!(sign(callback_url, id)));
        }
        // A row that was handed in was tidied then; a second time changes nothing.
        let lead = self.filter.tidied(&delivery.lead);
        let row = match (&self.body, &delivery.row) {
            (None, Some(row)) => written(row, &added),
            (None, None) => with(lead.into_owned(), added),
            (Some(template), _) => match self.templates.render_json(template, &context(delivery, &lead)) {
                Ok(Some(Value::Object(object))) => with(object, added),
                // A template of an object is one.
                Ok(_) => with(Map::new(), added),
                Err(problem) => return Err(unbuilt(&BuildError::Body(problem))),
            },
        };
        if row.len() > ROW_BYTES_MAX {
            let what = format!("the row has {} bytes; Clay takes {ROW_BYTES_MAX}", row.len());
            let mut outcome = Outcome::without_answer(Class::Poison, Some(what));
            outcome.unsendable = Some(Reason::RowTooLarge);
            return Err(outcome);
        }
        Ok(Row(row))
    }

    /// Sends `row` to the URL of that name.
    ///
    /// # Cancel safety
    /// Cancelling closes the connection; Clay may have taken the row.
    pub(crate) async fn post(&self, delivery: &LeasedDelivery, webhook: &str, row: &Row) -> Answered {
        let request = match self.request(delivery, webhook, row) {
            Ok(request) => request,
            Err(error) => return Answered::unasked(unbuilt(&error)),
        };
        match self.client.send(request).await {
            Ok(reply) => judge(reply),
            Err(error) => {
                // Only these are sure to come before the request.
                let unasked = matches!(
                    error,
                    SendError::Refused(_) | SendError::Name | SendError::ConnectTimeout(_) | SendError::Connect(_)
                );
                let taken = if unasked { Taken::No } else { Taken::Unknown };
                Answered { outcome: failed(&error), taken, webhook: None }
            }
        }
    }

    fn request(&self, delivery: &LeasedDelivery, webhook: &str, row: &Row) -> Result<Request, BuildError> {
        let webhook = self.webhooks.get(webhook).ok_or(BuildError::Url)?;
        self.guard.check_url(&webhook.url)?;
        let mut request = Request::new(Method::POST, webhook.url.clone());
        fill_headers(request.headers_mut(), delivery, webhook);
        *request.body_mut() = Some(row.0.clone().into());
        Ok(request)
    }
}

/// The template of the rows; `None`: they are the lead, or what was handed in.
fn compile_body(
    name: &str,
    clay: &ClayDestination,
    templates: &mut Templates,
) -> Result<Option<JsonTemplate>, PrepareError> {
    let Body::Json(body) = &clay.body else { return Ok(None) };
    let compiled = templates.json(body).map_err(|source| PrepareError::Template {
        destination: name.to_owned(),
        what: "body".to_owned(),
        source,
    })?;
    Ok(Some(compiled))
}

/// Shows rows before they are stored.
pub struct RowPreview {
    body: Option<JsonTemplate>,
    templates: Templates,
}

impl RowPreview {
    /// Of one destination.
    ///
    /// # Errors
    /// [`PrepareError::Template`].
    pub fn prepare(name: &str, clay: &ClayDestination) -> Result<Self, PrepareError> {
        let mut templates = Templates::new();
        Ok(Self { body: compile_body(name, clay, &mut templates)?, templates })
    }

    /// `row`, an object that was prepared for storing, as it would be sent. Without what no row has before it is stored:
    /// `claygate_id`, a `callback_url`, and whatever templates see as `claygate`.
    ///
    /// # Errors
    /// [`RenderProblem`] when the template fails on this row.
    pub fn show(&self, row: &[u8]) -> Result<Vec<u8>, RenderProblem> {
        let Some(body) = &self.body else { return Ok(row.to_vec()) };
        // It was checked when it was prepared.
        let lead: Map<String, Value> = serde_json::from_slice(row).unwrap_or_default();
        let context = TemplateValue::from(Serde(json!({ "lead": lead })));
        let shown = self.templates.render_json(body, &context)?;
        Ok(shown.unwrap_or_else(|| json!({})).to_string().into_bytes())
    }
}

fn with(mut object: Map<String, Value>, added: Map<String, Value>) -> Vec<u8> {
    object.extend(added);
    Value::Object(object).to_string().into_bytes()
}

/// A row that was handed in, with `added`; every value of it stays as it is written, so that no digit is lost.
fn written(row: &[u8], added: &Map<String, Value>) -> Vec<u8> {
    // It was checked when it was taken in.
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(row).unwrap_or_default();
    let added: Vec<_> = added.iter().filter_map(|(name, value)| Some((name, to_raw_value(value).ok()?))).collect();
    members.extend(added.iter().map(|(name, value)| ((*name).clone(), value.as_ref())));
    serde_json::to_vec(&members).unwrap_or_default()
}

/// The URL that the row's callback may come to from now on; `None`: the configuration has nothing to sign it with.
fn sign(callback_url: &CallbackUrl, row: RowId) -> Option<String> {
    let signer = callback_url.signer.as_ref()?;
    let expires_at = OffsetDateTime::now_utc().checked_add(callback_url.expires.try_into().ok()?)?;
    Some(sign_url(&signer.base, row, expires_at, &signer.secret).into())
}

fn fill_headers(headers: &mut HeaderMap, delivery: &LeasedDelivery, webhook: &Prepared) {
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Clay does not heed it; whoever looks at a request finds its delivery by it.
    if let Ok(id) = HeaderValue::from_str(&request_id(delivery.id, 0)) {
        headers.insert(IDEMPOTENCY_KEY, id);
    }
    if let Some(token) = &webhook.token {
        headers.insert(TOKEN_HEADER, token.clone());
    }
}

fn context(delivery: &LeasedDelivery, lead: &Map<String, Value>) -> TemplateValue {
    TemplateValue::from(Serde(json!({
        "lead": lead,
        "claygate": ClaygateObject::of(delivery),
    })))
}

impl Answered {
    fn unasked(outcome: Outcome) -> Self {
        Self { outcome, taken: Taken::No, webhook: None }
    }
}

/// What an answer of Clay means. Only a 2xx makes a row; a server that failed, or gave up waiting, may have made one.
fn judge(reply: Reply) -> Answered {
    let webhook = match reply.status {
        401 => Some(WebhookState::Paused),
        403 if says_full(&reply.body) => Some(WebhookState::Full),
        403 => Some(WebhookState::Paused),
        404 | 410 => Some(WebhookState::Dead),
        _ => None,
    };
    let taken = match reply.status {
        200..=299 => Taken::Yes,
        429 | 300..=407 | 409..=499 => Taken::No,
        _ => Taken::Unknown,
    };
    let answer = Answer { status: reply.status, body: &reply.body, has_retry_after: reply.retry_after.is_some() };
    let none = StatusSet::default();
    let class = classify(answer, Dialect::Status, &none, &none);
    let mut outcome = Outcome::without_answer(class, explain(class, reply.status));
    outcome.status = Some(reply.status);
    outcome.retry_after = reply.retry_after;
    if reply.status == 429 {
        // The workspace is at its limit, which says nothing of this row.
        outcome.counts = false;
        outcome.retry_after = Some(reply.retry_after.unwrap_or_default().max(THROTTLED_FOR));
    }
    outcome.response = reply.body;
    outcome.response.truncate(RESPONSE_KEPT_BYTES);
    Answered { outcome, taken, webhook }
}

fn says_full(body: &[u8]) -> bool {
    String::from_utf8_lossy(body).to_ascii_lowercase().contains(FULL)
}

#[cfg(test)]
mod tests {
    use super::super::client::BodyEnd;
    use super::*;

    fn answered(status: u16, body: &str, retry_after: Option<u64>) -> Answered {
        judge(Reply {
            status,
            body: body.as_bytes().to_vec(),
            end: BodyEnd::Complete,
            retry_after: retry_after.map(Duration::from_secs),
        })
    }

    #[test]
    fn every_answer_speaks_of_the_row_the_workspace_or_the_url() {
        use WebhookState::{Dead, Full, Paused};
        let table = [
            (200, Class::Delivered, Taken::Yes, None),
            (202, Class::Delivered, Taken::Yes, None),
            (400, Class::Permanent, Taken::No, None),
            (401, Class::Unauthorized, Taken::No, Some(Paused)),
            (403, Class::Unauthorized, Taken::No, Some(Paused)),
            (404, Class::Permanent, Taken::No, Some(Dead)),
            (408, Class::Transient, Taken::Unknown, None),
            (410, Class::Gone, Taken::No, Some(Dead)),
            (413, Class::Permanent, Taken::No, None),
            (429, Class::Throttled, Taken::No, None),
            (500, Class::Transient, Taken::Unknown, None),
            (504, Class::Transient, Taken::Unknown, None),
        ];
        for (status, class, taken, webhook) in table {
            let answered = answered(status, "", None);
            assert_eq!((answered.outcome.class, answered.taken, answered.webhook), (class, taken, webhook), "{status}");
        }
        assert_eq!(answered(403, "{\"message\":\"Record limit reached for webhook\"}", None).webhook, Some(Full));
    }

    #[test]
    fn a_limit_uses_no_attempt_and_is_waited_for() {
        for (asked, expected) in [(None, 1), (Some(0), 1), (Some(1), 1), (Some(7), 7)] {
            let outcome = answered(429, "", asked).outcome;
            assert!(!outcome.counts);
            assert_eq!(outcome.retry_after, Some(Duration::from_secs(expected)));
        }
    }
}
