//! What lanes, leases and records promise when things go wrong around an attempt.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::db::rate_limits::reserve;
use common::db::{ConnectSettings, Database, destination_state};
use common::ids::{CallbackId, DeliveryId};
use common::queue::QueueName;
use testkit::postgres::TestDatabase;
use testkit::receiver::{Answer, Receiver};
use testkit::wait::wait_for;
use uuid::Uuid;
use worker::destinations::Target;
use worker::destinations::guard::Guard;
use worker::lanes::LeasedDelivery;

use crate::deliver_rig::{PATIENCE, Rig, config};

fn http(name: &str, url: &str, more: &str) -> String {
    format!(
        "[destinations.{name}]\nkind = \"http\"\nurl = \"{url}\"\nallow_private = true\nretries = [\"60s\", \"300s\"]\n\
         timeout = \"5s\"\nconnect_timeout = \"1s\"\n{more}\n"
    )
}

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
async fn a_paused_destination_is_left_alone_until_it_is_resumed() {
    let receiver = Receiver::start().await;
    let test = TestDatabase::create().await;
    assert!(destination_state::pause(&test.database(), "crm", "for the test").await.unwrap());
    assert!(!destination_state::pause(&test.database(), "crm", "again").await.unwrap());
    let both = http("crm", &receiver.url("/crm"), "") + &http("other", &receiver.url("/other"), "");
    let rig = Rig::over(test, &both);
    wait_for("the pause to be seen", PATIENCE, async || rig.lanes.try_place("crm").map_or(Ok(()), Err)).await;
    let held = rig.deliver("crm").await;
    let other = rig.deliver("other").await;
    assert_eq!(rig.end(other).await.0, "delivered");
    assert_eq!(receiver.requests().len(), 1);
    assert!(destination_state::resume(&rig.database(), "crm").await.unwrap());
    assert_eq!(rig.end(held).await.0, "delivered");
}

#[tokio::test]
async fn a_broken_destination_is_left_alone_and_its_deliveries_are_put_off() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(500));
    let breaker = "concurrency = 1\n[destinations.crm.breaker]\nfailures = 2\nopen = \"40s\"";
    let rig = Rig::start(&http("crm", &receiver.url("/"), breaker)).await;
    for _ in 0..2 {
        let id = rig.deliver("crm").await;
        rig.tried(id, 1).await;
    }
    assert!(rig.lanes.try_place("crm").is_none());
    let id = rig.deliver("crm").await;
    wait_for("the delivery to be put off", PATIENCE, async || {
        let due = due_of(&rig, id.0).await;
        if due.is_some_and(|due| (20.0..=41.0).contains(&due)) { Ok(()) } else { Err(due) }
    })
    .await;
    assert_eq!((receiver.requests().len(), rig.row(id).await.attempts), (2, 0));
}

#[tokio::test]
async fn a_broken_destination_is_probed_with_one_request_and_comes_back() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(500));
    let breaker = "[destinations.crm.breaker]\nfailures = 1\nopen = \"1s\"";
    let rig = Rig::start(&http("crm", &receiver.url("/"), breaker)).await;
    let first = rig.deliver("crm").await;
    rig.tried(first, 1).await;
    receiver.answer_with(Answer::status(200).after(Duration::from_millis(500)));
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(rig.insert("crm").await);
    }
    rig.enqueue("crm", &ids).await;
    receiver.wait_for_requests(2).await;
    assert_eq!(receiver.in_flight_max(), 1);
    for id in ids {
        assert_eq!(rig.end(id).await.0, "delivered");
    }
}

