//! What keeps a lane from sending: a pause, a breaker, a rate, a destination's own word.

use std::time::Duration;

use common::db::destination_state;
use common::db::rate_limits::reserve;
use common::ids::DeliveryId;
use common::queue::BATCH_MAX;
use testkit::postgres::TestDatabase;
use testkit::receiver::{Answer, Receiver};
use testkit::wait::wait_for;
use uuid::Uuid;

use crate::deliver_rig::{PATIENCE, Rig, http};

#[tokio::test]
async fn a_paused_destination_is_left_alone_until_it_is_resumed() {
    let receiver = Receiver::start().await;
    let test = TestDatabase::create().await;
    assert!(destination_state::pause(&test.database(), "crm", "for the test").await.unwrap());
    assert!(!destination_state::pause(&test.database(), "crm", "again").await.unwrap());
    let both = http("crm", &receiver.url("/crm"), "") + &http("other", &receiver.url("/other"), "");
    let rig = Rig::over(test, &both);
    wait_for("the pause to be seen", PATIENCE, async || rig.lanes.try_place("crm").map_or(Ok(()), Err)).await;
    assert!(rig.lanes.is_stuck("crm") && !rig.lanes.is_stuck("other"));
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
    assert!(rig.lanes.is_stuck("crm"));
    let id = rig.deliver("crm").await;
    wait_for("the delivery to be put off", PATIENCE, async || {
        let due = due_of(&rig, id.0).await;
        if due.is_some_and(|due| (20.0..=41.0).contains(&due)) { Ok(()) } else { Err(due) }
    })
    .await;
    assert_eq!((receiver.requests().len(), rig.row(id).await.attempts), (2, 0));
}

/// As the queue of a destination that stays broken sees them: entry by entry, and more than one group may hold.
#[tokio::test]
async fn what_is_put_off_goes_in_groups_that_are_due_apart() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(500));
    let breaker = "[destinations.crm.breaker]\nfailures = 1\nopen = \"50s\"";
    let rig = Rig::start(&http("crm", &receiver.url("/"), breaker)).await;
    let first = rig.deliver("crm").await;
    rig.tried(first, 1).await;
    for _ in 0..2 * BATCH_MAX {
        rig.enqueue("crm", &[DeliveryId::new()]).await;
    }
    let groups = wait_for("all of them to be put off", PATIENCE, async || {
        let groups = put_off_but(&rig, first.0).await;
        let ids: i64 = groups.iter().map(|(ids, _)| ids).sum();
        if ids == 2 * BATCH_MAX as i64 { Ok(groups) } else { Err(groups) }
    })
    .await;
    assert!((2..=10).contains(&groups.len()), "{groups:?}");
    let (first, last) = (groups[0].1, groups[groups.len() - 1].1);
    // Their moments are a quarter of a second apart, give or take what a statement takes on its way.
    assert!(last - first > 0.25 * groups.len() as f64 - 0.4 && last - first < 10.5, "{groups:?}");
    assert_eq!(receiver.requests().len(), 1);
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

/// How many ids the unclaimed entries without `id` hold that are due in 20 seconds or more, and in how many; sorted by that.
async fn put_off_but(rig: &Rig, id: Uuid) -> Vec<(i64, f64)> {
    sqlx::query_as(
        "SELECT cardinality(refs)::bigint, EXTRACT(EPOCH FROM due_at - now())::float8 FROM claygate.outbox
         WHERE claims = 0 AND due_at > now() + interval '20 s' AND NOT $1 = ANY(refs) ORDER BY due_at",
    )
    .bind(id)
    .fetch_all(rig.test.pool())
    .await
    .unwrap()
}
