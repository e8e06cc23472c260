//! What lanes, leases and records promise when things go wrong around an attempt.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::db::{ConnectSettings, Database};
use common::queue::QueueName;
use testkit::postgres::TestDatabase;
use testkit::receiver::{Answer, Receiver};
use testkit::wait::wait_for;
use uuid::Uuid;
use worker::destinations::Target;
use worker::destinations::guard::Guard;

use crate::deliver_rig::{PATIENCE, Rig, config, http};

#[tokio::test]
async fn a_destination_that_hangs_slows_no_other() {
    let (hung, quick) = (Receiver::start().await, Receiver::start().await);
    hung.answer_with(Answer::hang());
    let both = http("hung", &hung.url("/"), "concurrency = 2") + &http("quick", &quick.url("/"), "concurrency = 2");
    let rig = Rig::start(&both).await;
    for _ in 0..4 {
        rig.deliver("hung").await;
    }
    hung.wait_for_requests(2).await;
    let ids = [rig.deliver("quick").await, rig.deliver("quick").await, rig.deliver("quick").await];
    for id in ids {
        assert_eq!(rig.end(id).await.0, "delivered");
    }
    assert_eq!((hung.requests().len(), hung.in_flight_max()), (2, 2));
}

#[tokio::test]
async fn a_batch_is_sent_within_its_slots() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(200).after(Duration::from_millis(50)));
    let rig = Rig::start(&http("crm", &receiver.url("/"), "concurrency = 3")).await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(rig.insert("crm").await);
    }
    rig.enqueue("crm", &ids).await;
    for id in ids {
        assert_eq!(rig.end(id).await.0, "delivered");
    }
    assert_eq!((receiver.requests().len(), receiver.in_flight_max()), (20, 3));
}

#[tokio::test]
async fn an_attempt_whose_lease_was_lost_is_recorded_and_changes_nothing() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(400).after(Duration::from_millis(500)));
    let rig = Rig::start(&http("crm", &receiver.url("/"), "")).await;
    let id = rig.deliver("crm").await;
    receiver.wait_for_requests(1).await;
    sqlx::query("UPDATE claygate.deliveries SET lease_token = $2 WHERE id = $1")
        .bind(id.0)
        .bind(Uuid::new_v4())
        .execute(rig.test.pool())
        .await
        .unwrap();
    let row = rig.wait(id, "the record", |row| row.attempts == 1).await;
    assert_eq!((row.state.as_str(), row.leased, row.failures), ("pending", true, 0));
    let attempts = rig.attempts(id).await;
    assert_eq!((attempts.len(), attempts[0].owned, attempts[0].class.as_str()), (1, false, "permanent"));
}

#[tokio::test]
async fn a_delivery_that_has_ended_makes_no_request_again() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&http("crm", &receiver.url("/"), "")).await;
    let id = rig.deliver("crm").await;
    assert_eq!(rig.end(id).await.0, "delivered");
    rig.enqueue("crm", &[id]).await;
    enqueue_as_redelivered(&rig, "crm", id.0).await;
    wait_for("an empty queue", PATIENCE, async || {
        let (queued, _) = rig.queued(&QueueName::deliver("crm")).await;
        if queued == 0 { Ok(()) } else { Err(queued) }
    })
    .await;
    assert_eq!((receiver.requests().len(), rig.attempts(id).await.len()), (1, 1));
}

/// An entry that was claimed before and not acknowledged.
async fn enqueue_as_redelivered(rig: &Rig, destination: &str, id: Uuid) {
    let queue = QueueName::deliver(destination);
    sqlx::query("INSERT INTO claygate.outbox (queue, refs, claims) VALUES ($1, $2, 1)")
        .bind(queue.as_str())
        .bind(vec![id])
        .execute(rig.test.pool())
        .await
        .unwrap();
    rig.doorbell.ring(&queue);
}

