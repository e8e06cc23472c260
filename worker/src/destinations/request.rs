//! One request of one delivery: URL, headers and body out of their templates.

use std::cell::LazyCell;

use common::config::{Auth, Body, Step};
use common::ids::{CallbackId, DeliveryId, RowId};
use minijinja::Value as TemplateValue;
use minijinja::value::Serde;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Method, Request};
use secrecy::ExposeSecret;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use url::Url;

use super::guard::{Guard, Refused};
use super::signing::{Signer, request_id};
use super::template::{Escape, JsonTemplate, RenderProblem, TemplateProblem, Templates, Text};
use super::{PrepareError, slack};
use crate::lanes::LeasedDelivery;

pub(super) const AGENT: &str = concat!("claygate/", env!("CARGO_PKG_VERSION"));
/// Most bytes of a request's body.
const BODY_MAX: usize = 8 * 1024 * 1024;

/// Why a request could not be built from a lead. Carries nothing of the lead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BuildError {
    #[error("the URL could not be built: {0}")]
    UrlTemplate(RenderProblem),
    #[error("the URL is not a valid http or https URL for this lead")]
    Url,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the header `{0}` could not be built for this lead")]
    Header(String),
    #[error("the body could not be built: {0}")]
    Body(RenderProblem),
    #[error("the body is larger than {BODY_MAX} bytes")]
    TooLarge,
}

/// One step, compiled.
pub(super) struct PreparedStep {
    method: Method,
    url: PreparedUrl,
    headers: Vec<(HeaderName, Text)>,
    body: PreparedBody,
    /// Name and JSON pointer.
    pub(super) capture: Vec<(String, String)>,
}

enum PreparedUrl {
    /// The same for every lead; `None`: it is not a URL.
    Fixed(Option<Url>),
    Template(Text),
}

impl PreparedUrl {
    fn of(text: Text) -> Self {
        match text {
            Text::Literal(url) => Self::Fixed(Url::parse(&url).ok()),
            template @ Text::Template(_) => Self::Template(template),
        }
    }
}

enum PreparedBody {
    Lead,
    Json(JsonTemplate),
    Text {
        text: Text,
        content_type: HeaderValue,
    },
    /// `{"text": …}`; `None`: the default text.
    Slack(Option<Text>),
    Empty,
}

impl PreparedStep {
    pub(super) fn prepare(destination: &str, step: &Step, templates: &mut Templates) -> Result<Self, PrepareError> {
        let problem = |what: &str| {
            let (destination, what) = (destination.to_owned(), what.to_owned());
            move |source: TemplateProblem| PrepareError::Template { destination, what, source }
        };
        let method = Method::from_bytes(step.method.as_bytes())
            .map_err(|_| PrepareError::Method { destination: destination.to_owned() })?;
        let url = templates.text(step.url.expose_secret(), Escape::Url).map_err(problem("url"))?;
        let headers = step
            .headers
            .iter()
            .map(|(name, value)| {
                let text = templates.text(value.expose_secret(), Escape::Plain).map_err(problem("headers"))?;
                Ok((header_name(destination, name)?, text))
            })
            .collect::<Result<_, PrepareError>>()?;
        let body = match &step.body {
            Body::Lead => PreparedBody::Lead,
            Body::Json(body) => PreparedBody::Json(templates.json(body).map_err(problem("body"))?),
            Body::Text { template, content_type } => PreparedBody::Text {
                text: templates.text(template, Escape::Plain).map_err(problem("body_text"))?,
                content_type: header_value(destination, "content-type", content_type)?,
            },
            Body::Empty => PreparedBody::Empty,
        };
        let capture = step.capture.iter().map(|(name, pointer)| (name.clone(), pointer.clone())).collect();
        Ok(Self { method, url: PreparedUrl::of(url), headers, body, capture })
    }

