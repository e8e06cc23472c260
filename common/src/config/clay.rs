//! Destinations of kind `clay`: a pool of webhook URLs of one table, and the workspace whose limits they share.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::callback_url::read_callback_url;
use super::destinations::{DestinationKind, read_requests};
use super::filter::{read_filter, read_row_key};
use super::http::{check_url, warn_of_private};
use super::read::Reader;
use super::schema::{Key, Kind, Preset, Section};
use super::tree::Value;
use super::{Body, CallbackUrl, Destination, Price, Rate};
use crate::filter::Filter;
use crate::rows::ADDED_BYTES;
use crate::states::Reason;

/// What Clay allows a workspace (its documentation of webhooks).
const ALLOWED: Rate = Rate { per_second: 10.0, burst: 20 };
/// The part of the allowed rate that is planned with, and that of its burst: requests do not arrive as evenly as they are
/// sent, and a 429 costs the row that it answers.
const PLANNED_RATE: f64 = 0.97;
const PLANNED_BURST_PERCENT: u32 = 90;
/// The part of `cap` after which the next URL takes over where nothing else is said.
const ROLLOVER_PERCENT: u64 = 90;
/// The workspace of destinations that name none: one, so that the rate is never too high.
const WORKSPACE: &str = "default";
/// The longest name of a workspace.
const WORKSPACE_MAX: usize = 128;

/// A table of Clay that rows are sent into.
#[derive(Clone, Debug)]
pub struct ClayDestination {
    /// The webhook URLs, in the order in which they are used; never empty, each once.
    pub webhooks: Vec<ClayWebhook>,
    /// Submissions that one URL takes, ever; `None`: without end.
    pub cap: Option<u64>,
    /// Submissions after which the next URL takes over; never above `cap`.
    pub rollover: Option<u64>,
    /// JSON pointers that give a handed-in row its key; empty: its content does.
    pub row_key: Vec<String>,
    /// What is held back.
    pub filter: Filter,
    /// What is sent: the fields of the lead or row ([`Body::Lead`]), or an object of templates. `claygate_id` is added.
    pub body: Body,
    /// The signed URL that goes with every row, where the table is to call back to it.
    pub callback_url: Option<CallbackUrl>,
    /// How long after it was sent a row is overdue; `None`: nothing is expected back.
    pub expect_within: Option<Duration>,
    /// What a row costs, in the user's own unit.
    pub price_per_row: Option<Price>,
}

/// One webhook URL. In a process that sends nothing it is empty, and so is its name.
#[derive(Clone, Debug)]
pub struct ClayWebhook {
    /// How it is called wherever people and tables see it.
    pub name: WebhookName,
    /// The URL, which is a secret.
    pub url: SecretString,
    /// What its `x-clay-webhook-auth` header says, where Clay asks for it.
    pub token: Option<SecretString>,
}

/// A webhook URL without the URL: the beginning of its hash.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookName(String);

impl WebhookName {
    /// Hex digits of a name: enough to tell any number of URLs apart, and no way back to one.
    const DIGITS: usize = 16;

    /// The name of `url`.
    pub fn of(url: &SecretString) -> Self {
        let digest = Sha256::new().chain_update(b"claygate webhook\0").chain_update(url.expose_secret()).finalize();
        let mut name = hex::encode(digest);
        name.truncate(Self::DIGITS);
        Self(name)
    }

    /// The name as it stands in tables, logs and metrics.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WebhookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) static WEBHOOK: Section = Section {
    title: "[[destinations.<name>.webhooks]]",
    doc: "One webhook URL of a table of Clay.",
    keys: &[
        Key::new("url", Kind::Secret, Preset::Required, "The URL that Clay shows for the table's webhook source."),
        Key::new(
            "token",
            Kind::Secret,
            Preset::Said("none"),
            "The token that Clay shows once; sent as `x-clay-webhook-auth`. Without it anybody who knows the URL can add \
             rows.",
        ),
    ],
};

pub(super) fn read_clay(reader: &Reader<'_>, destination: &mut Destination) {
    read_requests(reader, destination, Some(ALLOWED));
    destination.rate = destination.rate.map(plan);
    // Whoever takes rows in needs these too, and to read over a missing variable would let through what is to be held back.
    let everywhere = reader.clone().with_strict(true);
    destination.workspace = Some(read_workspace(&everywhere));
    destination.allow_loop = reader.truth("allow_loop");
    let webhooks = read_webhooks(reader, destination.allow_private);
    let cap = reader.limit("cap");
    let rollover = read_rollover(reader, cap);
    let filter = read_filter(&everywhere.table("filter"));
    if !filter.unique_by.is_empty() {
        if destination.once_per.is_some() {
            reader
                .wrong("once_per", "is given beside filter.unique_by, which says what is sent once: keep one of them");
        }
        destination.once_per = Some(filter.within);
    }
    let (row_key, body) = (read_row_key(&everywhere), read_body(reader));
    let callback_url = read_callback_url(&everywhere);
    let expect_within = everywhere.duration("expect_within").filter(|within| !within.is_zero());
    let price_per_row = everywhere.price("price_per_row");
    destination.kind = DestinationKind::Clay(Box::new(ClayDestination {
        webhooks,
        cap,
        rollover,
        row_key,
        filter,
        body,
        callback_url,
        expect_within,
        price_per_row,
    }));
}

