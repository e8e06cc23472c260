//! `claygate demo --loop`: rows into a Clay that runs in this process, and back, with a claygate and a Postgres of its own.
//!
//! Nothing of an installation is read or touched: the configuration, the database and the folder are made for the
//! demonstration and removed at its end, an interrupted one too.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use common::config::{Config, Environment, Role};
use common::db::{ConnectSettings, Database, PgSslMode, migrate, row_batches};
use common::telemetry::metrics;
use embedded::{Cluster, Home, Settings};
use fake_clay::{CallTo, Column, Counts, FakeClay, Shares, Table, TableSettings};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{POLL_EVERY, REQUEST_LIMIT, progress};
use crate::commands::interrupt::stop_on_interrupt;
use crate::commands::r#loop::{Report, find_tables};
use crate::commands::up::Parts;

/// One row of so many is handed in twice, and one of so many has no address.
const REPEAT_EVERY: u32 = 20;
const NO_EMAIL_EVERY: u32 = 25;
const PRICE: &str = "0.012";
/// Looks in a row that find nothing under way: longer together than `expect_within` below.
const QUIET_POLLS: u32 = 6;

/// What the circle was, and what came of it.
pub(super) struct Circle {
    /// The answer to the request of rows.
    pub(super) answer: Value,
    /// What Clay counted.
    pub(super) clay: Counts,
    /// The loop as claygate knows it.
    pub(super) report: Report,
    /// Whether everything had ended by then.
    pub(super) is_complete: bool,
}

/// Runs it with `count` people.
pub(super) async fn run(count: u32, seed: u64, wait: Duration) -> anyhow::Result<Circle> {
    // Before there is anything to be removed.
    let stop = stop_on_interrupt()?;
    let folder = tempfile::Builder::new().prefix("claygate-demo-").tempdir()?;
    let (path, data) = (folder.path().to_owned(), folder.path().join("data"));
    let start = move || Cluster::start(&Settings::throw_away(Home::temporary(&path)?));
    let cluster = tokio::task::spawn_blocking(start).await??;
    let circle = tokio::select! {
        biased;
        () = stop.cancelled() => Err(anyhow!("interrupted; the database and everything in it are gone")),
        circle = go_round(&cluster, &data, count, seed, wait) => circle,
    };
    let stopped = tokio::task::spawn_blocking(move || cluster.stop()).await?;
    folder.close()?;
    stopped?;
    circle
}

async fn go_round(cluster: &Cluster, data: &Path, count: u32, seed: u64, wait: Duration) -> anyhow::Result<Circle> {
    let settings = ConnectSettings {
        host: cluster.socket().to_string_lossy().into_owned(),
        port: cluster.port(),
        user: embedded::USER.to_owned(),
        password: Some(cluster.password().to_owned().into()),
        database: embedded::DATABASE.to_owned(),
        ssl_mode: PgSslMode::Disable,
        ssl_root_cert: None,
        max_connections: 8,
    };
    migrate(&settings).await?;
    // Without its limits, so that nobody has to wait; claygate keeps to a rate of its own.
    let clay = FakeClay::start(fake_clay::Settings { limit: None, seed, ..fake_clay::Settings::default() }).await?;
    let url = clay.add_table("leads", TableSettings::default()).url().to_owned();
    let (secret, token) = (uuid::Uuid::new_v4().to_string(), uuid::Uuid::new_v4().to_string());
    // Else the spool would stay in the working folder.
    let environment = Environment::from_iter([("CLAYGATE_DATA", data.to_string_lossy())]);
    let config = Config::from_toml(Role::Up, &configuration(&url, &secret, &token), &environment)?;
    let parts = Parts::build(&config, &settings, metrics::install()?).await?;
    let port = parts.port();
    let column = Column::calling(CallTo::Url(format!("http://127.0.0.1:{port}/back")))
        .header("X-Clay-Signature", &secret)
        .shares(Shares::USUAL);
    let table = clay.add_table("leads", TableSettings { column: Some(column), ..TableSettings::default() });
    let since = OffsetDateTime::now_utc() - Duration::from_secs(3_600);
    let stop = CancellationToken::new();
    let running = tokio::spawn(parts.run_until(stop.clone()));
    let database = Database::open(settings);
    let done = async {
        let answer = hand_in(port, &token, count).await?;
        let is_complete = settle(&database, &table, wait).await?;
        let report = Report::read(&database, &find_tables(&config, &database).await?, since).await?;
        Ok(Circle { answer, clay: table.counts(), report, is_complete })
    }
    .await;
    stop.cancel();
    running.await??;
    database.close().await;
    done
}

fn configuration(url: &str, secret: &str, token: &str) -> String {
    format!(
        "[database]\nurl = \"postgres://nobody@localhost/unused\"\n\
         [ingest]\nlisten = \"127.0.0.1:0\"\nrows_tokens = [\"{token}\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [sources.back]\npath = \"/back\"\nverify = {{ kind = \"token\", header = \"X-Clay-Signature\", secrets = [\"{secret}\"] }}\n\
         idempotency = {{ pointers = [\"/claygate_id\"] }}\n\
         [destinations.leads]\nkind = \"clay\"\nworkspace = \"demo\"\nallow_private = true\nrate = \"200/s\"\n\
         webhooks = [{{ url = \"{url}\" }}]\nexpect_within = \"1s\"\nprice_per_row = {PRICE}\n\
         [destinations.leads.filter]\nrequired = [\"email\"]\n\
         [destinations.crm]\nkind = \"log\"\n[[rules]]\nname = \"all\"\nwhen = \"true\"\nto = [\"crm\"]\n"
    )
}

/// Hands the rows in as one request of lines.
async fn hand_in(port: u16, token: &str, count: u32) -> anyhow::Result<Value> {
    let client = reqwest::Client::builder().no_proxy().timeout(REQUEST_LIMIT).build()?;
    let answer = client
        .post(format!("http://127.0.0.1:{port}/v1/rows/leads"))
        .bearer_auth(token)
        .header("content-type", "application/x-ndjson")
        .body(people(count))
        .send()
        .await
        .context("handing the rows in")?;
    let status = answer.status();
    let body: Value = serde_json::from_slice(&answer.bytes().await?).unwrap_or_default();
    if !status.is_success() {
        bail!("the rows were answered with {status}");
    }
    Ok(body)
}

/// A line per person, every one invented.
fn people(count: u32) -> String {
    let mut lines = String::new();
    for n in 1..=count {
        let mut person = json!({ "first_name": "Ada", "last_name": format!("Sample {n}"), "website": "example.com" });
        if n % NO_EMAIL_EVERY != 0 {
            person["email"] = json!(format!("person-{n}@example.com"));
        }
        let line = format!("{person}\n");
        if n % REPEAT_EVERY == 0 {
            lines.push_str(&line);
        }
        lines.push_str(&line);
    }
    lines
}

/// Waits until every row was sent, every call was made, and everything that came back was routed; and until what is missing
/// by then is overdue. At most `limit`; answers whether that was enough.
async fn settle(database: &Database, table: &Table, limit: Duration) -> anyhow::Result<bool> {
    let bar = progress(0, "round the circle");
    let deadline = Instant::now() + limit;
    let mut quiet = 0;
    while quiet < QUIET_POLLS && Instant::now() < deadline {
        tokio::time::sleep(POLL_EVERY).await;
        let is_busy = row_batches::is_any_open(database).await? || table.counts().calls.waiting > 0;
        quiet = if is_busy { 0 } else { quiet + 1 };
    }
    bar.finish_and_clear();
    Ok(quiet >= QUIET_POLLS)
}
