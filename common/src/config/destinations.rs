//! `[destinations.<name>]`: where leads go, and how.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;

/// One destination.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The destination's name, `[a-z][a-z0-9_-]*`.
    pub name: String,
    /// What is sent, and where to.
    pub kind: DestinationKind,
    /// Requests in flight per process, at least 1.
    pub concurrency: usize,
    /// A rate that holds over all workers; `None`: unlimited.
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
#[derive(Clone, Debug, PartialEq)]
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