impl Destination {
    /// What a destination of kind `clay` has beside the others.
    pub fn clay(&self) -> Option<&ClayDestination> {
        match &self.kind {
            DestinationKind::Clay(clay) => Some(clay),
            DestinationKind::Http(_) | DestinationKind::Slack(_) | DestinationKind::Log => None,
        }
    }

    /// The reason by which `once_per` holds back.
    pub fn blocked_as(&self) -> Reason {
        match self.clay() {
            Some(clay) if !clay.filter.unique_by.is_empty() => Reason::DuplicateRow,
            _ => Reason::CoolDown,
        }
    }
}

impl ClayDestination {
    /// How many bytes are added to a row on its way, at most.
    pub fn added_bytes(&self) -> usize {
        ADDED_BYTES + self.callback_url.as_ref().map_or(0, CallbackUrl::added_bytes)
    }
}

/// What is planned with where Clay allows `rate`.
fn plan(rate: Rate) -> Rate {
    let burst = u64::from(rate.burst) * u64::from(PLANNED_BURST_PERCENT) / 100;
    Rate { per_second: rate.per_second * PLANNED_RATE, burst: u32::try_from(burst).unwrap_or(u32::MAX).max(1) }
}

fn read_workspace(reader: &Reader<'_>) -> String {
    let name = reader.parsed("workspace", |text| {
        let is_usable = !text.trim().is_empty() && text.len() <= WORKSPACE_MAX && !text.contains(char::is_control);
        if is_usable { Ok(text.to_owned()) } else { Err(format!("is not a name of 1 to {WORKSPACE_MAX} characters")) }
    });
    name.unwrap_or_else(|| WORKSPACE.to_owned())
}

fn read_webhooks(reader: &Reader<'_>, allow_private: bool) -> Vec<ClayWebhook> {
    match reader.node("webhooks").map(|node| &node.value) {
        None => {
            reader
                .wrong("webhooks", "is missing: write [{ url = \"${CLAY_WEBHOOK_1}\", token = \"${CLAY_TOKEN_1}\" }]");
        }
        Some(Value::List(webhooks)) if webhooks.is_empty() => {
            reader.wrong("webhooks", "is empty: rows need a webhook URL to go to");
        }
        Some(_) => {}
    }
    reader.tables("webhooks").iter().map(|webhook| read_webhook(webhook, allow_private)).collect()
}

fn read_webhook(reader: &Reader<'_>, allow_private: bool) -> ClayWebhook {
    reader.check_keys(None);
    let url = reader.secret("url").unwrap_or_default();
    if url.expose_secret().contains("{{") {
        reader.wrong("url", "is not a template in a clay destination");
    } else {
        check_url(reader, "url", &url);
    }
    if !allow_private {
        warn_of_private(reader, std::iter::once(&url));
    }
    let name = if url.expose_secret().is_empty() { WebhookName::default() } else { WebhookName::of(&url) };
    ClayWebhook { name, url, token: reader.secret("token") }
}

fn read_rollover(reader: &Reader<'_>, cap: Option<u64>) -> Option<u64> {
    let given: u64 = reader.integer("rollover");
    if !reader.has("rollover") {
        return cap.map(|cap| (cap / 100 * ROLLOVER_PERCENT + cap % 100 * ROLLOVER_PERCENT / 100).max(1));
    }
    if let Some(cap) = cap.filter(|cap| given > *cap) {
        reader.wrong("rollover", format!("{given} is above cap ({cap}): lower it or raise cap"));
    }
    Some(given)
}

fn read_body(reader: &Reader<'_>) -> Body {
    match reader.structure("body") {
        None => Body::Lead,
        Some(body @ serde_json::Value::Object(_)) => Body::Json(body),
        Some(_) => {
            reader
                .wrong("body", "is not a table: Clay makes one row of whatever it is sent, and of a list one row too");
            Body::Lead
        }
    }
}