    /// The one step of a Slack webhook.
    pub(super) fn prepare_slack(
        destination: &str,
        url: &str,
        text: Option<&str>,
        templates: &mut Templates,
    ) -> Result<Self, PrepareError> {
        let text = text.map(|text| templates.text(text, Escape::Slack)).transpose().map_err(|source| {
            PrepareError::Template { destination: destination.to_owned(), what: "text".to_owned(), source }
        })?;
        let url = PreparedUrl::of(Text::Literal(url.to_owned()));
        let body = PreparedBody::Slack(text);
        Ok(Self { method: Method::POST, url, headers: Vec::new(), body, capture: Vec::new() })
    }
}

/// Credentials as a header.
pub(super) fn auth_header(destination: &str, auth: &Auth) -> Result<(HeaderName, HeaderValue), PrepareError> {
    let (name, value) = match auth {
        Auth::Bearer(token) => (AUTHORIZATION, format!("Bearer {}", token.expose_secret())),
        Auth::Basic { username, password } => {
            use base64::Engine as _;
            let pair = format!("{username}:{}", password.expose_secret());
            (AUTHORIZATION, format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
        }
        Auth::Header { name, value } => (header_name(destination, name)?, value.expose_secret().to_owned()),
    };
    let mut header = header_value(destination, name.as_str(), &value)?;
    header.set_sensitive(true);
    Ok((name, header))
}

fn header_name(destination: &str, name: &str) -> Result<HeaderName, PrepareError> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| PrepareError::Header { destination: destination.to_owned(), header: name.to_owned() })
}

fn header_value(destination: &str, name: &str, value: &str) -> Result<HeaderValue, PrepareError> {
    HeaderValue::from_bytes(value.as_bytes())
        .map_err(|_| PrepareError::Header { destination: destination.to_owned(), header: name.to_owned() })
}

/// What templates see. Most destinations have none, so it is made when the first one is filled in.
type Context<F> = LazyCell<TemplateValue, F>;

/// What all steps of one attempt are built from.
pub(super) struct Builder<'a> {
    pub(super) delivery: &'a LeasedDelivery,
    pub(super) templates: &'a Templates,
    pub(super) auth: Option<&'a (HeaderName, HeaderValue)>,
    pub(super) signer: Option<&'a Signer>,
    pub(super) guard: &'a Guard,
}

