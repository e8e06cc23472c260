//! Us → Clay: what a webhook takes, drops and refuses.

use std::time::Duration;

use fake_clay::{FakeClay, Fault, Keep, Limit, Settings, Table, TableSettings};
use futures_util::future::join_all;
use serde_json::{Value, json};
use testkit::http::client;

async fn unlimited() -> FakeClay {
    FakeClay::start(Settings { limit: None, ..Settings::default() }).await.unwrap()
}

async fn send(table: &Table, row: &Value) -> reqwest::Response {
    post(table, table.token().as_deref(), Some("application/json"), row.to_string()).await.unwrap()
}

async fn post(
    table: &Table,
    token: Option<&str>,
    content_type: Option<&str>,
    body: String,
) -> reqwest::Result<reqwest::Response> {
    let mut request = client().post(table.url()).body(body).timeout(Duration::from_secs(10));
    if let Some(token) = token {
        request = request.header("x-clay-webhook-auth", token);
    }
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    request.send().await
}

async fn read(answer: reqwest::Response) -> Value {
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn every_accepted_post_makes_a_row_and_nothing_is_recognised() {
    let clay = unlimited().await;
    let table = clay.add_table("leads", TableSettings::default());
    let id = "01920000-0000-7000-8000-000000000001";
    for _ in 0..2 {
        assert_eq!(send(&table, &json!({"claygate_id": id, "email": "jane@example.com"})).await.status(), 200);
    }
    assert_eq!(send(&table, &json!([{"email": "a@example.com"}, {"email": "b@example.com"}])).await.status(), 200);
    let counts = table.counts();
    assert_eq!((counts.accepted, counts.repeated, counts.without_id, counts.arrays), (3, 1, 1, 1));
    assert_eq!(table.repeated(), [(id.parse().unwrap(), 2)]);
    assert_eq!(table.rows().len(), 3);
    assert!(table.rows()[2].cells.is_empty());
}

#[tokio::test]
async fn what_is_above_the_workspaces_rate_is_dropped_whatever_table_it_is_for() {
    assert_eq!(Settings::default().limit, Some(Limit { per_second: 10.0, burst: 20 }));
    // So slow that the bucket gains nothing while they come, however long that takes.
    let slow = Limit { per_second: 0.001, burst: 20 };
    let clay = FakeClay::start(Settings { limit: Some(slow), ..Settings::default() }).await.unwrap();
    let tables = [clay.add_table("a", TableSettings::default()), clay.add_table("b", TableSettings::default())];
    let row = json!({});
    let answers = join_all((0..60).map(|n| send(&tables[n % 2], &row))).await;
    let taken = answers.iter().filter(|answer| answer.status() == 200).count();
    assert_eq!(taken, 20, "the burst alone");
    let dropped = answers.into_iter().find(|answer| answer.status() == 429).unwrap();
    assert_eq!(dropped.headers()["retry-after"], "1");
    assert_eq!(read(dropped).await["type"], "TooManyRequests");
    let counts = clay.counts();
    assert_eq!((counts.accepted as usize, counts.dropped as usize), (taken, 60 - taken));
    clay.set_limit(Some(Limit { burst: 1, ..slow }));
    assert_eq!(send(&tables[0], &row).await.status(), 200);
    assert_eq!(send(&tables[1], &row).await.status(), 429);
}

#[tokio::test]
async fn what_is_no_row_is_refused_and_counts_for_nothing() {
    let clay = unlimited().await;
    let table = clay.add_table("leads", TableSettings { token: Some("t0ken".to_owned()), ..TableSettings::default() });
    let json = Some("application/json");
    let big = json!({"text": "x".repeat(100_000)}).to_string();
    for (token, content_type, body, status) in [
        (None, json, "{}", 401),
        (Some("wrong"), json, "{}", 401),
        (Some("t0ken"), None, "{}", 400),
        (Some("t0ken"), Some("text/plain"), "{}", 400),
        (Some("t0ken"), json, "{", 400),
        (Some("t0ken"), json, "7", 400),
        (Some("t0ken"), json, big.as_str(), 413),
        (Some("t0ken"), Some("application/json; charset=utf-8"), "{}", 200),
    ] {
        let answer = post(&table, token, content_type, body.to_owned()).await.unwrap();
        assert_eq!(answer.status(), status, "{token:?} {content_type:?} {}", body.len());
    }
    table.rotate_token(Some("new"));
    assert_eq!(post(&table, Some("t0ken"), json, "{}".to_owned()).await.unwrap().status(), 401);
    assert_eq!(post(&table, Some("new"), json, "{}".to_owned()).await.unwrap().status(), 200);
    table.delete();
    assert_eq!(post(&table, Some("new"), json, "{}".to_owned()).await.unwrap().status(), 404);
    let elsewhere = format!("http://{}/v3/sources/webhook/nothing", clay.address());
    assert_eq!(client().post(elsewhere).send().await.unwrap().status(), 404);
    let counts = table.counts();
    assert_eq!(counts.accepted, 2);
    assert_eq!(counts.refused, [(400, 4), (401, 3), (404, 1), (413, 1)].into());
}

#[tokio::test]
async fn a_webhook_takes_so_many_rows_in_its_life_even_when_they_come_at_once() {
    let clay = FakeClay::start(Settings { limit: None, threads: 2, ..Settings::default() }).await.unwrap();
    let table = clay.add_table("leads", TableSettings { cap: Some(10), ..TableSettings::default() });
    let row = json!({});
    let answers = join_all((0..25).map(|_| send(&table, &row))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status() == 200).count(), 10);
    let full = answers.into_iter().find(|answer| answer.status() == 403).unwrap();
    assert_eq!(read(full).await["message"], "Record limit reached for webhook");
    assert_eq!(table.counts().refused, [(403, 15)].into());
    table.set_cap(None);
    assert_eq!(send(&table, &row).await.status(), 200);
}

#[tokio::test]
async fn faults_come_in_turn_and_may_keep_the_row() {
    let settings = Settings { limit: None, keep: Keep::Ids, too_large_status: 400, ..Settings::default() };
    let clay = FakeClay::start(settings).await.unwrap();
    let table = clay.add_table("leads", TableSettings::default());
    table.fail_next([Fault::status(500), Fault::reset(), Fault::reset().after_taking()]);
    let json = Some("application/json");
    assert_eq!(send(&table, &json!({})).await.status(), 500);
    assert!(post(&table, None, json, "{}".to_owned()).await.is_err());
    assert_eq!(table.counts().accepted, 0);
    assert!(post(&table, None, json, "{}".to_owned()).await.is_err());
    assert_eq!(table.counts().accepted, 1);
    table.fail(Some(Fault::hang()));
    let request = client().post(table.url()).header("content-type", "application/json").body("{}");
    assert!(request.timeout(Duration::from_millis(200)).send().await.unwrap_err().is_timeout());
    table.fail(None);
    assert_eq!(send(&table, &json!({})).await.status(), 200);
    assert_eq!(send(&table, &json!({"text": "x".repeat(100_000)})).await.status(), 400);
    assert_eq!((table.counts().accepted, table.counts().faults), (2, 4));
    assert!(table.rows().is_empty());
}