/// What has to hold between clay destinations: a URL belongs to one of them, and a workspace has one rate.
pub(super) fn check_pools(destinations: &BTreeMap<String, Destination>, report: &dyn Fn(&str, String)) {
    let mut urls: BTreeMap<&WebhookName, (&str, usize)> = BTreeMap::new();
    let mut rates: BTreeMap<&str, (&str, Option<Rate>)> = BTreeMap::new();
    let mut told = BTreeSet::new();
    for destination in destinations.values() {
        let DestinationKind::Clay(clay) = &destination.kind else { continue };
        let named = clay.webhooks.iter().enumerate().filter(|(_, webhook)| !webhook.name.as_str().is_empty());
        for (place, webhook) in named {
            if let Some((other, at)) = urls.insert(&webhook.name, (&destination.name, place)) {
                report(
                    &format!("destinations.{}.webhooks[{place}].url", destination.name),
                    format!(
                        "is the URL of destinations.{other}.webhooks[{at}] too: its submissions are counted once, so keep \
                         one of them"
                    ),
                );
            }
        }
        let workspace = destination.workspace.as_deref().unwrap_or_default();
        let (other, rate) = rates.entry(workspace).or_insert((&destination.name, destination.rate));
        if *rate != destination.rate && told.insert(workspace) {
            report(
                &format!("destinations.{}.rate", destination.name),
                format!(
                    "differs from that of destinations.{other}, and Clay limits the workspace \"{workspace}\" as a whole: \
                     give both the same rate and burst, or name their workspaces"
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::{Config, Environment, Role};
    use super::*;

    const URL: &str = "https://api.clay.example.com/v3/sources/webhook/pull-in-data-from-a-webhook-1";

    fn clay(rest: &str) -> Destination {
        let text = format!("[destinations.leads]\nkind = \"clay\"\nwebhooks = [{{ url = \"{URL}\" }}]\n{rest}");
        let config = Config::from_toml(
            Role::Worker,
            &format!("[database]\nurl = \"postgres://me@db.example.com/x\"\n{text}"),
            &Environment::default(),
        )
        .unwrap();
        config.destinations["leads"].clone()
    }

    fn pool(destination: &Destination) -> &ClayDestination {
        let DestinationKind::Clay(clay) = &destination.kind else { panic!("no clay") };
        clay
    }

    #[test]
    fn what_is_left_out_is_what_clay_allows_with_room_for_jitter() {
        let leads = clay("");
        let planned = leads.rate.unwrap();
        assert!((planned.per_second - 9.7).abs() < 1e-9, "{planned:?}");
        assert_eq!(planned.burst, 18);
        assert_eq!((leads.workspace.as_deref(), leads.allow_loop), (Some("default"), false));
        let pool = pool(&leads);
        assert_eq!((pool.cap, pool.rollover), (Some(50_000), Some(45_000)));
        assert_eq!(pool.body, Body::Lead);
        assert!(pool.webhooks[0].token.is_none());
    }

    #[test]
    fn the_rollover_follows_the_cap() {
        for (rest, expected) in [
            ("cap = 30000", (Some(30_000), Some(27_000))),
            ("cap = \"30000\"\nrollover = 30000", (Some(30_000), Some(30_000))),
            ("cap = \"none\"", (None, None)),
            ("cap = \"none\"\nrollover = 7", (None, Some(7))),
            ("cap = 1", (Some(1), Some(1))),
        ] {
            let leads = clay(rest);
            assert_eq!((pool(&leads).cap, pool(&leads).rollover), expected, "{rest}");
        }
    }

    #[test]
    fn a_url_is_named_without_being_told() {
        let name = WebhookName::of(&SecretString::from(URL));
        assert_eq!(name, pool(&clay("")).webhooks[0].name);
        assert_eq!(name.as_str().len(), WebhookName::DIGITS);
        assert!(!URL.contains(name.as_str()));
        assert_ne!(name, WebhookName::of(&SecretString::from(format!("{URL}2"))));
        let shown = format!("{:?}", clay(""));
        assert!(!shown.contains("pull-in-data"), "{shown}");
    }

    #[test]
    fn a_process_that_sends_nothing_needs_no_url() {
        let text = "[destinations.leads]\nkind = \"clay\"\nwebhooks = [{ url = \"${A}\" }, { url = \"${B}\" }]";
        let config = Config::from_toml(Role::Tool, text, &Environment::default()).unwrap();
        assert_eq!(pool(&config.destinations["leads"]).webhooks.len(), 2);
    }

    #[test]
    fn what_decides_about_a_row_is_known_in_every_process() {
        for rest in [
            "workspace = \"${A}\"",
            "once_per = \"${A}\"",
            "row_key = [\"${A}\"]",
            "[destinations.leads.filter]\nrequired = [\"${A}\"]",
        ] {
            let text = format!(
                "[database]\nurl = \"postgres://me@db.example.com/x\"\n[destinations.leads]\nkind = \"clay\"\n\
                 webhooks = [{{ url = \"{URL}\" }}]\n{rest}"
            );
            for role in [Role::Ingest, Role::Tool] {
                let said = Config::from_toml(role, &text, &Environment::default()).unwrap_err().to_string();
                assert!(said.contains("needs the environment variable A"), "{rest}: {said}");
            }
        }
    }
}