#[tokio::test]
async fn a_rate_holds_and_waiting_costs_no_attempt() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&http("crm", &receiver.url("/"), "rate = \"5/s\"\nburst = 1")).await;
    assert!(rig.lanes.try_place("crm").is_none());
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(rig.insert("crm").await);
    }
    let begun = std::time::Instant::now();
    rig.enqueue("crm", &ids).await;
    for id in ids {
        assert_eq!(rig.end(id).await.0, "delivered");
        assert_eq!(rig.row(id).await.attempts, 1);
    }
    assert!(begun.elapsed() >= Duration::from_millis(950), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn reservations_never_exceed_the_rate_over_all_reservers() {
    let test = TestDatabase::create().await;
    let rate = common::config::Rate { per_second: 10.0, burst: 4 };
    let ahead = Duration::from_millis(500);
    let begun = std::time::Instant::now();
    let mut turns = Vec::new();
    let mut reserve_some = async |want| {
        let now = begun.elapsed();
        let reserved = reserve(&test.database(), "scope", rate, want, ahead).await.unwrap();
        assert!(
            reserved.turns.len() <= want as usize && reserved.turns.iter().all(|turn| *turn <= ahead),
            "{reserved:?}"
        );
        turns.extend(reserved.turns.iter().map(|turn| now + *turn));
        reserved
    };
    for want in [3, 3, 100] {
        assert!(!reserve_some(want).await.turns.is_empty());
    }
    let waits = [reserve_some(1).await.wait, reserve_some(7).await.wait];
    assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(101)), "{waits:?}");
    // 4 at once, and the 5 of the half second ahead.
    assert!(turns.len() >= 9, "{turns:?}");
    let others = (0..8).map(|_| {
        let database = test.database();
        tokio::spawn(async move { reserve(&database, "scope", rate, 2, ahead).await.unwrap() })
    });
    let mut granted = turns.len();
    for task in others.collect::<Vec<_>>() {
        granted += task.await.unwrap().turns.len();
    }
    let most = 4.0 + (begun.elapsed() + ahead).as_secs_f64() * 10.0;
    assert!(granted as f64 <= most + 1e-3, "{granted} of {most}");
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
async fn the_line_is_as_long_as_the_pace_allows() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&http("crm", &receiver.url("/"), "concurrency = 4")).await;
    let wanted = HashMap::from([("crm".to_owned(), 200)]);
    let half = rig.lanes.reserve_places(&wanted).await.remove("crm").unwrap();
    assert_eq!(half.len(), 2, "of an unknown pace half of the slots may be taken");
    assert!(rig.lanes.try_place("crm").is_none());
    drop(half);

    // 40 ms each, four at once: 25 are through in a quarter of a second, and something less than that on a busy machine.
    receiver.answer_with(Answer::status(200).after(Duration::from_millis(40)));
    let id = rig.deliver("crm").await;
    rig.end(id).await;
    let line = rig.lanes.reserve_places(&wanted).await.remove("crm").unwrap();
    assert!((2..=25).contains(&line.len()), "{} places", line.len());
    assert!(rig.lanes.try_place("crm").is_none());
    drop(line);
    assert!(rig.lanes.try_place("crm").is_some());
}

#[tokio::test]
async fn a_batch_waits_for_places_that_become_free() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&http("crm", &receiver.url("/"), "concurrency = 4")).await;
    let id = rig.deliver("crm").await;
    rig.end(id).await;
    let some = HashMap::from([("crm".to_owned(), 1)]);
    let mut line = Vec::new();
    while let Some(place) = rig.lanes.try_place("crm") {
        line.push(place);
    }
    let mut waiting = std::pin::pin!(rig.lanes.reserve_places(&some));
    assert!(futures_util::poll!(waiting.as_mut()).is_pending(), "the line is full");
    line.pop();
    assert_eq!(waiting.await["crm"].len(), 1);
}

#[tokio::test]
async fn a_stop_gives_back_what_stands_in_line() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(200).after(Duration::from_secs(1)));
    let mut rig = Rig::start(&http("crm", &receiver.url("/"), "concurrency = 1")).await;
    let place = rig.lanes.try_place("crm").unwrap();
    let first = rig.deliver("crm").await;
    receiver.wait_for_requests(1).await;
    let second = rig.insert("crm").await;
    place.start(leased(&rig, second, rig.lanes.lease_for("crm")).await);
    rig.stop().await;
    assert_eq!(rig.row(first).await.state, "delivered", "what has a slot is sent to its end");
    let row = rig.row(second).await;
    assert_eq!((row.state.as_str(), row.attempts, row.leased), ("pending", 0, false));
    assert_eq!(rig.queued(&QueueName::deliver("crm")).await.0, 1);
    assert_eq!(receiver.requests().len(), 1);
}

