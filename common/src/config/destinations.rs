//! `[destinations.<name>]`: where leads go, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::clay::{ClayDestination, read_clay};
use super::http::{check_url, read_http, warn_of_private};
use super::read::Reader;
use super::values::check_name;

/// One destination.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The destination's name, `[a-z][a-z0-9_-]*`.
    pub name: String,
    /// What is sent, and where to.
    pub kind: DestinationKind,
    /// Requests in flight per process, at least 1.
    pub concurrency: usize,
    /// A rate that holds over all workers; `None`: unlimited. Of a `clay` destination: what is planned with, which is less
    /// than what Clay allows, and shared by its workspace.
    pub rate: Option<Rate>,
    /// Total time of one request, connect included.
    pub timeout: Duration,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// The waits between attempts; a delivery has `retries.len() + 1` attempts.
    pub retries: Vec<Duration>,
    /// The cool-down: the same person is not sent here again within it.
    pub once_per: Option<Duration>,
    /// May resolve to private and loopback addresses.
    pub allow_private: bool,
    /// The Clay workspace behind it, for the loop guard.
    pub workspace: Option<String>,
    /// A lead that came back from a row of `workspace` may be sent here again.
    pub allow_loop: bool,
    /// When to stop trying for a while.
    pub breaker: BreakerConfig,
}

/// The kinds of destination.
#[derive(Clone, Debug)]
pub enum DestinationKind {
    /// A generic HTTP request.
    Http(Box<HttpDestination>),
    /// A Slack incoming webhook.
    Slack(SlackDestination),
    /// A table of Clay.
    Clay(Box<ClayDestination>),
    /// Records only; no request.
    Log,
}

/// A generic HTTP request.
#[derive(Clone, Debug)]
pub struct HttpDestination {
    /// The requests, in order. Never empty: without `steps` the destination's own keys are the only one.
    pub steps: Vec<Step>,
    /// Credentials.
    pub auth: Option<Auth>,
    /// Statuses that count as delivered, beside those of 2xx.
    pub success: StatusSet,
    /// Statuses that no retry can help, beside the default ones.
    pub terminal: StatusSet,
    /// A `whsec_…` secret: requests carry a Standard Webhooks signature.
    pub signing_secret: Option<SecretString>,
}

/// One request of an HTTP destination.
#[derive(Clone, Debug)]
pub struct Step {
    /// Method, upper case.
    pub method: String,
    /// The URL; a template over `lead`, `captured` and `claygate`. Secret, since keys may stand in its query.
    pub url: SecretString,
    /// Header names (lower case) and their values, templates too.
    pub headers: BTreeMap<String, SecretString>,
    /// What is sent.
    pub body: Body,
    /// JSON pointers into the answer whose values later steps and retries see as `captured.<name>`.
    pub capture: BTreeMap<String, String>,
}

/// What a request's body is made of.
#[derive(Clone, PartialEq)]
pub enum Body {
    /// The normalised lead plus `{"claygate": {callback_id, delivery_id, rule, …}}`.
    Lead,
    /// A JSON structure whose string leaves are templates; a leaf that is one expression keeps its type.
    Json(serde_json::Value),
    /// One template for the whole body, sent as `content-type`.
    Text {
        /// The template.
        template: String,
        /// The content type.
        content_type: String,
    },
    /// No body.
    Empty,
}

impl fmt::Debug for Body {
    /// The kind alone: what was filled in from variables may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lead => "Lead",
            Self::Json(_) => "Json(..)",
            Self::Text { .. } => "Text { .. }",
            Self::Empty => "Empty",
        })
    }
}

/// Credentials of an HTTP destination.
#[derive(Clone, Debug)]
pub enum Auth {
    /// `Authorization: Bearer <token>`.
    Bearer(SecretString),
    /// HTTP Basic.
    Basic {
        /// User name, may be empty.
        username: String,
        /// Password.
        password: SecretString,
    },
    /// A secret in a header of its own.
    Header {
        /// Header name, lower case.
        name: String,
        /// Its value.
        value: SecretString,
    },
}

/// A Slack incoming webhook.
#[derive(Clone, Debug)]
pub struct SlackDestination {
    /// The webhook's URL, which is the secret.
    pub url: SecretString,
    /// A template for the text; `None`: name, title, company, score.
    pub text: Option<String>,
}

/// HTTP statuses, as single ones and ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusSet(pub Vec<std::ops::RangeInclusive<u16>>);

impl StatusSet {
    /// Whether `status` is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

/// A rate limit with its burst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests per second, above 0.
    pub per_second: f64,
    /// How many may go at once after a quiet time, at least 1.
    pub burst: u32,
}

