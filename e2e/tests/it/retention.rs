//! Retention by real processes: workers that are killed in the middle of it, and the command.

use std::time::{Duration, SystemTime};

use common::db::books::{self, Scope, Verdict};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use testkit::metrics::MetricsPage;
use testkit::old_site;
use testkit::receiver::Receiver;
use testkit::wait::wait_for;

use crate::service::Service;
use crate::services::{Role, Services, all_to};
use crate::site::{LIMIT, Site};

const CALLBACKS: u32 = 20_000;
const RETENTION: &str = "[retention]\nattempts = \"14d\"\nbodies = \"14d\"\nleads = \"21d\"\nkeys = \"35d\"\n";

async fn count(services: &Services, from: &str) -> i64 {
    let statement = format!("SELECT count(*) FROM claygate.{from}");
    sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(services.database.pool()).await.unwrap()
}

async fn assert_balanced(services: &Services) {
    let ten_weeks = Duration::from_secs(70 * 24 * 60 * 60);
    let scope = Scope { since: (SystemTime::now() - ten_weeks).into(), limit: LIMIT, named_max: 5 };
    let report = books::verify(&services.database.settings(), scope, |_, _| {}).await.unwrap();
    assert_eq!(report.verdict, Verdict::Balanced, "{:?}", report.differences);
}

fn removed(page: &MetricsPage, what: &str) -> f64 {
    page.value("claygate_retention_removed_total", &[("what", what)]).unwrap()
}

/// Waits until one of the workers has run it to its end.
async fn wait_for_a_run(workers: &[Service]) -> MetricsPage {
    wait_for("retention to come to its end", LIMIT, async || {
        for worker in workers {
            let page = worker.metrics().await;
            if page.value("claygate_retention_last_success_timestamp_seconds", &[]) > Some(0.0)
                && page.value("claygate_retention_held", &[("what", "keys")]) > Some(0.0)
            {
                return Ok(page);
            }
        }
        Err("no worker has")
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_die_in_the_middle_of_retention_leave_books_that_balance() {
    const OLD_LEADS: &str = "leads WHERE received_at < now() - interval '22 days'";
    const OLD_KEYS: &str = "callbacks WHERE received_at < now() - interval '36 days'";
    let receiver = Receiver::start().await;
    let services = Services::new(&format!("{}{RETENTION}", all_to(&receiver))).await;
    old_site::fill(&services.database.database(), CALLBACKS).await;
    let before = [count(&services, OLD_LEADS).await, count(&services, OLD_KEYS).await];
    for (n, from) in [OLD_LEADS, OLD_KEYS].into_iter().enumerate() {
        let doomed = services.spawn(Role::Worker, &format!("doomed-{n}"));
        wait_for("something to be removed", LIMIT, async || {
            let left = count(&services, from).await;
            if left < before[n] { Ok(()) } else { Err(left) }
        })
        .await;
        doomed.kill();
        assert_balanced(&services).await;
    }

    let workers = [services.worker("worker-1").await, services.worker("worker-2").await];
    let page = wait_for_a_run(&workers).await;
    let waiting = count(
        &services,
        &format!("{OLD_KEYS} AND id IN (SELECT callback_id FROM claygate.deliveries WHERE state = 'pending')"),
    )
    .await;
    assert!(waiting > 100 && count(&services, OLD_KEYS).await == waiting, "{waiting}");
    assert!(removed(&page, "keys") > 0.0 && removed(&page, "bodies") + removed(&page, "attempts") < 20.0, "{page}");
    assert_balanced(&services).await;
    assert_eq!(receiver.requests().len(), 0, "nothing was sent by it");
    services.assert_logs_bounded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_says_what_it_would_do_and_does_it() {
    let site = Site::new(RETENTION);
    let planned = site.json(&["retention", "run", "--dry-run", "--json"]).await;
    let kinds: Vec<&Value> = planned.as_array().unwrap().iter().map(|one| &one["what"]).collect();
    assert_eq!(kinds, ["attempts", "bodies", "leads", "keys"]);
    let up = site.up().await;
    let output = site.run(&["retention", "run"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.contains("0 weeks removed") && text.contains("0 callbacks and rows removed"), "{text}");
    assert_eq!(up.metrics().await.value("claygate_retention_removed_total", &[("what", "keys")]), Some(0.0));
    assert!(up.terminate().success());

    let forever = Site::new("");
    let output = forever.run(&["retention", "run"]).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("Everything is kept for ever"), "{output:?}");
    assert_eq!(forever.run(&["retention", "run", "--dry"]).await.status.code(), Some(2));
    assert_eq!(Site::new("[retention]\nkeys = \"1d\"\n").run(&["retention", "run"]).await.status.code(), Some(1));
}
