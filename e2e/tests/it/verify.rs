//! `claygate verify` on a running site: what it prints, how it exits, and that it takes no work for a loss.

use std::time::{Duration, Instant};

use common::db::books::Verdict;
use rustix::process::Signal;
use serde_json::json;
use sqlx::AssertSqlSafe;
use testkit::receiver::{Answer, Receiver};

use crate::books;
use crate::sender::Sender;
use crate::services::{Services, all_to};
use crate::site::{LIMIT, Site, signal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_of_a_site_balance_until_something_is_changed_behind_them() {
    let receiver = Receiver::start().await;
    let site = Site::new(&all_to(&receiver)).without_books();
    let up = site.up().await;
    let sender = Sender::new(&site, &up);
    let mut answered = Vec::new();
    for n in 0..3 {
        let answer = sender.send(&format!(r#"{{"email":"{n}@example.com","icp_score":{n}}}"#)).await;
        answered.push(answer.id());
    }
    sender.send(r#"{"email":"0@example.com","icp_score":0}"#).await;
    let database = site.database();
    books::assert_all_delivered(&database, &answered).await;

    let report = site.json(&["verify", "--since", "2h", "--json"]).await;
    let totals = &report["totals"];
    assert_eq!(report["verdict"], "balanced", "{report}");
    assert_eq!(
        (&totals["received"], &totals["new"], &totals["duplicate"], &totals["deliveries"]["delivered"]),
        (&json!(4), &json!(3), &json!(1), &json!(3)),
        "{report}"
    );
    assert_eq!(report["spools"][0]["silent"], false, "{report}");

    let statement = format!("DELETE FROM claygate.callbacks WHERE id = '{}'", answered[1]);
    sqlx::query(AssertSqlSafe(statement)).execute(database.pool()).await.unwrap();
    let output = site.run(&["verify"]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in ["DIFFERENT", "3 callbacks were counted and 2 are there", &answered[1]] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert_eq!(site.run(&["verify", "--forget", "nobody"]).await.status.code(), Some(1));
    assert_eq!(site.run(&["verify", "--limit", "0s"]).await.status.code(), Some(2));
    signal(up.pid(), Signal::TERM);
    assert!(up.wait().success());

    // Without a running site the command starts the database for itself; the stopped intake has left nothing behind.
    let output = site.run(&["verify", "--json"]).await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &report["spools"][0]["stopped"]), (Some(1), &json!(true)), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_of_a_busy_site_balance_whenever_they_are_read() {
    const READ_FOR: Duration = Duration::from_secs(4);
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(200).after(Duration::from_millis(20)));
    let services = Services::new(&all_to(&receiver)).await;
    let intakes = [services.ingest("ingest-1").await, services.ingest("ingest-2").await];
    let workers = [services.worker("worker-1").await, services.worker("worker-2").await];
    let sender = services.sender(&intakes);
    let stream = sender.spawn_stream();
    let (started, mut busy) = (Instant::now(), [false; 3]);
    while started.elapsed() < READ_FOR || busy.contains(&false) {
        assert!(started.elapsed() < LIMIT, "nothing was ever under way: {busy:?}");
        // Some come again later.
        receiver.answer_in_turn([Answer::status(503)]);
        let report = books::read(&services.database.settings()).await;
        assert_eq!(report.verdict, Verdict::Balanced, "{:?}", report.differences);
        let totals = report.totals;
        busy[0] |= totals.in_progress > 0;
        busy[1] |= totals.deliveries.in_progress > 0;
        busy[2] |= totals.deliveries.delivered > 0;
    }
    let answered = stream.stop().await;
    books::assert_all_delivered(&services.database.database(), &answered).await;
    for service in intakes.into_iter().chain(workers) {
        service.terminate().await;
    }
}
