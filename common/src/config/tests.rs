//! Whole configurations and what they come to. What is said about those that cannot be used stands in `problem_tests`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::*;

/// Documents that together say every key of every section.
pub(super) const EVERY_KEY: [&str; 3] = [
    r#"
[database]
url = "postgres://me@db.example.com/claygate"
password = "${PG_PASSWORD}"
max_connections = 20
[queue]
url = "amqps://me@mq.example.com/leads"
password = "${MQ_PASSWORD}"
prefix = "leads"
[ingest]
listen = "0.0.0.0:8080"
public_url = "https://leads.example.com"
max_body = "2MiB"
rows_tokens = ["rows-token-of-the-form"]
writers = 3
threads = 4
[ingest.limits]
in_flight = 10
in_flight_bytes = "4MiB"
rows_in_flight = 3
headers = 32
header_timeout = "5s"
body_timeout = "6s"
commit_timeout = "700ms"
[spool]
dir = "spool-here"
max_bytes = "2GiB"
[worker]
concurrency = 2
drain = "5s"
sweep_every = "2m"
rescue_every = "3s"
[admin]
listen = "0.0.0.0:8081"
token = "admin-token-of-the-console"
[retention]
bodies = "12w"
attempts = "13w"
leads = "365d"
decisions = "180d"
rows = "90d"
keys = "800d"
[telemetry]
log = "info,worker=debug"
[sources.clay]
path = "/api/clay/enriched"
verify = { kind = "token", header = "X-Other", secrets = ["${CLAY_SECRET}"] }
idempotency = { pointers = ["/claygate_id"], changed = "record" }
fields = { email = "/Work Email" }
max_body = "1MiB"
[sources.website-form]
path = "/forms"
verify = [
  { kind = "hmac-sha256", header = "X-Signature", secrets = ["${FORM_SECRET}"] },
  { kind = "standard-webhooks", secrets = ["whsec_MDEyMzQ1Njc4OWFiY2RlZg=="] },
  { kind = "signed-url", secrets = [{ value = "signed-url-secret", expires = "2030-01-31T00:00:00Z" }] },
]
[destinations.crm]
kind = "http"
url = "https://crm.example.com/leads?key=${CRM_TOKEN}"
method = "PUT"
headers = { X-Team = "sales-${TEAM}" }
auth = { kind = "bearer", token = "${CRM_TOKEN}" }
body = { email = "{{ lead.email }}", nested = [{ score = "{{ lead.icp_score }}", fixed = 3, yes = true }] }
success = [409, "301-303"]
terminal = [402]
signing_secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZg=="
once_per = "30d"
concurrency = 3
rate = "300/m"
burst = 7
timeout = "10s"
connect_timeout = "2s"
retries = ["5s", "1m"]
allow_private = true
workspace = "acme"
allow_loop = true
breaker = { failures = 3, open = "10s", open_max = "1m" }
[destinations.alerts]
kind = "slack"
url = "${SLACK_URL}"
text = "{{ lead.email }}"
once_per = "1d"
[destinations.leads]
kind = "clay"
workspace = "acme"
webhooks = [{ url = "https://clay.example.com/hook?key=${CRM_TOKEN}", token = "clay-token-of-mine" }]
cap = 30000
rollover = 20000
rate = "5/s"
burst = 10
expect_within = "6h"
price_per_row = 0.012
body = { email = "{{ lead.email }}" }
row_key = ["/crm_id"]
allow_loop = true
callback_url = { source = "website-form", field = "back_to", expires = "7d" }
[destinations.leads.filter]
required = ["email"]
email_fields = ["email", "/contact/email"]
skip_personal = true
skip_disposable = true
personal_domains = ["isp.example.com"]
disposable_domains = ["burner.example.com"]
kept_domains = ["Partner.example.com"]
unique_by = ["email"]
within = "30d"
domain_fields = ["website"]
[[rules]]
name = "hot"
when = "lead.icp_score >= 80"
to = ["crm", "alerts", "steps", "text", "leads"]
source = ["clay"]
stop = true
[destinations.steps]
kind = "http"
once_per = "1d"
auth = { kind = "basic", username = "me", password = "password-of-mine" }
[[destinations.steps.steps]]
url = "https://example.com/find"
method = "GET"
headers = { accept = "application/json" }
capture = { id = "/data/id" }
[[destinations.steps.steps]]
url = "https://example.com/{{ captured.id }}"
body = { id = "{{ captured.id }}" }
[[destinations.steps.steps]]
url = "https://example.com/log"
body_text = "{{ lead.email }}"
content_type = "text/csv"
[destinations.text]
kind = "http"
url = "https://example.com/text"
once_per = "1d"
auth = { kind = "header", name = "X-Key", value = "key-of-mine" }
body_text = "{{ lead.email }}"
content_type = "text/csv"
"#,
    "[database]\nport = 5433\n[sources]\n[[rules]]\nname = \"none\"\nwhen = \"true\"\nstop = true",
    "",
];

