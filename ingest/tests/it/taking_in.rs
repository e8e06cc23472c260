//! The happy path, and what must not disturb it.

use std::time::Duration;

use serde_json::json;
use sqlx::{Executor, Row};
use testkit::postgres::TestDatabase;
use testkit::wait::wait_until;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::books::assert_counts;
use crate::gateway::{Answer, CLAY, LIMIT, PATH, SECRET, Site};

#[tokio::test]
async fn a_callback_is_stored_queued_and_counted_before_it_is_answered() {
    let (site, gateway) = Site::with(CLAY).await;
    let answer = gateway.post(r#"{"email":"jane@example.com","icp_score":"85"}"#).await;

    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    let id: Uuid = answer.id().parse().unwrap();
    let timestamp = OffsetDateTime::parse(answer.text("timestamp"), &Rfc3339).unwrap();
    let expected = json!({
        "received": true, "id": id, "status": "accepted", "duplicate": false, "timestamp": answer.text("timestamp"),
    });
    assert_eq!(answer.json, expected);

    let rows =
        site.rows("SELECT id, source, key_kind, revision, received_at, state, spooled FROM claygate.callbacks").await;
    let row = &rows[0];
    assert_eq!((rows.len(), row.get::<Uuid, _>(0), row.get::<&str, _>(1)), (1, id, "clay"));
    assert_eq!((row.get::<&str, _>(2), row.get::<i32, _>(3)), ("content", 0));
    assert_eq!((row.get::<OffsetDateTime, _>(4), row.get::<&str, _>(5)), (timestamp, "received"));
    assert!(!row.get::<bool, _>(6));
    let queued = site.rows("SELECT queue, refs FROM claygate.outbox").await;
    assert_eq!((queued[0].get::<&str, _>(0), queued[0].get::<Vec<Uuid>, _>(1)), ("callbacks", vec![id]));
    assert_counts(&site, [("new", 1)]).await;

    let headers: String = site.value("SELECT headers::text FROM claygate.callback_bodies").await;
    assert!(headers.contains("[redacted]") && !headers.contains(SECRET), "{headers}");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn bodies_are_kept_byte_for_byte() {
    let (site, gateway) = Site::with(CLAY).await;
    let bodies = [
        " { \"a\" :\t1 }\r\n\n",
        r#"{"name":"Jos\u00e9"}"#,
        r#"{"name":"José"}"#,
        r#"{"twice":1,"twice":2}"#,
        r#"{"number":1e2}"#,
        r#"{"number":100}"#,
        r#"{"big":18446744073709551617}"#,
        r#"{"nul":"\u0000","key\u0000":1}"#,
        "{}",
    ];
    for body in bodies {
        let answer = gateway.post(body).await;
        let word = if body.contains("José") { "duplicate" } else { "accepted" };
        assert_eq!(answer.status_word(), word, "{body}");
        let kept: Vec<u8> = site
            .value(format!("SELECT body FROM claygate.callback_bodies WHERE callback_id = '{}'", answer.id()))
            .await;
        let expected = if word == "duplicate" { bodies[1] } else { body };
        assert_eq!(String::from_utf8(kept).unwrap(), expected);
    }
    gateway.stop(&site).await;
}

#[tokio::test]
async fn routine_webhooks_and_test_events_are_recorded_only() {
    let (site, gateway) = Site::with(CLAY).await;
    let routine = gateway.post(r#"{"webhookId":"w","createdAt":"now","data":{"routine_run_id":"r1"}}"#).await;
    let test_event = gateway.post(r#"{"webhookId":"w","createdAt":"now","data":{}}"#).await;
    let again = gateway.post(r#"{"webhookId":"w","createdAt":"now","data":{}}"#).await;
    let words = [routine.status_word(), test_event.status_word(), again.status_word()];
    assert_eq!(words, ["recorded", "recorded", "duplicate"]);
    for (answer, reason) in [(&routine, "routine"), (&test_event, "test_event")] {
        let sql = format!("SELECT state || ' ' || reason FROM claygate.callbacks WHERE id = '{}'", answer.id());
        assert_eq!(site.value::<String>(sql).await, format!("skipped {reason}"));
    }
    assert_counts(&site, [("duplicate", 1), ("new", 2)]).await;
    gateway.stop(&site).await;
}

#[tokio::test]
async fn a_client_that_disconnects_cancels_nothing() {
    // Nothing is spooled while the lock is held: what is taken in stays in flight.
    let limits = "[ingest]\nlisten = \"127.0.0.1:0\"\nthreads = 1\n\
                  [ingest.limits]\nin_flight = 6\ncommit_timeout = \"60s\"\n";
    let (site, gateway) = Site::with(&format!("{limits}{CLAY}")).await;
    let mut holder = site.connect().await;
    holder.execute("BEGIN; LOCK TABLE claygate.callbacks IN EXCLUSIVE MODE").await.unwrap();
    let mut clients = Vec::new();
    for n in 0..6 {
        let body = format!(r#"{{"n":{n}}}"#);
        let request = format!(
            "POST {PATH} HTTP/1.1\r\nHost: localhost\r\nX-Clay-Signature: {SECRET}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        clients.push(gateway.connect(request).await);
    }
    // Some are being committed then, the others wait for a writer.
    wait_until("a writer to wait for the lock", LIMIT, || async { waiting_for_locks(&site).await >= 1 }).await;
    // One more is refused as soon as six are in flight. Until then it is one of them, and disconnects like them.
    let mut others = Vec::new();
    let refused = async {
        loop {
            let body = format!(r#"{{"other":{}}}"#, others.len());
            let mut other = tokio::spawn(Answer::of(gateway.request().body(body)));
            match tokio::time::timeout(Duration::from_millis(500), &mut other).await {
                Ok(answer) => return answer.unwrap().status,
                Err(_) => others.push(other),
            }
        }
    };
    assert_eq!(tokio::time::timeout(LIMIT, refused).await.expect("a refusal"), 429);
    others.iter().for_each(tokio::task::JoinHandle::abort);
    for client in clients {
        // A reset, not a farewell.
        client.set_zero_linger().unwrap();
    }
    holder.execute("COMMIT").await.unwrap();
    wait_until("every callback to be stored", LIMIT, || async { site.count("callbacks").await == 6 }).await;
    gateway.stop(&site).await;
}

#[tokio::test]
async fn a_stop_answers_what_was_taken() {
    let (site, gateway) = Site::with(CLAY).await;
    let mut holder = site.connect().await;
    holder.execute("BEGIN; LOCK TABLE claygate.callbacks IN EXCLUSIVE MODE").await.unwrap();
    let request = gateway.request().body(r#"{"email":"last@example.com"}"#);
    let answer = tokio::spawn(Answer::of(request));
    wait_until("the commit to wait for the lock", LIMIT, || async { waiting_for_locks(&site).await == 1 }).await;
    gateway.ask_to_stop();
    holder.execute("COMMIT").await.unwrap();
    assert_eq!(answer.await.unwrap().status_word(), "accepted");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn a_row_that_postgres_refuses_does_not_fail_its_neighbours() {
    let (site, gateway) = Site::with(CLAY).await;
    site.execute(
        "ALTER TABLE claygate.callback_bodies ADD CONSTRAINT test_refused CHECK (position('refuse' IN body) = 0)",
    )
    .await;
    let mut holder = site.connect().await;
    holder.execute("BEGIN; LOCK TABLE claygate.callbacks IN EXCLUSIVE MODE").await.unwrap();
    let mut answers = JoinSet::new();
    for n in 0..24 {
        let word = if n % 8 == 5 { "refuse" } else { "take" };
        let request = gateway.request().body(format!(r#"{{"n":{n},"word":"{word}"}}"#));
        answers.spawn(async move { (word, Answer::of(request).await) });
    }
    wait_until("a writer to wait for the lock", LIMIT, || async { waiting_for_locks(&site).await >= 1 }).await;
    holder.execute("COMMIT").await.unwrap();
    while let Some(answered) = answers.join_next().await {
        let (word, answer) = answered.unwrap();
        if word == "take" {
            assert_eq!(answer.status_word(), "accepted");
        } else {
            assert_eq!((answer.status, answer.text("type")), (400, "/problems/refused"));
            assert_eq!(answer.json["quarantined"], true);
            let kept = format!("SELECT problem FROM claygate.quarantine WHERE id = '{}'", answer.id());
            assert_eq!(site.value::<String>(kept).await, "refused");
        }
    }
    assert_counts(&site, [("new", 21), ("quarantined", 3)]).await;
    gateway.stop(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_with_overlapping_keys_never_deadlock() {
    let (site, gateway) = Site::with(CLAY).await;
    // Rows that take their time make the batches large and let them overlap.
    site.execute(
        "CREATE FUNCTION claygate.test_slow() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END $$; \
         CREATE TRIGGER test_slow BEFORE INSERT ON claygate.callbacks \
         FOR EACH ROW EXECUTE FUNCTION claygate.test_slow()",
    )
    .await;
    let mut answers = JoinSet::new();
    for n in 0..600 {
        // Every writer meets the same keys in another order.
        let key = (n * 37) % 60;
        let request =
            gateway.request().header("Idempotency-Key", format!("key-{key}")).body(format!("{{\"k\":{key}}}"));
        answers.spawn(Answer::of(request));
    }
    let mut words = Vec::new();
    while let Some(answer) = answers.join_next().await {
        words.push(answer.unwrap().status_word().to_owned());
    }
    assert_eq!(words.iter().filter(|word| *word == "accepted").count(), 60);
    assert_eq!(words.iter().filter(|word| *word == "duplicate").count(), 540);
    gateway.stop(&site).await;
    let deadlocks: i64 = site.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await;
    assert_eq!(deadlocks, 0);
}

/// Statements of the intake that wait for a lock now.
async fn waiting_for_locks(site: &Site) -> i64 {
    site.value(
        "SELECT count(*) FROM pg_stat_activity \
         WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%claygate.callbacks%'",
    )
    .await
}

#[tokio::test]
async fn it_starts_without_a_schema_and_commits_once_there_is_one() {
    let site = Site::on(TestDatabase::create_empty().await);
    let gateway = site.start(CLAY).await;
    let spooled = gateway.post(r#"{"email":"early@example.com"}"#).await;
    assert_eq!(spooled.status_word(), "spooled");
    common::db::migrate(&site.database.settings()).await.unwrap();
    gateway.wait_until_drained().await;
    assert_eq!(gateway.post(r#"{"email":"late@example.com"}"#).await.status_word(), "accepted");
    let id: Uuid = site.value("SELECT id FROM claygate.callbacks WHERE spooled").await;
    assert_eq!(id.to_string(), spooled.id());
    gateway.stop(&site).await;
}