#[tokio::test]
async fn claims_of_redelivered_messages_are_counted_and_end_as_poison() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&http("crm", &receiver.url("/"), "")).await;
    let (fine, poison) = (rig.insert("crm").await, rig.insert("crm").await);
    sqlx::query("UPDATE claygate.deliveries SET claims = CASE WHEN id = $1 THEN 4 ELSE 5 END")
        .bind(fine.0)
        .execute(rig.test.pool())
        .await
        .unwrap();
    enqueue_as_redelivered(&rig, "crm", fine.0).await;
    enqueue_as_redelivered(&rig, "crm", poison.0).await;
    assert_eq!(rig.end(fine).await.0, "delivered");
    assert_eq!(rig.end(poison).await, ("dead".to_owned(), Some("poison".to_owned())));
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn a_connection_that_is_killed_costs_no_outcome() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&http("crm", &receiver.url("/"), "")).await;
    let first = rig.deliver("crm").await;
    assert_eq!(rig.end(first).await.0, "delivered");
    receiver.answer_with(Answer::status(200).after(Duration::from_millis(500)));
    let second = rig.deliver("crm").await;
    receiver.wait_for_requests(2).await;
    let own = Database::open(rig.test.settings());
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .execute(own.pool())
    .await
    .unwrap();
    wait_for("the record", PATIENCE, async || {
        let state: String = sqlx::query_scalar("SELECT state FROM claygate.deliveries WHERE id = $1")
            .bind(second.0)
            .fetch_one(own.pool())
            .await
            .unwrap();
        if state == "delivered" { Ok(()) } else { Err(state) }
    })
    .await;
    let n: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.attempts WHERE delivery_id = $1")
        .bind(second.0)
        .fetch_one(own.pool())
        .await
        .unwrap();
    assert_eq!((n, receiver.requests().len()), (1, 2));
}

#[tokio::test]
async fn a_stop_cuts_off_what_hangs_and_gives_it_back() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::hang());
    let mut rig =
        Rig::start(&http("crm", &receiver.url("/"), "timeout = \"60s\"").replace("timeout = \"5s\"\n", "")).await;
    let id = rig.deliver("crm").await;
    receiver.wait_for_requests(1).await;
    rig.stop().await;
    let row = rig.row(id).await;
    assert_eq!((row.state.as_str(), row.leased, row.attempts, row.failures), ("pending", false, 1, 0));
    assert!(row.wait_s.unwrap() <= 0.0);
    assert_eq!(rig.queued(&QueueName::deliver("crm")).await.0, 1);
}

#[tokio::test]
async fn a_panic_ends_its_delivery_and_gives_its_slot_back() {
    let test = TestDatabase::create().await;
    let text = http("crm", "http://crm.example.com/", "concurrency = 1");
    let config = config(&text);
    let guard = Guard::with_lookup(true, Arc::new(|_| panic!("a resolver that breaks")));
    let target = Target::prepare_with(&config.destinations["crm"], guard).unwrap();
    let rig = Rig::with_targets(test, &config, HashMap::from([("crm".to_owned(), target)]));
    for _ in 0..2 {
        let id = rig.deliver("crm").await;
        assert_eq!(rig.end(id).await, ("dead".to_owned(), Some("poison".to_owned())));
        assert_eq!(rig.attempts(id).await[0].class, "poison");
    }
}

