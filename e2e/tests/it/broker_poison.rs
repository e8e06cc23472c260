//! A callback that kills every worker that touches it.

use sqlx::PgPool;
use testkit::rabbitmq::OwnBroker;
use testkit::receiver::Receiver;
use testkit::wait::wait_for;
use uuid::Uuid;

use crate::books;
use crate::broker::{Rig, Trap};
use crate::services::{Role, Services, all_to};
use crate::site::LIMIT;

const LEADS: usize = 10;
/// The first time it is nobody's fault; each of the five after it is counted.
const KILLS_MAX: usize = 6;

/// What a worker's look at a callback came to.
#[derive(Debug, PartialEq)]
enum Look {
    /// A back-end of Postgres that waits for the test's transaction.
    Stuck(i32),
    Ended(String, Option<String>),
}

/// Waits until some worker is stuck on the callback, or it has ended.
async fn look(pool: &PgPool, id: Uuid) -> Look {
    wait_for("the callback to be looked at", LIMIT, async || {
        if let Some(pid) = Trap::prey(pool).await {
            return Ok(Look::Stuck(pid));
        }
        let (state, reason): (String, Option<String>) =
            sqlx::query_as("SELECT state, reason FROM claygate.callbacks WHERE id = $1")
                .bind(id)
                .fetch_one(pool)
                .await
                .unwrap();
        if state == "received" { Err(state) } else { Ok(Look::Ended(state, reason)) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_that_kills_its_workers_ends_as_poison_and_its_neighbours_go_on() {
    let (broker, receiver) = tokio::join!(OwnBroker::start(), Receiver::start());
    let config = all_to(&receiver);
    // Nobody publishes yet, so that all of them can be made to travel together.
    let services = Services::new(&config).await;
    let intake = services.ingest("ingest").await;
    let answered = services.sender([&intake]).spawn_load(LEADS).await.unwrap();
    let pool = services.database.pool().clone();
    let merged = sqlx::query(
        "WITH gone AS (DELETE FROM claygate.outbox RETURNING refs)
         INSERT INTO claygate.outbox (queue, refs)
         SELECT 'callbacks', array_agg(ref ORDER BY ref) FROM (SELECT unnest(refs) AS ref FROM gone) AS refs",
    );
    merged.execute(&pool).await.unwrap();
    let poison: Uuid = sqlx::query_scalar("SELECT refs[5] FROM claygate.outbox").fetch_one(&pool).await.unwrap();
    // Whoever routes it waits for the end of this, and meets its own end first.
    let trap = Trap::set(&pool, poison).await;

    let rig = Rig { services: services.with_broker(&broker.url(), broker.prefix()), broker, receiver };
    let mut kills = 0;
    let end = loop {
        let worker = rig.services.spawn(Role::Worker, &format!("worker-{kills}"));
        match look(&pool, poison).await {
            Look::Stuck(pid) => {
                worker.kill();
                kills += 1;
                // Postgres would see the end of its client with the next thing it had to say to it.
                sqlx::query("SELECT pg_terminate_backend($1, 10000)").bind(pid).execute(&pool).await.unwrap();
            }
            Look::Ended(state, reason) => break (worker, state, reason.unwrap_or_default()),
        }
        assert!(kills <= KILLS_MAX, "it has killed {kills} workers and is not given up");
    };
    let (worker, state, reason) = end;
    assert_eq!((state.as_str(), reason.as_str(), kills), ("dead", "poison", KILLS_MAX));
    trap.open().await;

    let neighbours = i64::try_from(answered.len() - 1).unwrap();
    let all = [("dead".to_owned(), "-".to_owned(), 1), ("routed".to_owned(), "delivered".to_owned(), neighbours)];
    wait_for("its neighbours to be delivered", LIMIT, async || {
        let states = books::states(&rig.services.database.database()).await;
        if states == all { Ok(()) } else { Err(states) }
    })
    .await;
    // A neighbour that was just sent when its worker was killed is sent once more, under the same key.
    books::assert_sent(&rig.receiver, LEADS - 1, kills);
    let worker = worker.wait_until_ready().await;
    assert!(intake.readiness().await.ready);
    worker.terminate().await;
    rig.services.assert_logs_bounded();
}
