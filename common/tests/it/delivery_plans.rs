//! Routing, publishing, leasing, recording, sweeping and rescuing while tables grow that were never analysed: by key,
//! however many wait.

use std::time::Duration;

use common::db::attempts::{Attempt, AttemptWriter};
use common::db::routing::{self, Decided, NewDelivery};
use common::db::sweep::{self, SweepLimits};
use common::db::{Database, deliveries, outbox, rescue};
use common::ids::{CallbackId, DeliveryId};
use common::person::Person;
use common::queue::QueueName;
use common::states::{CallbackState, Reason};
use sqlx::PgPool;
use testkit::attempts::delivered;
use testkit::postgres::TestDatabase;
use testkit::wait::wait_for;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(20);
const WAITING: i64 = 5_000;
const AT_ONCE: usize = 8;
/// More than enough for a plan to be made and kept.
const ROUNDS: usize = 12;

/// Callbacks that wait for their routing.
async fn receive(pool: &PgPool, n: i64) -> Vec<CallbackId> {
    sqlx::query_scalar(
        "INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at)
         SELECT gen_random_uuid(), 'clay', sha256(gen_random_uuid()::text::bytea), 'header', sha256('x'), now()
         FROM generate_series(1, $1) RETURNING id",
    )
    .bind(n)
    .fetch_all(pool)
    .await
    .unwrap()
}

/// Deliveries that wait, each of a callback of its own.
async fn insert(pool: &PgPool, n: i64) -> Vec<DeliveryId> {
    sqlx::query_scalar(
        "INSERT INTO claygate.deliveries (id, callback_id, destination, next_attempt_at)
         SELECT gen_random_uuid(), id, 'crm', now() FROM unnest($1::uuid[]) AS callbacks (id) RETURNING id",
    )
    .bind(receive(pool, n).await)
    .fetch_all(pool)
    .await
    .unwrap()
}

/// Routes callbacks, each to one destination and to a person of its own.
async fn route(database: &Database, ids: &[CallbackId]) {
    let deliver = |id: CallbackId| NewDelivery {
        id: DeliveryId::new(),
        destination: "crm".to_owned(),
        rule: None,
        person: Some(Person([id.0.into_bytes(), id.0.into_bytes()].concat().try_into().unwrap())),
        skip: None,
        once_per: Some(LIMIT),
        blocked_as: Reason::CoolDown,
        lease: None,
    };
    let decided: Vec<Decided> = routing::load(database, ids)
        .await
        .unwrap()
        .into_iter()
        .map(|callback| Decided {
            id: callback.id,
            routing: callback.routing,
            received_at: callback.received_at,
            row_id: None,
            state: CallbackState::Routed,
            reason: None,
            lead: None,
            trace: "[]".to_owned(),
            deliveries: vec![deliver(callback.id)],
        })
        .collect();
    let routed = routing::commit(database, "rules", &decided).await.unwrap();
    assert_eq!((routed.callbacks.len(), routed.deliveries.len()), (ids.len(), ids.len()));
}

/// Says that some deliveries were published, and comes again for the first; leases them and records that they were
/// delivered.
async fn deliver(database: &Database, writer: &mut AttemptWriter, ids: &[DeliveryId]) {
    let refs: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    outbox::published(database, &QueueName::deliver("crm"), &[(0, 0)], &refs).await.unwrap();
    assert_eq!(deliveries::count_claim(database, ids[0]).await.unwrap(), Some(1));
    let token = Uuid::new_v4();
    let leased = deliveries::lease(database, "crm", ids, token, LIMIT).await.unwrap();
    assert_eq!(leased.len(), ids.len());
    let attempts: Vec<Attempt> = ids.iter().map(|id| delivered(*id, token)).collect();
    let recorded = writer.record(&attempts, LIMIT).await.unwrap();
    assert!(recorded.len() == ids.len() && recorded.iter().all(|one| one.owned));
}

