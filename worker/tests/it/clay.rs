//! Rows into tables of Clay: counted before they are sent, each to a URL that takes it, and none sent in vain.

use common::config::WebhookName;
use common::db::clay_webhooks;
use common::db::destination_state;
use common::db::replay::replay_delivery;
use common::db::rows::{NewRow, RowKey, RowKeyKind, RowsFor, take_in};
use common::ids::{DeliveryId, RowId};
use common::queue::QueueName;
use secrecy::SecretString;
use serde_json::json;
use sqlx::Row;
use testkit::receiver::{Answer, Receiver};
use testkit::wait::wait_for;
use uuid::Uuid;

use crate::deliver_rig::{PATIENCE, Rig};

/// A destination whose URLs are `paths` of `receiver`, at a rate that no test waits for.
pub(crate) fn clay(name: &str, receiver: &Receiver, paths: &[&str], more: &str) -> String {
    let webhooks: Vec<String> = paths.iter().map(|path| format!("{{ url = \"{}\" }}", receiver.url(path))).collect();
    format!(
        "[destinations.{name}]\nkind = \"clay\"\nallow_private = true\nwebhooks = [{}]\nretries = [\"60s\", \"300s\"]\n\
         timeout = \"5s\"\nconnect_timeout = \"1s\"\nrate = \"100000/s\"\n{more}\n",
        webhooks.join(", ")
    )
}

/// What the table says of a URL.
#[derive(Debug, PartialEq)]
struct Url {
    used: i64,
    state: String,
    reason: Option<String>,
    today: i64,
}

async fn url(rig: &Rig, receiver: &Receiver, path: &str) -> Url {
    let name = WebhookName::of(&SecretString::from(receiver.url(path)));
    let row = sqlx::query(
        "SELECT used, state, reason, COALESCE((SELECT sum(n) FROM claygate.clay_usage AS u WHERE u.webhook = w.webhook), 0)::bigint
             AS today
         FROM claygate.clay_webhooks AS w WHERE webhook = $1",
    )
    .bind(name.as_str())
    .fetch_one(rig.test.pool())
    .await
    .unwrap();
    Url { used: row.get("used"), state: row.get("state"), reason: row.get("reason"), today: row.get("today") }
}

fn active(used: i64) -> Url {
    Url { used, state: "active".to_owned(), reason: None, today: used }
}

/// The path that a row was counted for, and whether Clay took it.
async fn row(rig: &Rig, receiver: &Receiver, paths: &[&str], id: Uuid) -> (Option<String>, bool) {
    let row = sqlx::query("SELECT webhook, sent_at IS NOT NULL AS sent FROM claygate.rows WHERE id = $1")
        .bind(id)
        .fetch_one(rig.test.pool())
        .await
        .unwrap();
    let webhook: Option<String> = row.get("webhook");
    let is_it = |path: &&&str| Some(WebhookName::of(&SecretString::from(receiver.url(path))).to_string()) == webhook;
    (paths.iter().find(is_it).map(|path| (*path).to_owned()), row.get("sent"))
}

async fn ended(rig: &Rig, id: DeliveryId) -> (String, Option<String>) {
    rig.end(id).await
}

fn delivered() -> (String, Option<String>) {
    ("delivered".to_owned(), None)
}

#[tokio::test]
async fn a_lead_becomes_a_row_that_is_known_again() {
    let receiver = Receiver::start().await;
    let more = "workspace = \"acme\"\n";
    let config = clay("leads", &receiver, &["/one"], more).replace(" }]", ", token = \"token-of-mine\" }]");
    let rig = Rig::start(&config).await;
    let id = rig.deliver("leads").await;
    assert_eq!(ended(&rig, id).await, delivered());
    let request = receiver.requests().remove(0);
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/one"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("x-clay-webhook-auth"), Some("token-of-mine"));
    let body = request.json();
    assert_eq!(body["claygate_id"], json!(id));
    assert_eq!(body["email"], json!("ada@example.com"));
    assert!(body.get("claygate").is_none());
    assert_eq!(row(&rig, &receiver, &["/one"], id.0).await, (Some("/one".to_owned()), true));
    assert_eq!(url(&rig, &receiver, "/one").await, active(1));
    let made: (String, String, bool) = sqlx::query_as(
        "SELECT r.workspace, r.destination, r.callback_id = d.callback_id FROM claygate.rows AS r
         JOIN claygate.deliveries AS d ON d.id = r.id",
    )
    .fetch_one(rig.test.pool())
    .await
    .unwrap();
    assert_eq!(made, ("acme".to_owned(), "leads".to_owned(), true));
}

