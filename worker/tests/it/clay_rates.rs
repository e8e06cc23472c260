//! Rates hold over all workers, all destinations of a workspace, and restarts.

use std::time::{Duration, Instant};

use testkit::receiver::{Answer, Receiver};
use testkit::wait::wait_for;

use crate::clay::clay;
use crate::deliver_rig::{PATIENCE, Rig};

/// How unevenly requests may arrive that were sent evenly, on a machine that does other things, too.
const JITTER: Duration = Duration::from_millis(400);

/// Asserts that in no stretch of time there are more arrivals than `burst` and what `per_second` adds.
fn assert_within(arrivals: &mut [Instant], burst: f64, per_second: f64) {
    arrivals.sort();
    for (at, from) in arrivals.iter().enumerate() {
        for (n, to) in arrivals.iter().enumerate().skip(at) {
            let most = burst + (*to - *from + JITTER).as_secs_f64() * per_second;
            assert!((n - at + 1) as f64 <= most, "{} in {:?}: {arrivals:?}", n - at + 1, *to - *from);
        }
    }
}

fn arrivals(receiver: &Receiver) -> Vec<Instant> {
    receiver.requests().into_iter().map(|request| request.at).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_destinations_of_a_workspace_share_its_rate_over_two_workers_and_a_restart() {
    let receiver = Receiver::start().await;
    let slow = |name: &str| clay(name, &receiver, &[&format!("/{name}")], "burst = 5").replace("100000/s", "20/s");
    let both = slow("leads") + &slow("people");
    let mut first = Rig::start(&both).await;
    let begun = Instant::now();
    let mut ids = Vec::new();
    for n in 0..60 {
        ids.push(first.deliver(if n % 2 == 0 { "leads" } else { "people" }).await);
    }
    let second = first.beside(&both);
    receiver.wait_for_requests(25).await;
    first.stop().await;
    let _third = second.beside(&both);
    for id in ids {
        assert_eq!(second.end(id).await.0, "delivered");
        let delivery = second.row(id).await;
        assert_eq!((delivery.attempts, delivery.failures), (1, 0));
    }
    let took = begun.elapsed();
    let mut all = arrivals(&receiver);
    assert_eq!(all.len(), 60);
    // What is planned with of 20/s and 5: 19.4/s and 4.
    assert_within(&mut all, 4.0, 19.4);
    // Nobody waits for turns that nobody takes: 56 turns take 2.9 s, and a stop and a start are in between.
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[tokio::test]
async fn a_limit_that_clay_reports_holds_the_whole_workspace_and_uses_no_attempt() {
    let receiver = Receiver::start().await;
    let both = clay("leads", &receiver, &["/leads"], "") + &clay("people", &receiver, &["/people"], "");
    let rig = Rig::start(&both).await;
    receiver.answer_in_turn([Answer::status(429).header("retry-after", "2")]);
    let begun = Instant::now();
    let id = rig.deliver("leads").await;
    rig.tried(id, 1).await;
    let other = rig.deliver("people").await;
    assert_eq!(rig.end(other).await.0, "delivered");
    assert!(begun.elapsed() >= Duration::from_millis(1_900), "{:?}", begun.elapsed());
    assert_eq!(rig.end(id).await.0, "delivered");
    let delivery = rig.row(id).await;
    assert_eq!((delivery.attempts, delivery.failures), (2, 0));
    let used: i64 = sqlx::query_scalar("SELECT sum(used)::bigint FROM claygate.clay_webhooks")
        .fetch_one(rig.test.pool())
        .await
        .unwrap();
    assert_eq!(used, 2);
}

#[tokio::test]
async fn a_backlog_of_a_slow_destination_waits_without_going_round() {
    let receiver = Receiver::start().await;
    let slow = clay("leads", &receiver, &["/leads"], "burst = 1").replace("100000/s", "6/m");
    let rig = Rig::start(&slow).await;
    for _ in 0..20 {
        rig.deliver("leads").await;
    }
    receiver.wait_for_requests(1).await;
    let entries = async || -> (i64, i64) {
        sqlx::query_as(
            "SELECT COALESCE(sum(cardinality(refs)), 0)::bigint, COALESCE(max(id), 0) FROM claygate.outbox
             WHERE queue = 'deliver.leads'",
        )
        .fetch_one(rig.test.pool())
        .await
        .unwrap()
    };
    let (_, before) = wait_for("the rest to be back", PATIENCE, async || {
        let found = entries().await;
        if found.0 == 19 { Ok(found) } else { Err(found) }
    })
    .await;
    // Long enough for a loop to show, far below the next turn.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (ids, after) = entries().await;
    assert_eq!(ids, 19);
    assert!(after - before <= 4, "{} new entries in two seconds", after - before);
    assert_eq!(receiver.requests().len(), 1);
}