/// Of what grows so far: (rows read, rows updated).
async fn work(pool: &PgPool) -> (i64, i64) {
    sqlx::query_as(
        "SELECT sum(seq_tup_read + idx_tup_fetch)::int8, sum(n_tup_upd)::int8 FROM pg_stat_user_tables
         WHERE schemaname = 'claygate' AND relname IN ('callbacks', 'deliveries', 'cooldowns', 'leads', 'decisions')",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

async fn wait_for_updates(pool: &PgPool, n: usize) -> i64 {
    let n = i64::try_from(n).unwrap();
    wait_for("the work to be counted", LIMIT, async || {
        let (read, updated) = work(pool).await;
        if updated >= n { Ok(read) } else { Err((read, updated)) }
    })
    .await
}

#[tokio::test]
async fn a_routing_costs_the_same_however_many_wait() {
    let test = TestDatabase::create().await;
    let database = test.database();
    for _ in 0..ROUNDS {
        route(&database, &receive(test.pool(), 1).await).await;
    }
    let waiting = receive(test.pool(), WAITING).await;
    let before = wait_for_updates(test.pool(), ROUNDS).await;
    for ids in waiting.chunks(AT_ONCE).take(ROUNDS) {
        route(&database, ids).await;
    }
    let routed = ROUNDS * AT_ONCE;
    let after = wait_for_updates(test.pool(), ROUNDS + routed).await;
    let read = usize::try_from(after - before).unwrap();
    assert!(read <= 10 * routed, "{read} rows were read to route {routed} callbacks");
}

#[tokio::test]
async fn a_delivery_costs_the_same_however_many_wait() {
    let test = TestDatabase::create().await;
    let (database, mut writer) = (test.database(), AttemptWriter::new(test.settings()));
    // Plans are made while there is next to nothing, and kept.
    for _ in 0..ROUNDS {
        deliver(&database, &mut writer, &insert(test.pool(), 1).await).await;
    }
    let waiting = insert(test.pool(), WAITING).await;
    let before = wait_for_updates(test.pool(), 3 * ROUNDS).await;
    for ids in waiting.chunks(AT_ONCE).take(ROUNDS) {
        deliver(&database, &mut writer, ids).await;
    }
    let delivered = ROUNDS * AT_ONCE;
    let after = wait_for_updates(test.pool(), 2 * (ROUNDS + delivered) + 2 * ROUNDS).await;
    let read = usize::try_from(after - before).unwrap();
    assert!(read <= 10 * delivered, "{read} rows were read for {delivered} deliveries");
}

/// Gives back what was leased by somebody who is gone. Answers how many that were.
async fn left(database: &Database) -> usize {
    rescue::give_back(database, WAITING, 5).await.unwrap().requeued.len()
}

#[tokio::test]
async fn finding_what_is_lost_or_left_costs_the_same_however_many_wait() {
    let test = TestDatabase::create().await;
    let database = test.database();
    let young = SweepLimits { horizon: Duration::ZERO, ..SweepLimits::default() };
    for _ in 0..ROUNDS {
        insert(test.pool(), 1).await;
        assert_eq!(sweep::callbacks(&database, young, None).await.unwrap().requeued, 1);
        assert_eq!(sweep::deliveries(&database, young, "crm", None).await.unwrap().requeued, 1);
        assert_eq!(left(&database).await, 0);
    }
    insert(test.pool(), WAITING).await;
    let before = wait_for_updates(test.pool(), 2 * ROUNDS).await;
    let limits = SweepLimits { read_max: i64::try_from(AT_ONCE).unwrap(), ..young };
    let (mut from_callback, mut from_delivery, mut found) = (None, None, 0);
    for _ in 0..ROUNDS {
        let callbacks = sweep::callbacks(&database, limits, from_callback).await.unwrap();
        let deliveries = sweep::deliveries(&database, limits, "crm", from_delivery).await.unwrap();
        found += callbacks.requeued + deliveries.requeued;
        (from_callback, from_delivery) = (callbacks.next, deliveries.next);
        assert_eq!(left(&database).await, 0);
    }
    let after = wait_for_updates(test.pool(), 2 * ROUNDS + found).await;
    assert!(found > AT_ONCE * ROUNDS, "{found} were found");
    let read = usize::try_from(after - before).unwrap();
    assert!(read <= 10 * found, "{read} rows were read to find {found} that were lost");
}
