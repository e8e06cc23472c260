//! `[destinations.<name>]`: where leads go, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::callback_url::CALLBACK_URL;
use super::clay::{ClayDestination, WEBHOOK, read_clay};
use super::filter::FILTER;
use super::http::{AUTH, STEP, check_url, read_http, warn_of_private};
use super::read::Reader;
use super::schema::{Key, Kind, Preset, Section};
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

/// What can be sent to.
const KINDS: &[&str] = &["http", "slack", "clay", "log"];
const HTTP: &[&str] = &["http"];
const SLACK: &[&str] = &["slack"];
const CLAY: &[&str] = &["clay"];
/// The kinds with one URL.
const ONE_URL: &[&str] = &["http", "slack"];
/// The kinds that may be a Clay workspace, and have a body of the user's own.
const WORKSPACE: &[&str] = &["http", "clay"];
/// The kinds that make requests.
const REQUESTS: &[&str] = &["http", "slack", "clay"];

const DAY: u64 = 86_400;

pub(super) static DESTINATION: Section = Section {
    title: "[destinations.<name>]",
    doc: "Where leads go. Templates (`{{ lead.email }}`) see `lead`, `claygate` and, in later steps, `captured`.",
    keys: &[
        Key::new(
            "kind",
            Kind::OneOf(KINDS),
            Preset::Required,
            "`http`: a request of any form. `slack`: an incoming webhook. `clay`: rows into a table of Clay. `log`: records \
             only, no request.",
        ),
        Key::new(
            "url",
            Kind::Secret,
            Preset::Said("none"),
            "The URL; for `http` a template too. Required unless there are `steps`. Never shown: keys may stand in it.",
        )
        .only(ONE_URL),
        Key::new(
            "webhooks",
            Kind::Tables(&WEBHOOK),
            Preset::Required,
            "The webhook URLs of the table, in the order in which they are used: `[{ url = \"${CLAY_WEBHOOK_1}\", token = \
             \"${CLAY_TOKEN_1}\" }]`. When one is used up, the next one takes over.",
        )
        .only(CLAY),
        Key::new(
            "cap",
            Kind::Limit { max: 1_000_000_000 },
            Preset::Is("50000"),
            "Submissions that Clay takes per webhook URL, ever; `\"none\"` for a table with auto-delete (Enterprise).",
        )
        .only(CLAY),
        Key::new(
            "rollover",
            Kind::Integer { min: 1, max: 1_000_000_000 },
            Preset::Said("90 % of `cap`, so 45000"),
            "Submissions after which the next URL takes over. What is left up to `cap` is used when every URL is there.",
        )
        .only(CLAY),
        Key::new("method", Kind::OneOf(super::http::METHODS), Preset::Is("POST"), "The method.").only(HTTP),
        Key::new("headers", Kind::SecretTable, Preset::Said("none"), "Headers and their values, which are templates.")
            .only(HTTP),
        Key::new("auth", Kind::Table(&AUTH), Preset::Said("none"), "").only(HTTP),
        Key::new(
            "body",
            Kind::Structure,
            Preset::Said("the lead plus `claygate`"),
            "What is sent as JSON: a structure whose strings are templates; one that is a single expression keeps its \
             type. Left out: the normalised lead plus `{\"claygate\": {callback_id, delivery_id, rule, …}}`; with GET \
             and DELETE nothing. In a `clay` destination it is a table: left out, the lead's or the row's own fields; \
             `claygate_id` is always added. Numbers in it have 64 bits: `1.10` becomes `1.1`, and what is longer than 19 \
             digits loses the last ones.",
        )
        .only(WORKSPACE),
        Key::new(
            "body_text",
            Kind::Text,
            Preset::Said("none"),
            "In place of `body`: one template for the whole body; `\"\"` sends none.",
        )
        .only(HTTP),
        Key::new("content_type", Kind::Text, Preset::Said("`text/plain`"), "The content type of `body_text`.")
            .only(HTTP),
        Key::new(
            "steps",
            Kind::Tables(&STEP),
            Preset::Said("none"),
            "Several requests in order, in place of `url`, `method`, `headers`, `body` and `body_text` here.",
        )
        .only(HTTP),
        Key::new("success", Kind::Statuses, Preset::Said("none"), "Statuses that count as delivered beside 2xx.")
            .only(HTTP),
        Key::new(
            "terminal",
            Kind::Statuses,
            Preset::Said("none"),
            "Statuses that no retry can help, beside 400, 404, 413, 415 and 422.",
        )
        .only(HTTP),
        Key::new(
            "signing_secret",
            Kind::Secret,
            Preset::Said("none"),
            "`whsec_<base64>`: requests carry a Standard Webhooks signature.",
        )
        .only(HTTP),
        Key::new("text", Kind::Text, Preset::Said("name, title, company, score"), "A template for the message.")
            .only(SLACK),
        Key::new(
            "once_per",
            Kind::Duration { min: Duration::from_secs(1), max: Duration::from_secs(3_650 * DAY) },
            Preset::Said("none"),
            "The cool-down: the same person (email, else LinkedIn URL, else company domain and name) is not sent here \
             again within it.",
        ),
        Key::new(
            "concurrency",
            Kind::Integer { min: 1, max: 1_000 },
            Preset::Is("8"),
            "Requests in flight per process.",
        )
        .only(REQUESTS),
        Key::new(
            "rate",
            Kind::Rate,
            Preset::Said("clay: 10/s; slack: 1/s; http: none"),
            "A rate that holds over all workers, and over restarts. Of a `clay` destination: what Clay allows the workspace; \
             97 % of it and 90 % of the burst are planned with, since requests do not arrive as evenly as they are sent.",
        )
        .only(REQUESTS),
        Key::new(
            "burst",
            Kind::Integer { min: 1, max: 100_000 },
            Preset::Said("one second's worth; clay without `rate`: 20"),
            "How many requests may go at once after a quiet time. Only with `rate`, or in a `clay` destination.",
        )
        .only(REQUESTS),
        Key::new(
            "timeout",
            Kind::Duration { min: Duration::from_millis(50), max: Duration::from_secs(300) },
            Preset::Is("30s"),
            "Total time of one request.",
        )
        .only(REQUESTS),
        Key::new(
            "connect_timeout",
            Kind::Duration { min: Duration::from_millis(50), max: Duration::from_secs(60) },
            Preset::Is("5s"),
            "Time to connect; not longer than `timeout`.",
        )
        .only(REQUESTS),
        Key::new(
            "retries",
            Kind::Durations { min: Duration::from_millis(1), max: Duration::from_secs(30 * DAY) },
            Preset::Is("5s, 30s, 2m, 10m, 30m, 2h, 5h, 10h"),
            "The waits between attempts: one attempt more than there are waits. Jitter only adds; a longer Retry-After \
             is honoured. At most 32.",
        )
        .only(REQUESTS),
        Key::new(
            "allow_private",
            Kind::Bool,
            Preset::Is("false"),
            "Whether the host may resolve to private and loopback addresses.",
        )
        .only(REQUESTS),
        Key::new(
            "workspace",
            Kind::Text,
            Preset::Said("clay: `default`; http: none"),
            "The Clay workspace behind it, by a name of your own: for the loop guard, and because Clay limits the rate per \
             workspace. Every `clay` destination of one workspace has the same name.",
        )
        .only(WORKSPACE),
        Key::new(
            "allow_loop",
            Kind::Bool,
            Preset::Is("false"),
            "Whether a lead that came back from a row of `workspace` may be sent there again.",
        )
        .only(WORKSPACE),
        Key::new("breaker", Kind::Table(&BREAKER), Preset::Said(""), "").only(REQUESTS),
        Key::new(
            "row_key",
            Kind::Texts,
            Preset::Said("none"),
            "JSON pointers that, all of them together, make a handed-in row (`POST /v1/rows`, `claygate send`) the same row \
             again, for example `[\"/crm_id\"]`: a repeat is a duplicate whatever else changed in it. A row in which one of \
             them is missing, null, empty or a placeholder is known by its content, as all are where this is left out.",
        )
        .only(CLAY),
        Key::new("filter", Kind::Table(&FILTER), Preset::Said(""), "").only(CLAY),
        Key::new("callback_url", Kind::Table(&CALLBACK_URL), Preset::Said("none"), "").only(CLAY),
        Key::new(
            "expect_within",
            Kind::Duration { min: Duration::ZERO, max: Duration::from_secs(366 * DAY) },
            Preset::Is("24h"),
            "How long after it was sent a row should be back; later it is overdue, and `claygate loop --missing` lists it. \
             \"0s\": nothing is expected back, and nothing is overdue.",
        )
        .only(CLAY),
        Key::new(
            "price_per_row",
            Kind::Price,
            Preset::Said("none"),
            "What one row costs, for `claygate loop`: a number in whatever unit you count (credits, a currency), which claygate \
             repeats without naming it.",
        )
        .only(CLAY),
    ],
};

pub(super) static BREAKER: Section = Section {
    title: "[destinations.<name>.breaker]",
    doc: "When a destination is left alone for a while.",
    keys: &[
        Key::new(
            "failures",
            Kind::Integer { min: 0, max: 10_000 },
            Preset::Is("5"),
            "Failures in a row that open it; 0: never.",
        ),
        Key::new(
            "open",
            Kind::Duration { min: Duration::from_millis(50), max: Duration::from_secs(DAY) },
            Preset::Is("30s"),
            "How long it stays open the first time; doubles up to `open_max`.",
        ),
        Key::new(
            "open_max",
            Kind::Duration { min: Duration::from_millis(50), max: Duration::from_secs(DAY) },
            Preset::Is("10m"),
            "The longest it stays open; not shorter than `open`.",
        ),
    ],
};

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
