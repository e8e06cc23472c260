//! What counts as the same, and what a change means.

use sqlx::Row;
use tokio::task::JoinSet;

use crate::books::assert_counts;
use crate::gateway::{Answer, CLAY, Gateway, PATH, SECRET, Site};

const NOTE: &str = "Same data as before; not sent again. Add ?run=2 to the URL to send it again.";

fn clay_with(idempotency: &str) -> String {
    format!("{CLAY}idempotency = {idempotency}\n")
}

async fn post_with_key(gateway: &Gateway, key: &str, body: &str) -> Answer {
    Answer::of(gateway.request().header("Idempotency-Key", key).body(body.to_owned())).await
}

#[tokio::test]
async fn a_repeat_answers_with_the_first_callback() {
    let (site, gateway) = Site::with(CLAY).await;
    let first = gateway.post(r#"{"email":"jane@example.com","score":1}"#).await;
    let repeat = gateway.post("{ \"score\": 1,\n  \"email\": \"jane@example.com\" }").await;
    assert_eq!(repeat.status_word(), "duplicate");
    assert_eq!(repeat.id(), first.id());
    assert_eq!(repeat.json["duplicate"], true);
    assert_eq!(repeat.text("first_received_at"), first.text("timestamp"));
    assert_eq!(repeat.text("note"), NOTE);
    assert_ne!(repeat.text("timestamp"), first.text("timestamp"));
    assert_counts(&site, [("duplicate", 1), ("new", 1)]).await;
    gateway.stop(&site).await;
}

#[tokio::test]
async fn the_run_parameter_sends_again() {
    let (site, gateway) = Site::with(CLAY).await;
    let post = async |query: &str| {
        let request = gateway.request_to(&format!("{PATH}{query}")).header("X-Clay-Signature", SECRET);
        Answer::of(request.body(r#"{"email":"jane@example.com"}"#)).await
    };
    let words = [post("").await, post("?run=2").await, post("?run=2").await, post("?run=3").await, post("?run=").await];
    let words = words.each_ref().map(Answer::status_word);
    assert_eq!(words, ["accepted", "accepted", "duplicate", "accepted", "duplicate"]);
    let paths = "SELECT count(DISTINCT headers->0->>1) FROM claygate.callback_bodies";
    assert_eq!(site.value::<i64>(paths).await, 3, "the path is kept with its run");
    gateway.stop(&site).await;
}

#[tokio::test]
async fn pointers_give_the_key_all_together_or_not_at_all() {
    let (site, gateway) = Site::with(&clay_with(r#"{ pointers = ["/row", "/table"], changed = "accept" }"#)).await;
    for (body, word, kind) in [
        (r#"{"row":"r1","table":"t","v":1}"#, "accepted", "pointer"),
        (r#"{"row":"r1","table":"t","v":1.0}"#, "accepted", "pointer"),
        (r#"{"row":"r1","table":"u","v":1.0}"#, "accepted", "pointer"),
        (r#"{"row":"r1","table":"u","v":1.0}"#, "duplicate", "pointer"),
        (r#"{"row":"r1","table":"{{Table}}","v":1}"#, "accepted", "content"),
        (r#"{"row":"r1","v":1}"#, "accepted", "content"),
        (r#"{"row":"r1","v":1}"#, "duplicate", "content"),
    ] {
        let answer = gateway.post(body).await;
        assert_eq!(answer.status_word(), word, "{body}");
        let stored = format!("SELECT key_kind FROM claygate.callbacks WHERE id = '{}'", answer.id());
        assert_eq!(site.value::<String>(stored).await, kind, "{body}");
    }
    gateway.stop(&site).await;
}

#[tokio::test]
async fn equal_keys_at_once_make_one_callback() {
    let (site, gateway) = Site::with(CLAY).await;
    let mut answers = JoinSet::new();
    for _ in 0..200 {
        answers.spawn(Answer::of(gateway.request().body(r#"{"email":"jane@example.com"}"#)));
    }
    let answers = answers.join_all().await;
    let accepted: Vec<&Answer> = answers.iter().filter(|answer| answer.status_word() == "accepted").collect();
    assert_eq!(accepted.len(), 1);
    assert!(answers.iter().all(|answer| answer.id() == accepted[0].id()));
    assert_counts(&site, [("duplicate", 199), ("new", 1)]).await;
    gateway.stop(&site).await;
}

#[tokio::test]
async fn different_data_under_one_key_at_once_is_numbered_without_gaps() {
    let (site, gateway) = Site::with(CLAY).await;
    let mut answers = JoinSet::new();
    for n in 0..40 {
        let request = gateway.request().header("Idempotency-Key", "one").body(format!(r#"{{"n":{n}}}"#));
        answers.spawn(Answer::of(request));
    }
    assert!(answers.join_all().await.iter().all(|answer| answer.status_word() == "accepted"));
    let revisions: Vec<i32> = site.value("SELECT array_agg(revision ORDER BY revision) FROM claygate.callbacks").await;
    assert_eq!(revisions, (0..40).collect::<Vec<_>>());
    gateway.stop(&site).await;
}

#[tokio::test]
async fn accepted_changes_are_revisions() {
    let (site, gateway) = Site::with(CLAY).await;
    let mut ids = Vec::new();
    for body in [r#"{"v":"a"}"#, r#"{"v":"b"}"#, r#"{"v":"a"}"#] {
        let answer = post_with_key(&gateway, "k", body).await;
        assert_eq!(answer.status_word(), "accepted");
        ids.push(answer.id().to_owned());
    }
    let repeat = post_with_key(&gateway, "k", r#"{"v":"a"}"#).await;
    assert_eq!((repeat.status_word(), repeat.id()), ("duplicate", &*ids[2]), "the latest revision counts");
    let rows = site.rows("SELECT id::text, revision, state FROM claygate.callbacks ORDER BY revision").await;
    let stored: Vec<(String, i32, String)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let expected: Vec<_> = ids.iter().zip(0..).map(|(id, n)| (id.clone(), n, "received".to_owned())).collect();
    assert_eq!(stored, expected);
    assert_counts(&site, [("duplicate", 1), ("new", 3)]).await;
    gateway.stop(&site).await;
}

#[tokio::test]
async fn recorded_changes_are_kept_and_not_routed() {
    let (site, gateway) = Site::with(&clay_with(r#"{ changed = "record" }"#)).await;
    assert_eq!(post_with_key(&gateway, "k", r#"{"v":"a"}"#).await.status_word(), "accepted");
    let change = post_with_key(&gateway, "k", r#"{"v":"b"}"#).await;
    assert_eq!(change.status_word(), "recorded");
    let stored = "SELECT state || ' ' || reason FROM claygate.callbacks WHERE revision = 1";
    assert_eq!(site.value::<String>(stored).await, "skipped recorded");
    assert_counts(&site, [("new", 2)]).await;
    gateway.stop(&site).await;
}

#[tokio::test]
async fn refused_changes_go_to_quarantine() {
    let (site, gateway) = Site::with(&clay_with(r#"{ changed = "conflict" }"#)).await;
    assert_eq!(post_with_key(&gateway, "k", r#"{"v":"a"}"#).await.status_word(), "accepted");
    let conflict = post_with_key(&gateway, "k", r#"{"v":"b"}"#).await;
    assert_eq!((conflict.status, conflict.text("type")), (409, "/problems/changed-data"));
    assert_eq!(conflict.json["quarantined"], true);
    let again = post_with_key(&gateway, "k", r#"{"v":"b"}"#).await;
    assert_eq!(again.id(), conflict.id(), "identical bytes are kept once");
    assert_eq!(post_with_key(&gateway, "k", r#"{"v":"a"}"#).await.status_word(), "duplicate");
    let kept = format!("SELECT problem || ' ' || seen FROM claygate.quarantine WHERE id = '{}'", conflict.id());
    assert_eq!(site.value::<String>(kept).await, "conflict 2");
    assert_counts(&site, [("conflict", 2), ("duplicate", 1), ("new", 1)]).await;
    gateway.stop(&site).await;
}