#[tokio::test]
async fn what_is_sent_again_is_the_same_row() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&clay("leads", &receiver, &["/one"], "")).await;
    let first = rig.deliver("leads").await;
    assert_eq!(ended(&rig, first).await, delivered());
    let second = replay_delivery(&rig.database(), first, None).await.unwrap();
    rig.doorbell.ring(&QueueName::deliver("leads"));
    assert_eq!(ended(&rig, second).await, delivered());
    let third = replay_delivery(&rig.database(), second, None).await.unwrap();
    rig.doorbell.ring(&QueueName::deliver("leads"));
    assert_eq!(ended(&rig, third).await, delivered());

    let ids: Vec<serde_json::Value> =
        receiver.requests().iter().map(|request| request.json()["claygate_id"].clone()).collect();
    assert_eq!(ids, [json!(first), json!(first), json!(first)]);
    let rows: Vec<(Uuid, i32)> =
        sqlx::query_as("SELECT id, times_sent FROM claygate.rows").fetch_all(rig.test.pool()).await.unwrap();
    assert_eq!(rows, [(first.0, 3)]);
    assert_eq!(url(&rig, &receiver, "/one").await, active(3));
}

/// Hands in `bodies` as rows for `leads`, and answers the rows and their deliveries.
async fn hand_in(rig: &Rig, bodies: &[String]) -> Vec<(RowId, DeliveryId)> {
    let rows: Vec<NewRow> = bodies
        .iter()
        .map(|body| {
            let id = RowId::new();
            let hash = hash_of(id.0);
            NewRow {
                id,
                body: body.clone().into_bytes(),
                key: RowKey { kind: RowKeyKind::Content, hash },
                line: None,
                skip: None,
                once: None,
            }
        })
        .collect();
    let mut transaction = rig.test.pool().begin().await.unwrap();
    take_in(&mut transaction, RowsFor { destination: "leads", workspace: "default", batch: None }, &rows)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    rig.doorbell.ring(&QueueName::deliver("leads"));
    let mut made = Vec::new();
    for row in &rows {
        let delivery = sqlx::query_scalar("SELECT id FROM claygate.deliveries WHERE row_id = $1")
            .bind(row.id)
            .fetch_one(rig.test.pool())
            .await
            .unwrap();
        made.push((row.id, DeliveryId(delivery)));
    }
    made
}

/// 32 bytes that are the id's own.
fn hash_of(id: Uuid) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..16].copy_from_slice(id.as_bytes());
    hash
}

#[tokio::test]
async fn rows_that_were_handed_in_are_sent_as_they_are_with_their_own_id() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&clay("leads", &receiver, &["/one"], "")).await;
    let bodies: Vec<String> = (0..100).map(|n| json!({"n": n, "Work Email": "ada@example.com"}).to_string()).collect();
    let made = hand_in(&rig, &bodies).await;
    for (_, delivery) in &made {
        assert_eq!(ended(&rig, *delivery).await, delivered());
    }
    let mut seen: Vec<(String, i64)> = receiver
        .requests()
        .iter()
        .map(|request| {
            let body = request.json();
            assert_eq!(body["Work Email"], json!("ada@example.com"));
            (body["claygate_id"].as_str().unwrap().to_owned(), body["n"].as_i64().unwrap())
        })
        .collect();
    let mut expected: Vec<(String, i64)> = made.iter().zip(0..).map(|((row, _), n)| (row.to_string(), n)).collect();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
    assert_eq!(url(&rig, &receiver, "/one").await, active(100));
    assert_eq!(row(&rig, &receiver, &["/one"], made[0].0.0).await, (Some("/one".to_owned()), true));
}

#[tokio::test]
async fn a_body_of_templates_sees_leads_and_rows_alike() {
    let receiver = Receiver::start().await;
    let body = "body = { mail = \"{{ lead.email }}\", claygate_id = \"mine\", of = \"{{ claygate.rule }}\" }";
    let rig = Rig::start(&clay("leads", &receiver, &["/one"], body)).await;
    let lead = rig.deliver("leads").await;
    ended(&rig, lead).await;
    let made = hand_in(&rig, &[json!({"email": "bea@example.com"}).to_string()]).await;
    ended(&rig, made[0].1).await;
    let bodies: Vec<_> = receiver.requests().iter().map(|request| request.json()).collect();
    assert_eq!(bodies[0], json!({"mail": "ada@example.com", "claygate_id": lead, "of": "hot"}));
    assert_eq!(bodies[1], json!({"mail": "bea@example.com", "claygate_id": made[0].0, "of": null}));
}

#[tokio::test]
async fn a_full_url_hands_over_to_the_next_at_once_and_uses_no_attempt() {
    let receiver = Receiver::start().await;
    receiver.answer_at("/one", Answer::status(403).body("{\"message\":\"Record limit reached for webhook\"}"));
    receiver.answer_at("/two", Answer::status(404));
    let rig = Rig::start(&clay("leads", &receiver, &["/one", "/two", "/three"], "")).await;
    let id = rig.deliver("leads").await;
    assert_eq!(ended(&rig, id).await, delivered());
    let delivery = rig.row(id).await;
    assert_eq!((delivery.attempts, delivery.failures), (1, 0));
    let full = url(&rig, &receiver, "/one").await;
    assert_eq!((full.used, full.today, full.state.as_str()), (0, 0, "full"));
    let dead = url(&rig, &receiver, "/two").await;
    assert_eq!((dead.used, dead.state.as_str()), (0, "dead"));
    assert!(dead.reason.unwrap().contains("404"));
    assert_eq!(url(&rig, &receiver, "/three").await, active(1));
    assert_eq!(row(&rig, &receiver, &["/three"], id.0).await, (Some("/three".to_owned()), true));
    // They are asked no more.
    let next = rig.deliver("leads").await;
    assert_eq!(ended(&rig, next).await, delivered());
    let paths: Vec<String> = receiver.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/one", "/two", "/three", "/three"]);
}

