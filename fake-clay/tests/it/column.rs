//! Clay → us: what an HTTP API column sends, and when it tries again.

use std::time::Duration;

use fake_clay::{CallTo, Column, Counts, FakeClay, Settings, Shares, Table, TableSettings};
use serde_json::{Value, json};
use testkit::http::client;
use testkit::receiver::{Answer, Receiver};
use testkit::wait::wait_for;

const PATIENCE: Duration = Duration::from_secs(20);

fn quick(to: CallTo) -> Column {
    Column { delay: Duration::ZERO..=Duration::from_millis(20), per_second: None, ..Column::calling(to) }
}

async fn table_with(column: Column) -> (FakeClay, Table) {
    let clay = FakeClay::start(Settings { limit: None, ..Settings::default() }).await.unwrap();
    let table = clay.add_table("leads", TableSettings { column: Some(column), ..TableSettings::default() });
    (clay, table)
}

async fn send(table: &Table, row: Value) {
    let request = client().post(table.url()).header("content-type", "application/json").body(row.to_string());
    assert_eq!(request.send().await.unwrap().status(), 200);
}

/// Waits until nothing of `table` is under way.
async fn settled(table: &Table) -> Counts {
    wait_for("the column to end", PATIENCE, async || {
        let counts = table.counts();
        if counts.calls.waiting == 0 { Ok(counts) } else { Err(counts) }
    })
    .await
}

#[tokio::test]
async fn a_row_is_called_for_with_its_id_its_secret_and_what_was_found() {
    let receiver = Receiver::start().await;
    let (_clay, table) = table_with(quick(CallTo::Url(receiver.url("/in"))).header("x-clay-signature", "s3cret")).await;
    send(&table, json!({"claygate_id": "7", "email": "jane@example.com", "first_name": "Jane"})).await;
    let [request] = &receiver.wait_for_requests(1).await[..] else { panic!("one request") };
    assert_eq!((request.path.as_str(), request.header("x-clay-signature")), ("/in", Some("s3cret")));
    let body = request.json();
    assert_eq!((&body["claygate_id"], &body["email"]), (&json!("7"), &json!("jane@example.com")));
    assert!(body["icp_score"].is_i64());
    assert_eq!(settled(&table).await.calls.by_status, [(200, 1)].into());
}

#[tokio::test]
async fn a_row_is_called_for_at_the_url_in_its_own_cell() {
    let receiver = Receiver::start().await;
    let column = Column { names_row: false, ..quick(CallTo::Cell("callback_url".to_owned())) };
    let (_clay, table) = table_with(column).await;
    send(&table, json!({"claygate_id": "7", "callback_url": receiver.url("/in?cg_row=7")})).await;
    send(&table, json!({"claygate_id": "8"})).await;
    let [request] = &receiver.wait_for_requests(1).await[..] else { panic!("one request") };
    assert_eq!(request.path, "/in?cg_row=7");
    assert_eq!((request.json().get("claygate_id"), request.json().get("callback_url")), (None, None));
    assert_eq!(settled(&table).await.calls.not_run, 1);
}

#[tokio::test]
async fn it_tries_once_more_at_once_after_a_few_answers_only() {
    let receiver = Receiver::start().await;
    let (_clay, table) = table_with(quick(CallTo::Url(receiver.url("/")))).await;
    for (answers, requests) in [
        (vec![Answer::status(429)], 2),
        (vec![Answer::status(408), Answer::status(413)], 2),
        (vec![Answer::reset()], 2),
        (vec![Answer::status(500)], 1),
        (vec![Answer::status(503)], 1),
        (vec![Answer::status(401)], 1),
    ] {
        let before = receiver.requests().len();
        receiver.answer_in_turn(answers.clone());
        send(&table, json!({})).await;
        settled(&table).await;
        assert_eq!(receiver.requests().len() - before, requests, "{answers:?}");
    }
    let calls = table.counts().calls;
    assert_eq!((calls.retries, calls.unanswered), (3, 1));
    assert_eq!(calls.by_status, [(200, 2), (401, 1), (408, 1), (413, 1), (429, 1), (500, 1), (503, 1)].into());
}

#[tokio::test]
async fn its_rate_holds_and_every_share_is_counted() {
    let receiver = Receiver::start().await;
    let shares = Shares { silent: 0.2, malformed: 0.2, reruns: 0.5, ..Shares::USUAL };
    let (_clay, table) = table_with(quick(CallTo::Url(receiver.url("/"))).shares(shares)).await;
    for number in 0..60 {
        send(&table, json!({"claygate_id": number.to_string(), "email": format!("p{number}@example.com")})).await;
    }
    let calls = settled(&table).await.calls;
    assert!(calls.silent > 0 && calls.malformed > 0 && calls.reruns > 0 && calls.changed > 0, "{calls:?}");
    assert_eq!(calls.by_status, [(200, 60 - calls.silent + calls.reruns)].into());
    let bodies: Vec<Value> = receiver.requests().iter().map(testkit::receiver::ReceivedRequest::json).collect();
    assert!(bodies.iter().filter(|body| body.is_null()).count() as u64 >= calls.malformed);
    assert!(bodies.iter().any(|body| body["icp_score"].is_string()));

    let slow = Column {
        per_second: Some(20.0),
        delay: Duration::ZERO..=Duration::ZERO,
        ..quick(CallTo::Url(receiver.url("/")))
    };
    let (_clay, table) = table_with(slow).await;
    let started = std::time::Instant::now();
    for _ in 0..11 {
        send(&table, json!({})).await;
    }
    settled(&table).await;
    assert!(started.elapsed() >= Duration::from_millis(490), "{:?}", started.elapsed());
}