/// Leases `id` in the table as routing does, and for so long as far as the holder knows.
async fn leased(rig: &Rig, id: DeliveryId, until: Duration) -> LeasedDelivery {
    let (callback_id, token): (Uuid, Uuid) = sqlx::query_as(
        "UPDATE claygate.deliveries SET lease_until = now() + make_interval(secs => $2), lease_token = gen_random_uuid()
         WHERE id = $1 RETURNING callback_id, lease_token",
    )
    .bind(id.0)
    .bind(rig.lanes.lease_for("crm").as_secs_f64())
    .fetch_one(rig.test.pool())
    .await
    .unwrap();
    LeasedDelivery {
        id,
        callback_id: Some(CallbackId(callback_id)),
        row_id: None,
        destination: "crm".to_owned(),
        rule: Some("hot".to_owned()),
        replay: 0,
        attempts: 0,
        failures: 0,
        lease_token: token,
        lease_deadline: tokio::time::Instant::now() + until,
        captured: serde_json::json!({}),
        lead: Arc::default(),
        row: None,
        source: "clay".into(),
        received_at: time::OffsetDateTime::now_utc(),
        person: None,
    }
}

#[tokio::test]
async fn the_fast_lane_sends_what_was_created_leased() {
    let receiver = Receiver::start().await;
    let rig = Rig::start(&http("crm", &receiver.url("/"), "concurrency = 4")).await;
    let id = rig.insert("crm").await;
    let mut delivery = leased(&rig, id, Duration::from_secs(6)).await;
    // A lease that would run out during the request is given back, and the delivery comes by the queue.
    rig.lanes.try_place("crm").unwrap().start(delivery.clone());
    assert_eq!(rig.end(id).await.0, "delivered");
    assert_eq!(receiver.requests()[0].json()["email"], "ada@example.com");

    // Ended by now: the attempt is made, for the holder cannot know, and changes nothing.
    delivery.lease_deadline = tokio::time::Instant::now() + rig.lanes.lease_for("crm");
    rig.lanes.try_place("crm").unwrap().start(delivery);
    rig.wait(id, "the record", |row| row.attempts == 2).await;
    assert_eq!(rig.attempts(id).await.iter().map(|a| a.owned).collect::<Vec<_>>(), [true, false]);
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
async fn a_throttled_destination_is_left_alone_until_the_time_it_named() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(429).header("retry-after", "40"));
    let rig = Rig::start(&http("crm", &receiver.url("/"), "")).await;
    let first = rig.deliver("crm").await;
    rig.tried(first, 1).await;
    receiver.answer_with(Answer::status(200));
    assert!(rig.lanes.try_place("crm").is_none());
    let second = rig.deliver("crm").await;
    wait_for("the delivery to be put off", PATIENCE, async || {
        let due = due_of(&rig, second.0).await;
        if due.is_some_and(|due| (20.0..=41.0).contains(&due)) { Ok(()) } else { Err(due) }
    })
    .await;
    assert_eq!((receiver.requests().len(), rig.row(second).await.attempts), (1, 0));
}

/// In how many seconds the unclaimed entry of an id is due.
async fn due_of(rig: &Rig, id: Uuid) -> Option<f64> {
    sqlx::query_scalar(
        "SELECT EXTRACT(EPOCH FROM due_at - now())::float8 FROM claygate.outbox WHERE $1 = ANY(refs) AND claims = 0",
    )
    .bind(id)
    .fetch_optional(rig.test.pool())
    .await
    .unwrap()
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