pub(super) fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

/// Everything that [`EVERY_KEY`] needs.
pub(super) fn full_environment() -> Environment {
    environment(&[
        ("PG_PASSWORD", "pg-secret"),
        ("MQ_PASSWORD", "mq-secret"),
        ("CLAY_SECRET", "clay-secret-0123456789"),
        ("CLAY_WEBHOOK_SECRET", "webhook-secret-0123456789"),
        ("FORM_SECRET", "form-secret-0123456789"),
        ("CRM_TOKEN", "crm-secret"),
        ("TEAM", "team-secret"),
        ("SLACK_URL", "https://hooks.slack.example.com/services/slack-secret"),
    ])
}

pub(super) fn up(text: &str, variables: &[(&str, &str)]) -> Config {
    let variables = [("CLAY_WEBHOOK_SECRET", "webhook-secret-0123456789")].iter().chain(variables).copied();
    Config::from_toml(Role::Up, text, &variables.collect()).unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn expose(secret: &SecretString) -> &str {
    secret.expose_secret()
}

#[test]
fn without_a_file_the_built_in_settings_hold() {
    let folder = tempfile::tempdir().unwrap();
    let environment = environment(&[("CLAY_WEBHOOK_SECRET", "0123456789abcdef")]);
    let locations = Locations::resolve(None, None, &environment, folder.path());
    let config = Config::load(Role::Up, &locations, &environment).unwrap();

    assert_eq!(config.data, folder.path().join("claygate-data"));
    assert_eq!(config.spool.dir, folder.path().join("claygate-data/spool"));
    assert_eq!(config.ingest.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.ingest.max_body_bytes, 1 << 20);
    assert_eq!(config.sources["clay"].path, "/api/clay/enriched");
    assert_eq!(config.destinations.keys().collect::<Vec<_>>(), ["alerts", "nurture", "outreach"]);
    for destination in config.destinations.values() {
        assert!(matches!(destination.kind, DestinationKind::Log));
        assert_eq!(destination.once_per, Some(Duration::from_secs(30 * 86_400)));
    }
    let to: BTreeSet<_> = config.rules.iter().flat_map(|rule| &rule.to).collect();
    assert_eq!(to.into_iter().collect::<Vec<_>>(), ["alerts", "nurture", "outreach"]);
    assert_eq!(config.warnings, [] as [&str; 0]);

    let shown = to_toml(&Inspection::of(Role::Up, &locations, &environment).settings);
    assert!(shown.contains("when = \"lead.icp_score >= 90\"  # default"), "{shown}");
}

#[test]
fn without_a_file_the_well_known_variables_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let environment = environment(&[
        ("CLAY_WEBHOOK_SECRET", "0123456789abcdef"),
        ("SLACK_WEBHOOK_URL", "https://hooks.slack.example.com/x"),
        ("ZAPIER_WEBHOOK_URL", "https://hooks.zapier.example.com/y"),
    ]);
    let locations = Locations::resolve(None, None, &environment, folder.path());
    let config = Config::load(Role::Up, &locations, &environment).unwrap();

    let DestinationKind::Slack(slack) = &config.destinations["alerts"].kind else { panic!("no slack") };
    assert_eq!(expose(&slack.url), "https://hooks.slack.example.com/x");
    let DestinationKind::Http(zapier) = &config.destinations["zapier"].kind else { panic!("no http") };
    assert_eq!(expose(&zapier.steps[0].url), "https://hooks.zapier.example.com/y");
    assert_eq!(config.destinations["zapier"].once_per, Some(Duration::from_secs(30 * 86_400)));
    assert!(config.rules.iter().any(|rule| rule.to.contains(&"zapier".to_owned())));

    let with_file = Config::from_toml(Role::Up, "", &environment).unwrap();
    assert!(matches!(with_file.destinations["alerts"].kind, DestinationKind::Log));
    assert!(!with_file.destinations.contains_key("zapier"));
}

