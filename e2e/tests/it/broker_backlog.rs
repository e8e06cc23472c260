//! Much to do: workers that come and go over a full queue, and a destination that is paused before a backlog.

use std::time::Duration;

use sqlx::PgPool;
use testkit::rabbitmq::OwnBroker;
use testkit::receiver::{Answer, Receiver};
use testkit::wait::wait_for;

use crate::books;
use crate::broker::{Depth, Rig};
use crate::services::all_to;
use crate::site::LIMIT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_over_full_queues_loses_no_attempt_and_gives_nothing_up() {
    const LEADS: usize = 600;
    const ROUNDS: usize = 6;
    let rig = Rig::start().await;
    let pool = rig.services.database.pool().clone();
    // Slow enough that there is still something to do after as many starts of workers, on a slow machine as well.
    rig.receiver.answer_with(Answer::status(200).after(Duration::from_millis(500)));
    let intake = rig.services.ingest("ingest").await;
    let sender = rig.services.sender([&intake]);
    let answered = sender.spawn_load(LEADS).await.unwrap();

    let mut workers = vec![rig.services.worker("worker-0").await];
    for round in 1..=ROUNDS {
        // In the middle of it: every slot is taken, and more is held than there are slots.
        rig.receiver.wait_for_requests(rig.receiver.requests().len() + 10).await;
        workers.push(rig.services.worker(&format!("worker-{round}")).await);
        workers.remove(0).terminate().await;
    }
    assert!(rig.receiver.requests().len() < LEADS, "the last one still had something to do");
    rig.receiver.answer_with(Answer::status(200));
    books::assert_all_delivered(&rig.services.database.database(), &answered).await;
    books::assert_sent(&rig.receiver, LEADS, 0);
    let (attempts, claims): (i64, i16) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM claygate.attempts),
             GREATEST((SELECT max(claims) FROM claygate.callbacks), (SELECT max(claims) FROM claygate.deliveries))",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(usize::try_from(attempts).unwrap(), LEADS, "each attempt is recorded");
    assert!(claims <= 2, "{claims} returns were counted against something: so many restarts more, and it is poison");
    rig.assert_nothing_dead().await;
    rig.services.assert_logs_bounded();
}

/// Deliveries that were due two hours ago, in the outbox.
async fn store_backlog(pool: &PgPool, n: i64) {
    for statement in [
        "INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, state)
         SELECT gen_random_uuid(), 'clay', sha256(n::text::bytea), 'header', sha256('x'), now() - interval '2 h', 'routed'
         FROM generate_series(1, $1) AS n",
        "INSERT INTO claygate.leads (callback_id, received_at, extra, warnings)
         SELECT id, received_at, '{}', '{}' FROM claygate.callbacks LIMIT $1",
        "INSERT INTO claygate.deliveries (id, callback_id, destination, rule, next_attempt_at)
         SELECT gen_random_uuid(), id, 'out', 'all', now() - interval '2 h' FROM claygate.callbacks LIMIT $1",
        "INSERT INTO claygate.outbox (queue, refs)
         SELECT 'deliver.out', array_agg(id) FROM (
             SELECT id, row_number() OVER (ORDER BY id) / 64 AS batch FROM claygate.deliveries LIMIT $1) AS numbered
         GROUP BY batch",
    ] {
        sqlx::query(statement).bind(n).execute(pool).await.unwrap();
    }
}

/// What any writer would change: entries and their claims, the number of the last entry, and how often the sweeper took
/// something for lost.
async fn traces(pool: &PgPool) -> (String, i64, i64) {
    sqlx::query_as(
        "SELECT (SELECT coalesce(string_agg(concat_ws(' ', id, due_at, claims), ', ' ORDER BY id), '') FROM claygate.outbox),
             (SELECT coalesce(last_value, 0) FROM pg_sequences WHERE schemaname = 'claygate' AND sequencename = 'outbox_id_seq'),
             (SELECT coalesce(sum(sweeps), 0) FROM claygate.deliveries)",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_destination_with_a_backlog_of_100_000_leaves_broker_and_outbox_quiet() {
    const BACKLOG: i64 = 100_000;
    /// Some sweeps, polls and keepers' rounds.
    const QUIET: Duration = Duration::from_secs(6);
    let (broker, receiver) = tokio::join!(OwnBroker::start(), Receiver::start());
    // One slot and a slow answer: next to nothing of the backlog is done before the pause.
    receiver.answer_with(Answer::status(200).after(Duration::from_secs(1)));
    let config = all_to(&receiver).replacen("kind = \"http\"", "kind = \"http\"\nconcurrency = 1", 1);
    let rig = Rig::over(broker, receiver, &config).await.with("CLAYGATE_WORKER__SWEEP_EVERY", "1s");
    // The backlog never came in: nobody counted or decided it.
    let rig = rig.without_books();
    let pool = rig.services.database.pool().clone();
    store_backlog(&pool, BACKLOG).await;
    let worker = rig.services.worker("worker").await;
    rig.receiver.wait_for_requests(1).await;
    wait_for("the backlog to be in the broker", LIMIT, async || {
        let n: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.outbox").fetch_one(&pool).await.unwrap();
        if n == 0 { Ok(()) } else { Err(n) }
    })
    .await;

    sqlx::query(
        "INSERT INTO claygate.destination_state (destination, state, reason) VALUES ('out', 'paused', 'a test')
         ON CONFLICT (destination) DO UPDATE SET state = 'paused', reason = 'a test'",
    )
    .execute(&pool)
    .await
    .unwrap();
    // Everything looks as if it had been on its way for longer than anything may be.
    sqlx::query("UPDATE claygate.deliveries SET enqueued_at = now() - interval '2 h' WHERE state = 'pending'")
        .execute(&pool)
        .await
        .unwrap();
    // What is under way ends, and what the consumer holds goes back, once.
    wait_for("the slot to be free", LIMIT, async || {
        let leased: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.deliveries WHERE lease_until IS NOT NULL")
            .fetch_one(&pool)
            .await
            .unwrap();
        if leased == 0 { Ok(()) } else { Err(leased) }
    })
    .await;
    let settled = rig.wait_for_depth("deliver.out", |depth| depth.held == 0 && depth.ready > 0).await;
    let (before, lines) = (traces(&pool).await, worker.log.lines().len());
    tokio::time::sleep(QUIET).await;

    assert_eq!(rig.depth("deliver.out").await, settled, "the broker's queue stays as it is");
    assert_eq!(traces(&pool).await, before, "nobody writes to the outbox");
    assert_eq!(before.2, 0, "what waits is not lost");
    assert_eq!(worker.log.lines().len(), lines, "{}", worker.log.tail());
    let readiness = worker.readiness().await;
    assert!(readiness.ready, "{readiness:?}");
    assert_eq!(rig.depth("dead").await, Depth::default());

    // It goes on where it stopped.
    rig.receiver.answer_with(Answer::status(200));
    sqlx::query("UPDATE claygate.destination_state SET state = 'running', reason = ''").execute(&pool).await.unwrap();
    rig.receiver.wait_for_requests(rig.receiver.requests().len() + 50).await;
    rig.services.assert_logs_bounded();
}