#[tokio::test]
async fn the_count_rolls_over_and_without_any_url_left_rows_wait_for_a_new_one() {
    let receiver = Receiver::start().await;
    let paths = ["/one", "/two"];
    let limits = "cap = 3\nrollover = 2\nconcurrency = 1";
    let mut rig = Rig::start(&clay("leads", &receiver, &paths, limits)).await;
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(rig.deliver("leads").await);
    }
    receiver.wait_for_requests(6).await;
    let waiting = wait_for("two deliveries to be left", PATIENCE, async || {
        let mut waiting = Vec::new();
        for id in &ids {
            if rig.row(*id).await.state == "pending" {
                waiting.push(*id);
            }
        }
        if waiting.len() == 2 { Ok(waiting) } else { Err(waiting.len()) }
    })
    .await;
    assert_eq!(url(&rig, &receiver, "/one").await, active(3));
    assert_eq!(url(&rig, &receiver, "/two").await, active(3));
    let mut used: Vec<String> = receiver.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(used[..4], ["/one", "/one", "/two", "/two"]);
    used.sort();
    assert_eq!(used, ["/one", "/one", "/one", "/two", "/two", "/two"]);
    for id in &waiting {
        let delivery = rig.row(*id).await;
        assert_eq!((delivery.attempts, delivery.failures), (0, 0));
    }
    // The configuration gains a URL: they go on by themselves.
    rig.stop().await;
    let _more = rig.beside(&clay("leads", &receiver, &["/one", "/two", "/three"], limits));
    for id in &waiting {
        assert_eq!(ended(&rig, *id).await, delivered());
    }
    assert_eq!(url(&rig, &receiver, "/three").await, active(2));
}

#[tokio::test]
async fn a_refused_token_pauses_its_url_and_the_last_one_its_destination() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(401));
    let rig = Rig::start(&clay("leads", &receiver, &["/one", "/two"], "")).await;
    let id = rig.deliver("leads").await;
    let held = wait_for("the destination to be paused", PATIENCE, async || {
        let held = destination_state::list(&rig.database()).await.unwrap();
        held.into_iter().find(|one| one.destination == "leads").ok_or("not yet")
    })
    .await;
    assert_eq!(held.state.as_str(), "paused");
    assert!(held.reason.contains("401") && !held.reason.contains("http"), "{}", held.reason);
    let delivery = rig.tried(id, 1).await;
    assert_eq!((delivery.state.as_str(), delivery.failures), ("pending", 0));
    for path in ["/one", "/two"] {
        let paused = url(&rig, &receiver, path).await;
        assert_eq!((paused.used, paused.state.as_str()), (0, "paused"));
    }
    let before = receiver.requests().len();
    assert_eq!(before, 2);
    receiver.answer_with(Answer::status(200));
    assert_eq!(clay_webhooks::revive(&rig.database(), "leads").await.unwrap(), 2);
    destination_state::resume(&rig.database(), "leads").await.unwrap();
    assert_eq!(ended(&rig, id).await, delivered());
    assert_eq!(url(&rig, &receiver, "/one").await, active(1));
}

#[tokio::test]
async fn a_row_that_clay_would_refuse_is_neither_counted_nor_sent() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&clay("leads", &receiver, &["/one"], "")).await;
    let of_size = |bytes: usize| json!({ "note": "x".repeat(bytes - 70) }).to_string();
    let made = hand_in(&rig, &[of_size(100_070), of_size(99_900)]).await;
    let dead = ended(&rig, made[0].1).await;
    assert_eq!(dead, ("dead".to_owned(), Some("row_too_large".to_owned())));
    assert_eq!(ended(&rig, made[1].1).await, delivered());
    assert_eq!(url(&rig, &receiver, "/one").await, active(1));
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn what_was_not_answered_stays_counted_and_what_was_refused_does_not() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&clay("leads", &receiver, &["/one"], "")).await;
    receiver.answer_in_turn([Answer::reset(), Answer::status(500), Answer::status(400)]);
    for (n, state) in [(1, "pending"), (1, "pending"), (1, "dead")] {
        let id = rig.deliver("leads").await;
        let tried = rig.tried(id, n).await;
        assert_eq!(tried.state, state);
    }
    assert_eq!(url(&rig, &receiver, "/one").await, active(2));
    let sent: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.rows WHERE sent_at IS NOT NULL")
        .fetch_one(rig.test.pool())
        .await
        .unwrap();
    assert_eq!(sent, 0);
}
