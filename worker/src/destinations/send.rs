//! One attempt at an HTTP destination: its steps in order, each answered before the next is sent.
//!
//! What steps captured is kept as `{"step": <steps done>, "values": {…}}` with the delivery, so that a retry goes on
//! where the last attempt ended and sends no finished step again.

use common::config::{Destination, DestinationKind, StatusSet};
use common::states::{Class, Reason};
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use serde_json::{Map, Value, json};

use super::classify::{Answer, Dialect, classify};
use super::client::{BodyEnd, HttpClient, Reply, SendError};
use super::guard::Guard;
use super::request::{BuildError, Builder, PreparedStep, auth_header};
use super::signing::Signer;
use super::template::Templates;
use super::{Outcome, PrepareError, RESPONSE_KEPT_BYTES, too_short};
use crate::lanes::LeasedDelivery;

/// Largest captured value, as JSON.
const CAPTURED_MAX: usize = 4096;

/// An HTTP destination, ready to be sent to.
pub struct HttpTarget {
    steps: Vec<PreparedStep>,
    templates: Templates,
    auth: Option<(HeaderName, HeaderValue)>,
    signer: Option<Signer>,
    dialect: Dialect,
    success: StatusSet,
    terminal: StatusSet,
    guard: Guard,
    client: HttpClient,
}

/// How far the steps of a delivery are.
struct Progress {
    done: usize,
    values: Map<String, Value>,
}

impl Progress {
    fn read(captured: &Value) -> Self {
        let done = captured.get("step").and_then(Value::as_u64).and_then(|done| usize::try_from(done).ok());
        let values = captured.get("values").and_then(Value::as_object).cloned();
        Self { done: done.unwrap_or(0), values: values.unwrap_or_default() }
    }

    fn to_json(&self) -> Value {
        json!({ "step": self.done, "values": self.values })
    }
}

impl HttpTarget {
    pub(super) fn prepare(destination: &Destination, guard: Guard, client: HttpClient) -> Result<Self, PrepareError> {
        let name = &destination.name;
        let mut target = Self {
            steps: Vec::new(),
            templates: Templates::new(),
            auth: None,
            signer: None,
            dialect: Dialect::Status,
            success: StatusSet::default(),
            terminal: StatusSet::default(),
            guard,
            client,
        };
        match &destination.kind {
            DestinationKind::Http(http) => {
                for step in &http.steps {
                    target.steps.push(PreparedStep::prepare(name, step, &mut target.templates)?);
                }
                target.auth = http.auth.as_ref().map(|auth| auth_header(name, auth)).transpose()?;
                target.signer = http
                    .signing_secret
                    .as_ref()
                    .map(Signer::new)
                    .transpose()
                    .map_err(|source| PrepareError::Secret { destination: name.clone(), source })?;
                target.success = http.success.clone();
                target.terminal = http.terminal.clone();
            }
            DestinationKind::Slack(slack) => {
                let (url, text) = (slack.url.expose_secret(), slack.text.as_deref());
                target.steps.push(PreparedStep::prepare_slack(name, url, text, &mut target.templates)?);
                target.dialect = Dialect::Slack;
            }
            DestinationKind::Clay(_) | DestinationKind::Log => {}
        }
        Ok(target)
    }

    pub(super) async fn send(&self, delivery: &LeasedDelivery, has_time: &(dyn Fn() -> bool + Send + Sync)) -> Outcome {
        let mut progress = Progress::read(&delivery.captured);
        let remembers = self.steps.len() > 1;
        let mut last = Outcome::without_answer(Class::Delivered, None);
        while progress.done < self.steps.len() {
            if !has_time() {
                last = too_short();
                last.step = progress.done;
                break;
            }
            last = self.send_step(delivery, &mut progress).await;
            if last.class != Class::Delivered {
                break;
            }
        }
        last.captured = remembers.then(|| progress.to_json());
        last
    }