impl Builder<'_> {
    /// The request of step `number`, with what was captured so far.
    pub(super) fn build(
        &self,
        step: &PreparedStep,
        number: usize,
        captured: &Map<String, Value>,
    ) -> Result<Request, BuildError> {
        let context = Context::new(|| self.context(captured));
        let url = match &step.url {
            PreparedUrl::Fixed(url) => url.clone().ok_or(BuildError::Url)?,
            PreparedUrl::Template(text) => {
                let url = self.render(text, &context).map_err(BuildError::UrlTemplate)?;
                Url::parse(&url).map_err(|_| BuildError::Url)?
            }
        };
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(BuildError::Url);
        }
        self.guard.check_url(&url)?;
        let (body, content_type) = self.body(step, &context)?;
        let mut request = Request::new(step.method.clone(), url);
        self.fill_headers(request.headers_mut(), step, &context, content_type)?;
        self.add_webhook_headers(request.headers_mut(), number, &body)?;
        if !matches!(step.body, PreparedBody::Empty) {
            *request.body_mut() = Some(body.into());
        }
        Ok(request)
    }

    fn context(&self, captured: &Map<String, Value>) -> TemplateValue {
        TemplateValue::from(Serde(json!({
            "lead": self.delivery.lead.as_ref(),
            "captured": captured,
            "claygate": ClaygateObject::of(self.delivery),
        })))
    }

    fn render<F: FnOnce() -> TemplateValue>(&self, text: &Text, context: &Context<F>) -> Result<String, RenderProblem> {
        match text {
            Text::Literal(text) => Ok(text.clone()),
            Text::Template(_) => self.templates.render(text, context),
        }
    }

    fn body<F: FnOnce() -> TemplateValue>(
        &self,
        step: &PreparedStep,
        context: &Context<F>,
    ) -> Result<(Vec<u8>, Option<HeaderValue>), BuildError> {
        const JSON: HeaderValue = HeaderValue::from_static("application/json");
        let (body, content_type) = match &step.body {
            PreparedBody::Empty => (Vec::new(), None),
            PreparedBody::Lead => (to_bytes(&DefaultBody(self.delivery)), Some(JSON)),
            PreparedBody::Json(template) => {
                let body = self.templates.render_json(template, context).map_err(BuildError::Body)?;
                (to_bytes(&body.unwrap_or(Value::Null)), Some(JSON))
            }
            PreparedBody::Slack(template) => {
                let text = match template {
                    Some(text) => self.render(text, context).map_err(BuildError::Body)?,
                    None => slack::default_text(&self.delivery.lead),
                };
                (to_bytes(&json!({ "text": text })), Some(JSON))
            }
            PreparedBody::Text { text, content_type } => {
                let text = self.render(text, context).map_err(BuildError::Body)?;
                (text.into_bytes(), Some(content_type.clone()))
            }
        };
        if body.len() > BODY_MAX {
            return Err(BuildError::TooLarge);
        }
        Ok((body, content_type))
    }

    /// Ours first, so that the destination's own may replace them; credentials last.
    fn fill_headers<F: FnOnce() -> TemplateValue>(
        &self,
        headers: &mut HeaderMap,
        step: &PreparedStep,
        context: &Context<F>,
        content_type: Option<HeaderValue>,
    ) -> Result<(), BuildError> {
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, content_type);
        }
        for (name, text) in &step.headers {
            let refused = || BuildError::Header(name.to_string());
            let value = self.render(text, context).map_err(|_| refused())?;
            let mut value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| refused())?;
            value.set_sensitive(true);
            headers.insert(name.clone(), value);
        }
        if let Some((name, value)) = self.auth {
            headers.insert(name.clone(), value.clone());
        }
        Ok(())
    }

    fn add_webhook_headers(&self, headers: &mut HeaderMap, number: usize, body: &[u8]) -> Result<(), BuildError> {
        let id = request_id(self.delivery.id, number);
        let timestamp = OffsetDateTime::now_utc().unix_timestamp();
        let mut insert = |name: &'static str, value: &str| -> Result<(), BuildError> {
            let value = HeaderValue::from_str(value).map_err(|_| BuildError::Header(name.to_owned()))?;
            headers.insert(name, value);
            Ok(())
        };
        insert("idempotency-key", &id)?;
        insert("webhook-id", &id)?;
        insert("webhook-timestamp", &timestamp.to_string())?;
        if let Some(signer) = self.signer {
            insert("webhook-signature", &signer.sign(&id, timestamp, body))?;
        }
        Ok(())
    }
}

/// The lead with a `claygate` object beside its fields.
struct DefaultBody<'a>(&'a LeasedDelivery);

impl Serialize for DefaultBody<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const OURS: &str = "claygate";
        let mut body = serializer.serialize_map(None)?;
        for (field, value) in self.0.lead.iter().filter(|(field, _)| *field != OURS) {
            body.serialize_entry(field, value)?;
        }
        body.serialize_entry(OURS, &ClaygateObject::of(self.0))?;
        body.end()
    }
}

/// What templates and the default body see as `claygate`.
#[derive(Serialize)]
pub(super) struct ClaygateObject<'a> {
    attempt: i32,
    callback_id: Option<CallbackId>,
    delivery_id: DeliveryId,
    destination: &'a str,
    received_at: Option<String>,
    replay: i32,
    row_id: Option<RowId>,
    rule: Option<&'a str>,
    source: &'a str,
}

impl<'a> ClaygateObject<'a> {
    pub(super) fn of(delivery: &'a LeasedDelivery) -> Self {
        Self {
            attempt: delivery.attempts.saturating_add(1),
            callback_id: delivery.callback_id,
            delivery_id: delivery.id,
            destination: &delivery.destination,
            received_at: delivery.received_at.format(&Rfc3339).ok(),
            replay: delivery.replay,
            row_id: delivery.row_id,
            rule: delivery.rule.as_deref(),
            source: &delivery.source,
        }
    }
}

fn to_bytes(body: &impl Serialize) -> Vec<u8> {
    // Keys are strings and numbers are JSON's own: nothing of it can fail.
    serde_json::to_vec(body).unwrap_or_default()
}
