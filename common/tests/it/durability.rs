//! Nothing is bought with durability: every commit of a callback's way waits for what the server was told to wait for.
//!
//! The server waits for a standby that does not exist, so each commit stands until it is told to go on; one whose session had
//! `synchronous_commit` switched off, or down to `local`, would not.

use std::time::Duration;

use common::db::attempts::AttemptWriter;
use common::db::intake::{Books, Candidate, Incoming, IntakeConnection};
use common::db::routing::{self, Decided, NewDelivery};
use common::db::{Database, deliveries};
use common::idempotency::{IdempotencyKey, KeyKind};
use common::ids::{CallbackId, DeliveryId};
use common::states::{CallbackState, Reason};
use sqlx::{Executor, PgPool};
use testkit::attempts::delivered;
use testkit::own_postgres::OwnPostgres;
use testkit::wait::{wait_for, wait_until};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(20);

/// Sends those on whose commit waits. Answers how many that were.
async fn send_on(pool: &PgPool) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event = 'SyncRep'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

/// Whether a commit waits until it is sent on.
async fn commit_waits(pool: &PgPool) -> bool {
    let writing = pool.clone();
    let writing = tokio::spawn(async move { writing.execute("INSERT INTO told DEFAULT VALUES").await.unwrap() });
    let mut waited = false;
    while !writing.is_finished() {
        waited |= send_on(pool).await > 0;
    }
    writing.await.unwrap();
    waited
}

/// What `work` gives, which commits once, and does not end before its commit was sent on.
async fn waits<T: Send + 'static>(pool: &PgPool, what: &str, work: impl Future<Output = T> + Send + 'static) -> T {
    let work = tokio::spawn(work);
    wait_for(what, LIMIT, async || {
        assert!(!work.is_finished(), "{what} did not wait for its commit");
        if send_on(pool).await == 1 { Ok(()) } else { Err("no commit waits") }
    })
    .await;
    work.await.unwrap()
}

#[tokio::test]
async fn every_commit_of_a_callbacks_way_waits_for_the_disk() {
    let server = OwnPostgres::start().await;
    let test = server.database().await;
    let pool = test.pool().clone();
    let intake = IntakeConnection::open(&test.settings()).await.unwrap();
    pool.execute("CREATE TABLE told ()").await.unwrap();
    pool.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.unwrap();
    pool.execute("SELECT pg_reload_conf()").await.unwrap();
    // Processes read it one after the other.
    wait_until("the server to wait for a standby", LIMIT, async || commit_waits(&pool).await).await;

    let went = tokio::spawn(go_the_way(test.database(), intake, AttemptWriter::new(test.settings()))).await;

    // Whatever came of it: the database is dropped after this, by a commit like any other.
    pool.execute("ALTER SYSTEM RESET synchronous_standby_names").await.unwrap();
    pool.execute("SELECT pg_reload_conf()").await.unwrap();
    wait_until("the server to wait no more", LIMIT, async || !commit_waits(&pool).await).await;
    went.unwrap();
}

/// From the intake to the outcome.
async fn go_the_way(database: Database, mut intake: IntakeConnection, mut writer: AttemptWriter) {
    let pool = database.pool().clone();
    let id = CallbackId::new();
    let incoming = |id, key| Incoming {
        id,
        source: "clay".into(),
        key: IdempotencyKey { hash: [key; 32], kind: KeyKind::Header },
        digest: [0; 32],
        row_id: None,
        skip: None,
        body: "{}".into(),
        headers: "[]".to_owned(),
        received_at: None,
    };
    let (first, looked_for) = (incoming(id, 7), incoming(CallbackId::new(), 8));
    let books = Books { instance: "one".into(), writer: 0 };
    let mut intake = waits(&pool, "the intake", {
        let books = books.clone();
        async move {
            let candidate = Candidate { incoming: &first, revision: 0, skip: None };
            intake.store_first(&books, &[candidate]).await.unwrap();
            intake
        }
    })
    .await;
    let stored = waits(&pool, "the intake that looks first", async move {
        let candidate = Candidate { incoming: &looked_for, revision: 0, skip: None };
        intake.store(&books, &[candidate]).await.unwrap()
    })
    .await;
    assert_eq!(stored.len(), 1);

    let callback = routing::load(&database, &[id]).await.unwrap().remove(0);
    let delivery = DeliveryId::new();
    let decided = Decided {
        id,
        routing: callback.routing,
        received_at: callback.received_at,
        row_id: None,
        state: CallbackState::Routed,
        reason: None,
        lead: None,
        trace: "[]".to_owned(),
        deliveries: vec![NewDelivery {
            id: delivery,
            destination: "crm".to_owned(),
            rule: None,
            person: None,
            skip: None,
            once_per: None,
            blocked_as: Reason::CoolDown,
            lease: None,
        }],
    };
    let routing = database.clone();
    let routed =
        waits(&pool, "the routing", async move { routing::commit(&routing, "rules", &[decided]).await.unwrap() }).await;
    assert!(routed.callbacks.contains(&id));

    let token = Uuid::new_v4();
    let leased = waits(&pool, "the lease", async move {
        deliveries::lease(&database, "crm", &[delivery], token, LIMIT).await.unwrap()
    })
    .await;
    assert_eq!(leased.len(), 1);

    let recorded =
        waits(&pool, "the outcome", async move { writer.record(&[delivered(delivery, token)], LIMIT).await.unwrap() })
            .await;
    assert!(recorded.iter().all(|one| one.owned) && recorded.len() == 1);
}