    /// One request. On success the step counts as done and its captures are in `progress`.
    async fn send_step(&self, delivery: &LeasedDelivery, progress: &mut Progress) -> Outcome {
        let number = progress.done;
        let step = &self.steps[number];
        let builder = Builder {
            delivery,
            templates: &self.templates,
            auth: self.auth.as_ref(),
            signer: self.signer.as_ref(),
            guard: &self.guard,
        };
        let mut outcome = match builder.build(step, number, &progress.values) {
            Ok(request) => match self.client.send(request).await {
                Ok(reply) => self.judge(step, reply, progress),
                Err(error) => failed(&error),
            },
            Err(error) => unbuilt(&error),
        };
        outcome.step = number;
        outcome
    }

    fn judge(&self, step: &PreparedStep, reply: Reply, progress: &mut Progress) -> Outcome {
        let answer = Answer { status: reply.status, body: &reply.body, has_retry_after: reply.retry_after.is_some() };
        let class = classify(answer, self.dialect, &self.success, &self.terminal);
        let mut outcome = Outcome::without_answer(class, explain(class, reply.status));
        outcome.status = Some(reply.status);
        outcome.retry_after = reply.retry_after;
        if class == Class::Delivered {
            match capture(step, &reply) {
                Ok(values) => {
                    progress.values.extend(values);
                    progress.done += 1;
                }
                Err(problem) => {
                    outcome.class = problem.class;
                    outcome.error = Some(problem.text);
                }
            }
        }
        outcome.response = reply.body;
        outcome.response.truncate(RESPONSE_KEPT_BYTES);
        outcome
    }
}

struct CaptureProblem {
    class: Class,
    text: String,
}

/// The values that the step's pointers name in the answer. A value that is not there cannot be made up, and asking
/// again would do the step twice: the delivery ends. Only where the answer broke off on its way is the step repeated.
fn capture(step: &PreparedStep, reply: &Reply) -> Result<Vec<(String, Value)>, CaptureProblem> {
    if step.capture.is_empty() {
        return Ok(Vec::new());
    }
    let permanent = |text: String| CaptureProblem { class: Class::Permanent, text };
    let body: Value = match reply.end {
        BodyEnd::Complete => serde_json::from_slice(&reply.body)
            .map_err(|_| permanent("the answer to capture from is not JSON".to_owned()))?,
        BodyEnd::TooLarge => return Err(permanent("the answer to capture from is too large".to_owned())),
        BodyEnd::BrokenOff => {
            let text = "the answer to capture from broke off".to_owned();
            return Err(CaptureProblem { class: Class::Transient, text });
        }
    };
    step.capture
        .iter()
        .map(|(name, pointer)| match body.pointer(pointer) {
            None | Some(Value::Null) => Err(permanent(format!("the answer has no value to capture as `{name}`"))),
            Some(value) if value.to_string().len() > CAPTURED_MAX => {
                Err(permanent(format!("the value to capture as `{name}` is too large")))
            }
            Some(value) => Ok((name.clone(), value.clone())),
        })
        .collect()
}

pub(super) fn explain(class: Class, status: u16) -> Option<String> {
    match (class, status) {
        (Class::Delivered, _) => None,
        (_, 300..=399) => {
            Some(format!("answered with the redirect {status}, which is never followed: configure the final URL"))
        }
        _ => Some(format!("answered {status}")),
    }
}

pub(super) fn failed(error: &SendError) -> Outcome {
    let class = match error {
        SendError::Refused(_) => Class::Permanent,
        SendError::Name
        | SendError::ConnectTimeout(_)
        | SendError::Connect(_)
        | SendError::Timeout(_)
        | SendError::Broken(_) => Class::Transient,
    };
    Outcome::without_answer(class, Some(error.to_string()))
}

pub(super) fn unbuilt(error: &BuildError) -> Outcome {
    let refused = matches!(error, BuildError::Refused(_));
    let class = if refused { Class::Permanent } else { Class::Poison };
    let mut outcome = Outcome::without_answer(class, Some(error.to_string()));
    outcome.unsendable = (!refused).then_some(Reason::Unsendable);
    outcome
}