#[test]
fn the_example_file_can_be_used_as_it_is() {
    let text = include_str!("../../../claygate.example.toml");
    let variables = [("SLACK_WEBHOOK_URL", "https://hooks.slack.example.com/x"), ("OUTREACH_TOKEN", "token")];
    let config = up(text, &variables);
    assert_eq!(config.warnings, [] as [&str; 0]);
    assert!(config.destinations.values().all(|destination| destination.once_per.is_some()));
    assert_eq!(config.rules.len(), 3);

    // What is commented out is right too.
    let uncommented: String = text
        .lines()
        .map(|line| {
            line.strip_prefix('#').filter(|line| !line.starts_with(' ') || line.starts_with("  ")).unwrap_or(line)
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let folder = tempfile::tempdir().unwrap();
    for name in ["claygate_pg", "claygate_mq"] {
        std::fs::write(folder.path().join(name), "password").unwrap();
    }
    let uncommented = uncommented.replace("/run/secrets", folder.path().to_str().unwrap());
    let old = ("CLAY_WEBHOOK_SECRET_OLD", "0123456789abcdef");
    let config = up(&uncommented, &[variables[0], variables[1], old]);
    assert_eq!(config.sources["clay"].verify[0].secrets().len(), 2);
    assert!(config.ingest.public_url.is_some() && config.database.url.is_some());
    assert!(config.queue.url.is_some());
}

#[test]
fn own_rules_replace_the_built_in_ones_and_their_destinations() {
    let config = up("[[rules]]\nname = \"a\"\nwhen = \"true\"\nto = [\"x\"]\n[destinations.x]\nkind = \"log\"", &[]);
    assert_eq!(config.rules.len(), 1);
    assert_eq!(config.destinations.keys().collect::<Vec<_>>(), ["x"]);

    let config = up("[destinations.outreach]\nkind = \"http\"\nurl = \"https://example.com\"\nonce_per = \"1d\"", &[]);
    assert!(matches!(config.destinations["outreach"].kind, DestinationKind::Http(_)));
    assert!(matches!(config.destinations["nurture"].kind, DestinationKind::Log));
}

#[test]
fn every_key_reaches_the_configuration() {
    let config = Config::from_toml(Role::Up, EVERY_KEY[0], &full_environment()).unwrap();
    assert_eq!(config.database.url.unwrap().as_str(), "postgres://me@db.example.com/claygate");
    assert_eq!(config.database.password.as_ref().map(expose), Some("pg-secret"));
    assert_eq!(config.queue.url.unwrap().as_str(), "amqps://me@mq.example.com/leads");
    assert_eq!(config.queue.password.as_ref().map(expose), Some("mq-secret"));
    assert_eq!(config.queue.prefix, "leads");
    assert_eq!(config.ingest.limits.commit_timeout, Duration::from_millis(700));
    assert!(config.spool.dir.is_absolute() && config.spool.dir.ends_with("spool-here"));
    assert_eq!(config.admin.token.as_ref().map(expose), Some("admin-token-of-the-console"));

    let Verification::Token { header, secrets } = &config.sources["clay"].verify[0] else { panic!("no token") };
    assert_eq!((header.as_str(), expose(&secrets[0].value)), ("x-other", "clay-secret-0123456789"));
    let form = &config.sources["website-form"];
    assert_eq!(
        form.verify.iter().map(Verification::kind).collect::<Vec<_>>(),
        ["hmac-sha256", "standard-webhooks", "signed-url"]
    );
    let Verification::SignedUrl { secrets } = &form.verify[2] else { panic!("no signed-url") };
    assert_eq!(secrets[0].expires_at.unwrap().year(), 2030);

    let crm = &config.destinations["crm"];
    assert_eq!(crm.rate, Some(Rate { per_second: 5.0, burst: 7 }));
    assert_eq!(crm.retries, [Duration::from_secs(5), Duration::from_secs(60)]);
    let DestinationKind::Http(http) = &crm.kind else { panic!("no http") };
    assert_eq!(expose(&http.steps[0].url), "https://crm.example.com/leads?key=crm-secret");
    assert_eq!(expose(&http.steps[0].headers["x-team"]), "sales-team-secret");
    assert!(http.success.contains(409) && http.success.contains(302) && http.terminal.contains(402));
    let body = serde_json::json!({
        "email": "{{ lead.email }}",
        "nested": [{ "score": "{{ lead.icp_score }}", "fixed": 3, "yes": true }],
    });
    assert_eq!(http.steps[0].body, Body::Json(body));

    let DestinationKind::Http(steps) = &config.destinations["steps"].kind else { panic!("no http") };
    assert_eq!(steps.steps.len(), 3);
    assert_eq!((&steps.steps[0].body, steps.steps[0].capture["id"].as_str()), (&Body::Empty, "/data/id"));
    assert_eq!(config.destinations["alerts"].rate, Some(Rate { per_second: 1.0, burst: 1 }));
    let DestinationKind::Clay(leads) = &config.destinations["leads"].kind else { panic!("no clay") };
    assert_eq!(expose(&leads.webhooks[0].url), "https://clay.example.com/hook?key=crm-secret");
    assert_eq!(leads.webhooks[0].token.as_ref().map(expose), Some("clay-token-of-mine"));
    assert_eq!((leads.cap, leads.rollover), (Some(30_000), Some(20_000)));
}

#[test]
fn variables_override_the_file() {
    let config = up(
        "[ingest]\nlisten = \"127.0.0.1:1\"\n[destinations.crm-sync]\nkind = \"log\"\n",
        &[
            ("CLAYGATE_INGEST__LISTEN", "127.0.0.1:2"),
            ("CLAYGATE_INGEST__LIMITS__IN_FLIGHT", "7"),
            ("CLAYGATE_SOURCES__CLAY__PATH", "/elsewhere"),
            ("CLAYGATE_SOURCES__CLAY__IDEMPOTENCY__CHANGED", "conflict"),
            ("CLAYGATE_DESTINATIONS__CRM_SYNC__ONCE_PER", "2d"),
            ("CLAYGATE_DESTINATIONS__OUTREACH__KIND", "http"),
            ("CLAYGATE_DESTINATIONS__OUTREACH__URL", "https://example.com/${NOT_A_VARIABLE}"),
            ("CLAYGATE_DESTINATIONS__OUTREACH__ALLOW_PRIVATE", "true"),
            ("CLAYGATE_TEST_ANYTHING", "is not a setting"),
            ("CLAYGATE_SERVICE_HOST", "10.0.0.1"),
            ("CLAYGATE_INGEST_SERVICE_PORT_HTTP", "8080"),
            ("CLAYGATE_INGEST_PORT", "tcp://10.0.0.1:8080"),
            ("CLAYGATE_INGEST_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("CLAYGATE_INGEST_PORT_8080_TCP_PROTO", "tcp"),
            ("CLAYGATE_PG_BIN", "/usr/bin"),
        ],
    );
    assert_eq!(config.ingest.listen.port(), 2);
    assert_eq!(config.ingest.limits.in_flight, 7);
    assert_eq!(config.sources["clay"].path, "/elsewhere");
    assert_eq!(config.sources["clay"].idempotency.changed, Changed::Conflict);
    assert_eq!(config.destinations["crm-sync"].once_per, Some(Duration::from_secs(2 * 86_400)));
    let outreach = &config.destinations["outreach"];
    assert!(outreach.allow_private);
    let DestinationKind::Http(http) = &outreach.kind else { panic!("no http") };
    assert_eq!(expose(&http.steps[0].url), "https://example.com/${NOT_A_VARIABLE}");
}

#[test]
fn locations_follow_the_option_then_the_variable_then_the_working_folder() {
    let here = Path::new("/here");
    let of = |config: Option<&str>, data: Option<&str>, variables: &[(&str, &str)]| {
        let found = Locations::resolve(config.map(Path::new), data.map(Path::new), &environment(variables), here);
        (found.file.display().to_string(), found.file_is_explicit, found.data.display().to_string())
    };
    let expect = |file: &str, explicit, data: &str| (file.to_owned(), explicit, data.to_owned());
    assert_eq!(of(None, None, &[]), expect("/here/claygate.toml", false, "/here/claygate-data"));
    let variables = [("CLAYGATE_CONFIG", "/etc/claygate/c.toml"), ("CLAYGATE_DATA", "data")];
    assert_eq!(of(None, None, &variables[..1]), expect("/etc/claygate/c.toml", true, "/etc/claygate/claygate-data"));
    assert_eq!(of(None, None, &variables), expect("/etc/claygate/c.toml", true, "/here/data"));
    assert_eq!(of(Some("x/y.toml"), Some("/d"), &variables), expect("/here/x/y.toml", true, "/d"));
}

#[test]
fn what_is_shown_is_toml_with_origins() {
    let environment: Environment = full_environment().iter().chain([("CLAYGATE_WORKER__DRAIN", "9s")]).collect();
    let locations = Locations::resolve(None, None, &environment, Path::new("/nowhere"));
    let inspection = interpret(Role::Up, Some(EVERY_KEY[0]), &locations, &environment, false);
    let shown = to_toml(&inspection.settings);
    shown.parse::<toml::Table>().unwrap_or_else(|error| panic!("{error}\n{shown}"));
    for line in [
        "drain = \"9s\"  # CLAYGATE_WORKER__DRAIN",
        "max_connections = 20  # line 5",
        "url = \"postgres://me@db.example.com/claygate\"  # line 3",
        "url = \"https://crm.example.com/***\"  # line 60",
        "stop = true  # line 114",
        "changed = \"accept\"  # default",
        "# port: a free one, kept",
        "[[destinations.steps.steps]]",
        "[sources.clay.verify]",
        "[[sources.website-form.verify]]",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
}
