//! The sweeper over a large backlog that Postgres knows nothing about yet: what takes minutes to be told apart from what
//! waits is told apart in no time.

use std::time::Duration;

use common::db::sweep::{self, SweepLimits};
use sqlx::PgPool;
use testkit::postgres::TestDatabase;
use uuid::Uuid;

const BACKLOG: i64 = 100_000;
/// A comparison of everything with everything takes longer by far.
const LIMIT: Duration = Duration::from_secs(10);

/// Work that is due for two hours, all of it in the outbox but for one callback and one delivery. Without ANALYZE, as
/// after an import.
async fn store_backlog(pool: &PgPool) -> (Uuid, Uuid) {
    for statement in [
        "INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at)
         SELECT gen_random_uuid(), 'clay', sha256(n::text::bytea), 'header', sha256('x'), now() - interval '2 h'
         FROM generate_series(1, $1) AS n",
        "INSERT INTO claygate.deliveries (id, callback_id, destination, rule, next_attempt_at)
         SELECT gen_random_uuid(), id, 'out', 'all', now() - interval '2 h' FROM claygate.callbacks LIMIT $1",
        "INSERT INTO claygate.outbox (queue, refs)
         SELECT queue, array_agg(id) FROM (
             SELECT 'callbacks' AS queue, id, row_number() OVER (ORDER BY id) / 64 AS batch FROM claygate.callbacks
             UNION ALL
             SELECT 'deliver.out', id, row_number() OVER (ORDER BY id) / 64 FROM claygate.deliveries
         ) AS numbered WHERE $1 > 0 GROUP BY queue, batch",
    ] {
        sqlx::query(statement).bind(BACKLOG).execute(pool).await.unwrap();
    }
    let mut lost = Vec::new();
    for queue in ["callbacks", "deliver.out"] {
        let id: Uuid = sqlx::query_scalar(
            "UPDATE claygate.outbox SET refs = trim_array(refs, 1)
             WHERE id = (SELECT min(id) FROM claygate.outbox WHERE queue = $1 AND cardinality(refs) > 1)
             RETURNING (SELECT refs[cardinality(refs)] FROM claygate.outbox AS before WHERE before.id = outbox.id)",
        )
        .bind(queue)
        .fetch_one(pool)
        .await
        .unwrap();
        lost.push(id);
    }
    (lost[0], lost[1])
}

#[tokio::test]
async fn what_is_lost_is_found_among_much_that_waits() {
    let test = TestDatabase::create().await;
    let (callback, delivery) = store_backlog(test.pool()).await;
    let (database, limits) = (test.database(), SweepLimits::default());
    let sweeping = async {
        let (mut from, mut callbacks) = (None, 0);
        loop {
            let swept = sweep::callbacks(&database, limits, from).await.unwrap();
            callbacks += swept.requeued;
            from = swept.next;
            if !swept.is_cut {
                break;
            }
        }
        let (mut from, mut deliveries) = (None, 0);
        loop {
            let swept = sweep::deliveries(&database, limits, "out", from).await.unwrap();
            deliveries += swept.requeued;
            from = swept.next;
            if !swept.is_cut {
                break (callbacks, deliveries);
            }
        }
    };
    let found = tokio::time::timeout(LIMIT, sweeping).await.expect("the sweeps end soon");
    assert_eq!(found, (1, 1));
    let requeued: Vec<Vec<Uuid>> = sqlx::query_scalar("SELECT refs FROM claygate.outbox ORDER BY id DESC LIMIT 2")
        .fetch_all(test.pool())
        .await
        .unwrap();
    assert_eq!(requeued, [vec![delivery], vec![callback]]);
}
