//! What the operator's commands read and do: lists by key, the story, replays.

use std::time::Duration;

use common::db::dead_letters::{self, DeadFilter};
use common::db::events::{self, EventFilter, Found};
use common::db::replay::{self, ReplayError};
use common::ids::{CallbackId, DeliveryId};
use sqlx::{PgPool, Row};
use testkit::postgres::TestDatabase;
use uuid::Uuid;

/// Inserts a callback with its body, in a state.
async fn insert_callback(pool: &PgPool, source: &str, state: &str, reason: Option<&str>, minutes_ago: i32) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "WITH c AS (
             INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, state, reason)
             VALUES ($1, $2, sha256($1::text::bytea), 'content', sha256('x'), now() - make_interval(mins => $5), $3, $4)
             RETURNING id, received_at
         )
         INSERT INTO claygate.callback_bodies (callback_id, received_at, body, headers)
         SELECT id, received_at, '{ \"a\" : 1 }', '{}' FROM c",
    )
    .bind(id)
    .bind(source)
    .bind(state)
    .bind(reason)
    .bind(minutes_ago)
    .execute(pool)
    .await
    .unwrap();
    id
}

async fn insert_delivery(pool: &PgPool, callback: Uuid, destination: &str, state: &str, reason: Option<&str>) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "INSERT INTO claygate.deliveries (id, callback_id, destination, person, state, reason, ended_at, next_attempt_at)
         VALUES ($1, $2, $3, sha256('person'), $4, $5, CASE WHEN $4 <> 'pending' THEN now() END,
             CASE WHEN $4 = 'pending' THEN now() END)",
    )
    .bind(id)
    .bind(callback)
    .bind(destination)
    .bind(state)
    .bind(reason)
    .execute(pool)
    .await
    .unwrap();
    id
}

#[tokio::test]
async fn pages_of_events_follow_each_other_without_gaps() {
    let test = TestDatabase::create().await;
    let mut expected = Vec::new();
    for age in 0..7 {
        expected.push(insert_callback(test.pool(), "clay", "routed", None, age).await);
    }
    insert_callback(test.pool(), "other", "skipped", Some("no_rule"), 1).await;
    let database = test.database();
    let mut filter = EventFilter { source: Some("clay".to_owned()), ..EventFilter::default() };
    let mut seen = Vec::new();
    loop {
        let page = events::list(&database, &filter, 3).await.unwrap().unwrap();
        seen.extend(page.lines.iter().map(|event| event.id));
        let Some((_, id)) = page.next else { break };
        filter.before = Some(CallbackId(id));
    }
    assert_eq!(seen, expected);

    let skipped = EventFilter { state: Some("skipped".to_owned()), ..EventFilter::default() };
    assert_eq!(events::list(&database, &skipped, 10).await.unwrap().unwrap().lines.len(), 1);
    // What is not there any more is no place to go on from.
    filter.before = Some(CallbackId::new());
    assert_eq!(events::list(&database, &filter, 3).await.unwrap(), None);
}

#[tokio::test]
async fn an_alias_and_a_quarantined_id_are_found() {
    let test = TestDatabase::create().await;
    let database = test.database();
    let callback = insert_callback(test.pool(), "clay", "routed", None, 0).await;
    let (alias, quarantined) = (Uuid::now_v7(), Uuid::now_v7());
    sqlx::query("INSERT INTO claygate.callback_aliases VALUES ($1, $2, now())")
        .bind(alias)
        .bind(callback)
        .execute(test.pool())
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO claygate.quarantine (id, source, problem, detail, digest, body, headers, received_at, last_seen_at)
         VALUES ($1, 'clay', 'malformed', 'x', sha256('x'), 'x', '{}', now(), now())",
    )
    .bind(quarantined)
    .execute(test.pool())
    .await
    .unwrap();
    let found = async |id| events::resolve(&database, id).await.unwrap();
    assert_eq!(found(callback).await, Some(Found::Callback(CallbackId(callback))));
    assert_eq!(found(alias).await, Some(Found::Callback(CallbackId(callback))));
    assert_eq!(found(quarantined).await, Some(Found::Quarantined(quarantined)));
    assert_eq!(found(Uuid::now_v7()).await, None);
}

#[tokio::test]
async fn the_story_has_everything_and_the_body_is_exact() {
    let test = TestDatabase::create().await;
    let database = test.database();
    let callback = insert_callback(test.pool(), "clay", "routed", None, 0).await;
    let delivery = insert_delivery(test.pool(), callback, "outreach", "dead", Some("terminal")).await;
    sqlx::query(
        "INSERT INTO claygate.attempts (delivery_id, number, started_at, duration_ms, class, status, response, owned)
         VALUES ($1, 1, now(), 12, 'permanent', 400, '\\xff00', true)",
    )
    .bind(delivery)
    .execute(test.pool())
    .await
    .unwrap();
    let story = events::story(&database, CallbackId(callback)).await.unwrap().unwrap();
    assert_eq!(story["callback"]["state"], "routed");
    assert_eq!(story["revisions"].as_array().unwrap().len(), 1);
    assert_eq!(story["deliveries"][0]["reason"], "terminal");
    assert_eq!(story["deliveries"][0]["attempts"][0]["status"], 400);
    assert_eq!(events::body(&database, CallbackId(callback)).await.unwrap().unwrap(), b"{ \"a\" : 1 }");
    assert!(events::story(&database, CallbackId(Uuid::now_v7())).await.unwrap().is_none());
}