#[tokio::test]
async fn a_backlog_is_worked_off_in_groups() {
    let rig = Rig::start("[destinations.notes]\nkind = \"log\"\n").await;
    sqlx::query(
        "WITH made AS (
             INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, state)
             SELECT id, 'clay', sha256(id::text::bytea), 'pointer', sha256(id::text::bytea), now(), 'routed'
             FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, 1000)) AS ids RETURNING id
         ), led AS (
             INSERT INTO claygate.leads (callback_id, received_at, extra, warnings) SELECT id, now(), '{}', '{}' FROM made
         ), queued AS (
             INSERT INTO claygate.outbox (queue, refs)
             SELECT 'deliver.notes', array_agg(id) FROM (SELECT id, row_number() OVER () / 50 AS chunk FROM made) AS c
             GROUP BY chunk
         )
         INSERT INTO claygate.deliveries (id, callback_id, destination, next_attempt_at)
         SELECT id, id, 'notes', now() FROM made",
    )
    .execute(rig.test.pool())
    .await
    .unwrap();
    rig.doorbell.ring(&QueueName::deliver("notes"));
    wait_for("the backlog to end", PATIENCE, async || {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.deliveries WHERE state = 'pending'")
            .fetch_one(rig.test.pool())
            .await
            .unwrap();
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    let attempts: i64 =
        sqlx::query_scalar("SELECT count(*) FROM claygate.attempts").fetch_one(rig.test.pool()).await.unwrap();
    assert_eq!(attempts, 1000);
}

#[tokio::test]
async fn an_outcome_waits_for_a_database_that_is_away() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&http("crm", &receiver.url("/"), "")).await;
    receiver.answer_with(Answer::status(200).after(Duration::from_millis(500)));
    let id = rig.deliver("crm").await;
    receiver.wait_for_requests(1).await;
    let name = rig.test.settings().database;
    let server = Database::open(ConnectSettings { database: "postgres".to_owned(), ..rig.test.settings() });
    let allow = |allowed: bool| {
        let statement = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}");
        let server = server.clone();
        async move { sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(server.pool()).await.unwrap() }
    };
    allow(false).await;
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1")
        .bind(&name)
        .execute(server.pool())
        .await
        .unwrap();
    wait_for("the answer", PATIENCE, async || if receiver.in_flight() == 0 { Ok(()) } else { Err("none yet") }).await;
    allow(true).await;
    let fresh = Database::open(rig.test.settings());
    let fresh = &fresh;
    wait_for("the record", PATIENCE, async || {
        let found: (String, i32) = sqlx::query_as("SELECT state, attempts FROM claygate.deliveries WHERE id = $1")
            .bind(id.0)
            .fetch_one(fresh.pool())
            .await
            .unwrap();
        if found == ("delivered".to_owned(), 1) { Ok(()) } else { Err(found) }
    })
    .await;
    assert_eq!(receiver.requests().len(), 1);
}

#[tokio::test]
async fn two_workers_send_each_delivery_once() {
    let receiver = Receiver::start().await;
    let text = http("crm", &receiver.url("/"), "concurrency = 4");
    let one = Rig::start(&text).await;
    let other = one.beside(&text);
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.push(one.insert("crm").await);
    }
    let backwards: Vec<_> = ids.iter().rev().copied().collect();
    for (ids, backwards) in ids.chunks(15).zip(backwards.chunks(15)) {
        one.enqueue("crm", ids).await;
        other.enqueue("crm", backwards).await;
    }
    for id in &ids {
        assert_eq!(one.end(*id).await.0, "delivered");
    }
    let mut sent: Vec<_> =
        receiver.requests().iter().map(|request| request.header("webhook-id").unwrap().to_owned()).collect();
    sent.sort();
    let mut expected: Vec<_> = ids.iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn every_series_exists_from_the_start_and_counts_what_ends() {
    let receiver = Receiver::start().await;
    let metrics = common::telemetry::metrics::install().unwrap();
    let text = http("counted", &receiver.url("/"), "");
    worker::deliver::register_metrics(&config(&text));
    let has = |line: &str| metrics.render().lines().any(|known| known == line);
    let delivered = r#"claygate_deliveries_total{destination="counted",outcome="delivered"}"#;
    let dead = r#"claygate_dead_letters_total{destination="counted",reason="terminal"}"#;
    let retried = r#"claygate_retries_total{destination="counted",class="transient"}"#;
    for series in [delivered, dead, retried] {
        assert!(has(&format!("{series} 0")), "{series}");
    }
    let rig = Rig::start(&text).await;
    for (status, series) in [(500, retried), (404, dead), (200, delivered)] {
        receiver.answer_with(Answer::status(status));
        rig.deliver("counted").await;
        wait_for(series, PATIENCE, async || if has(&format!("{series} 1")) { Ok(()) } else { Err("not counted") })
            .await;
    }
    assert!(has(r#"claygate_attempt_seconds_count{destination="counted"} 3"#));
}