/// When a destination is left alone for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it; 0: never.
    pub failures: u32,
    /// How long it stays open the first time; doubles up to `open_max`.
    pub open: Duration,
    /// The longest it stays open.
    pub open_max: Duration,
}

/// Most waits between attempts.
const RETRIES_MAX: usize = 32;

pub(super) fn read_destination(name: &str, reader: &Reader<'_>) -> Destination {
    if let Err(what) = check_name(name) {
        reader.context.problem(reader.path(), String::new(), format!("\"{name}\" {what}"));
    }
    let kind = read_kind(reader);
    reader.check_keys(kind.as_deref());
    // A `clay` destination's holds where rows are taken in, too.
    let is_strict = reader.strict || kind.as_deref() == Some("clay");
    let once_per = reader.clone().with_strict(is_strict).duration("once_per");
    let mut destination = Destination {
        name: name.to_owned(),
        kind: DestinationKind::Log,
        concurrency: 1,
        rate: None,
        timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(5),
        retries: Vec::new(),
        once_per,
        allow_private: false,
        workspace: None,
        allow_loop: false,
        breaker: BreakerConfig { failures: 0, open: Duration::from_secs(30), open_max: Duration::from_secs(600) },
    };
    match kind.as_deref().unwrap_or_default() {
        "http" => {
            read_requests(reader, &mut destination, None);
            destination.workspace = reader.text("workspace");
            destination.allow_loop = reader.truth("allow_loop");
            let http = read_http(reader);
            if !destination.allow_private {
                warn_of_private(reader, http.steps.iter().map(|step| &step.url));
            }
            destination.kind = DestinationKind::Http(Box::new(http));
            if once_per.is_none() && reader.strict {
                reader.context.warn(format!(
                    "{}: no once_per: a lead that is enriched again is sent again; say for example once_per = \"30d\"",
                    reader.path()
                ));
            }
        }
        "slack" => {
            // Slack takes one message per second and webhook.
            read_requests(reader, &mut destination, Some(Rate { per_second: 1.0, burst: 1 }));
            let slack = read_slack(reader);
            if !destination.allow_private {
                warn_of_private(reader, std::iter::once(&slack.url));
            }
            destination.kind = DestinationKind::Slack(slack);
        }
        "clay" => read_clay(reader, &mut destination),
        _ => {}
    }
    destination
}

fn read_kind(reader: &Reader<'_>) -> Option<String> {
    reader.choice("kind")
}

/// What every kind that makes requests has.
pub(super) fn read_requests(reader: &Reader<'_>, destination: &mut Destination, default_rate: Option<Rate>) {
    destination.concurrency = reader.integer("concurrency");
    destination.timeout = reader.duration("timeout").unwrap_or_default();
    destination.connect_timeout = reader.duration("connect_timeout").unwrap_or_default();
    destination.retries = reader.durations("retries");
    destination.allow_private = reader.truth("allow_private");
    destination.breaker = read_breaker(&reader.table("breaker"));
    let burst: u32 = reader.integer("burst");
    destination.rate = reader.rate("rate").or(default_rate);
    match &mut destination.rate {
        Some(rate) if burst > 0 => rate.burst = burst,
        None if burst > 0 => reader.wrong("burst", "has no meaning without rate: add rate, for example \"10/s\""),
        _ => {}
    }
    if destination.connect_timeout > destination.timeout && reader.has("connect_timeout") {
        reader.wrong("connect_timeout", "is longer than timeout: lower it or raise timeout");
    }
    destination.connect_timeout = destination.connect_timeout.min(destination.timeout);
    if destination.retries.len() > RETRIES_MAX {
        reader.wrong("retries", format!("has more than {RETRIES_MAX} entries"));
    }
}

fn read_breaker(reader: &Reader<'_>) -> BreakerConfig {
    let breaker = BreakerConfig {
        failures: reader.integer("failures"),
        open: reader.duration("open").unwrap_or_default(),
        open_max: reader.duration("open_max").unwrap_or_default(),
    };
    if breaker.open > breaker.open_max {
        reader.wrong("open", "is longer than open_max: lower it or raise open_max");
    }
    breaker
}

fn read_slack(reader: &Reader<'_>) -> SlackDestination {
    if !reader.has("url") {
        reader.wrong("url", "is missing: the incoming webhook's URL, for example \"${SLACK_WEBHOOK_URL}\"");
    }
    let url = reader.secret("url").unwrap_or_default();
    if url.expose_secret().contains("{{") {
        reader.wrong("url", "is not a template in a slack destination");
    } else {
        check_url(reader, "url", &url);
    }
    SlackDestination { url, text: reader.text("text") }
}