#[tokio::test]
async fn dead_letters_are_deliveries_and_callbacks() {
    let test = TestDatabase::create().await;
    let database = test.database();
    let unroutable = insert_callback(test.pool(), "clay", "dead", Some("rule_error"), 0).await;
    sqlx::query(
        "INSERT INTO claygate.decisions (callback_id, routing, rules_version, outcome, reason, trace)
         VALUES ($1, 0, 'v', 'dead', 'rule_error', '[]')",
    )
    .bind(unroutable)
    .execute(test.pool())
    .await
    .unwrap();
    let callback = insert_callback(test.pool(), "clay", "routed", None, 0).await;
    let dead = insert_delivery(test.pool(), callback, "outreach", "dead", Some("attempts_used")).await;
    insert_delivery(test.pool(), callback, "alerts", "delivered", None).await;

    let all = dead_letters::list(&database, &DeadFilter::default(), 10).await.unwrap();
    let mut kinds: Vec<_> = all.lines.iter().map(|letter| (letter.kind.as_str(), letter.id)).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, [("callback", unroutable), ("delivery", dead)]);

    let outreach = DeadFilter { destination: Some("outreach".to_owned()), ..DeadFilter::default() };
    assert_eq!(dead_letters::list(&database, &outreach, 10).await.unwrap().lines.len(), 1);
    let first = dead_letters::list(&database, &DeadFilter::default(), 1).await.unwrap();
    let before = first.next;
    let rest = dead_letters::list(&database, &DeadFilter { before, ..DeadFilter::default() }, 10).await.unwrap();
    assert_eq!((rest.lines.len(), rest.next), (1, None));
    assert_ne!(rest.lines[0].id, first.lines[0].id);

    // Routed again, it is no dead letter any more.
    replay::replay_callback(&database, CallbackId(unroutable)).await.unwrap();
    assert_eq!(dead_letters::list(&database, &DeadFilter::default(), 10).await.unwrap().lines.len(), 1);
}

#[tokio::test]
async fn a_callback_is_routed_again_as_often_as_wanted() {
    let test = TestDatabase::create().await;
    let database = test.database();
    let id = CallbackId(insert_callback(test.pool(), "clay", "skipped", Some("no_rule"), 90).await);
    sqlx::query("INSERT INTO claygate.sweep_marks VALUES ('callbacks', now())").execute(test.pool()).await.unwrap();

    for routing in 1..=2 {
        replay::replay_callback(&database, id).await.unwrap();
        assert!(matches!(replay::replay_callback(&database, id).await, Err(ReplayError::InProgress)));
        let row = sqlx::query(
            "SELECT c.routing, c.reason, m.position <= c.received_at AS swept
             FROM claygate.callbacks AS c, claygate.sweep_marks AS m WHERE c.id = $1",
        )
        .bind(id.0)
        .fetch_one(test.pool())
        .await
        .unwrap();
        assert_eq!(row.get::<i32, _>("routing"), routing);
        assert_eq!(row.get::<Option<String>, _>("reason"), None);
        assert!(row.get::<bool, _>("swept"), "the sweeper's mark lies behind a callback that has not ended");
        sqlx::query("UPDATE claygate.callbacks SET state = 'routed' WHERE id = $1")
            .bind(id.0)
            .execute(test.pool())
            .await
            .unwrap();
    }
    let queued: Vec<Vec<Uuid>> =
        sqlx::query_scalar("SELECT refs FROM claygate.outbox").fetch_all(test.pool()).await.unwrap();
    assert_eq!(queued, [[id.0], [id.0]]);

    sqlx::query("DELETE FROM claygate.callback_bodies").execute(test.pool()).await.unwrap();
    assert!(matches!(replay::replay_callback(&database, id).await, Err(ReplayError::BodyExpired)));
    let unknown = replay::replay_callback(&database, CallbackId::new()).await;
    assert!(matches!(unknown, Err(ReplayError::Unknown)));
}

#[tokio::test]
async fn a_delivery_is_sent_again_as_a_new_one_that_takes_the_cool_down() {
    let test = TestDatabase::create().await;
    let database = test.database();
    let callback = insert_callback(test.pool(), "clay", "routed", None, 0).await;
    let dead = DeliveryId(insert_delivery(test.pool(), callback, "outreach", "dead", Some("terminal")).await);
    sqlx::query(
        "INSERT INTO claygate.leads (callback_id, received_at, extra, warnings) VALUES ($1, now(), '{}', '{}')
         ON CONFLICT DO NOTHING",
    )
    .bind(callback)
    .execute(test.pool())
    .await
    .unwrap();
    let month = Some(Duration::from_secs(30 * 86_400));

    let first = replay::replay_delivery(&database, dead, month).await.unwrap();
    let second = replay::replay_delivery(&database, dead, month).await.unwrap();
    assert!(matches!(replay::replay_delivery(&database, first, month).await, Err(ReplayError::InProgress)));
    let replays: Vec<(Uuid, i32, String)> =
        sqlx::query_as("SELECT id, replay, state FROM claygate.deliveries ORDER BY replay")
            .fetch_all(test.pool())
            .await
            .unwrap();
    let pending = |id: DeliveryId, n| (id.0, n, "pending".to_owned());
    assert_eq!(replays, [(dead.0, 0, "dead".to_owned()), pending(first, 1), pending(second, 2)]);
    let holder: Uuid =
        sqlx::query_scalar("SELECT delivery_id FROM claygate.cooldowns").fetch_one(test.pool()).await.unwrap();
    assert_eq!(holder, second.0);
}
