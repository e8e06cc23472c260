//! The line before a lane's slots, and what was created leased for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::ids::{CallbackId, DeliveryId};
use common::queue::QueueName;
use testkit::receiver::{Answer, Receiver};
use uuid::Uuid;
use worker::lanes::LeasedDelivery;

use crate::deliver_rig::{Rig, http};

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

#[tokio::test]
async fn a_lane_is_stuck_while_all_slots_are_taken_and_nothing_moves() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(200).after(Duration::from_secs(2)));
    let rig = Rig::start(&http("crm", &receiver.url("/"), "concurrency = 1")).await;
    assert!(!rig.lanes.is_stuck("crm"), "its slot is free");
    let id = rig.deliver("crm").await;
    let stuck = async {
        while !rig.lanes.is_stuck("crm") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), stuck).await.expect("a slot that nobody gives back");
    rig.end(id).await;
    assert!(!rig.lanes.is_stuck("crm"), "an answer came");
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
