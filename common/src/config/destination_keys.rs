//! The keys of `[destinations.<name>]`, as they are documented. What they come to stands in [`super::destinations`].

use std::time::Duration;

use super::callback_url::CALLBACK_URL;
use super::clay::WEBHOOK;
use super::filter::FILTER;
use super::http::{AUTH, METHODS, STEP};
use super::schema::{Key, Kind, Preset, Section};

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
        Key::new("method", Kind::OneOf(METHODS), Preset::Is("POST"), "The method.").only(HTTP),
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

static BREAKER: Section = Section {
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
            "How long it stays open the first time; doubles up to `open_max`. What waits is due in the ten seconds behind that.",
        ),
        Key::new(
            "open_max",
            Kind::Duration { min: Duration::from_millis(50), max: Duration::from_secs(DAY) },
            Preset::Is("10m"),
            "The longest it stays open; not shorter than `open`.",
        ),
    ],
};
