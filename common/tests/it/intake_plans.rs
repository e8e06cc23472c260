//! The intake's lookups on large tables: by index, whatever a batch asks for.

use std::time::Duration;

use common::db::intake::{Incoming, IntakeConnection};
use common::idempotency::{IdempotencyKey, KeyKind};
use common::ids::CallbackId;
use sqlx::{Connection, PgPool};
use testkit::postgres::TestDatabase;
use testkit::wait::wait_for;
use uuid::Uuid;

/// The most entries of a batch.
const BATCH: usize = 512;
const LIMIT: Duration = Duration::from_secs(20);

/// Stores callbacks and their aliases, and returns (id, key) of a full batch of them.
///
/// On a connection of its own, and closed: what a session did is counted when it ends, at the latest, so nothing of
/// this can be taken for a scan by the lookups.
async fn fill(pool: &PgPool) -> Vec<(Uuid, Vec<u8>)> {
    let mut connection = pool.acquire().await.unwrap().detach();
    for statement in [
        "INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at)
         SELECT gen_random_uuid(), 'clay', sha256(n::text::bytea), 'header', sha256('x'), now()
         FROM generate_series(1, 100000) AS n",
        "INSERT INTO claygate.callback_aliases (alias_id, callback_id, received_at)
         SELECT gen_random_uuid(), id, received_at FROM claygate.callbacks",
        "ANALYZE claygate.callbacks",
        "ANALYZE claygate.callback_aliases",
    ] {
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
    let known = sqlx::query_as("SELECT id, key FROM claygate.callbacks LIMIT $1");
    let known = known.bind(i64::try_from(BATCH).unwrap()).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    known
}

/// Scans of the two large tables so far: (full, by index).
async fn scans(pool: &PgPool) -> (i64, i64) {
    sqlx::query_as(
        "SELECT sum(seq_scan)::bigint, sum(idx_scan)::bigint FROM pg_stat_user_tables
         WHERE relid IN ('claygate.callbacks'::regclass, 'claygate.callback_aliases'::regclass)",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn lookups_never_scan_a_large_table() {
    let test = TestDatabase::create().await;
    let pool = test.pool();
    let known = fill(pool).await;
    let callbacks: Vec<Incoming> = known.iter().map(|(id, key)| incoming(*id, key)).collect();
    wait_for("the filling to be counted", LIMIT, || async {
        let inserted: i64 = sqlx::query_scalar(
            "SELECT sum(n_tup_ins)::bigint FROM pg_stat_user_tables
             WHERE relid IN ('claygate.callbacks'::regclass, 'claygate.callback_aliases'::regclass)",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        if inserted == 200_000 { Ok(()) } else { Err(inserted) }
    })
    .await;
    let before = scans(pool).await;

    let mut connection = IntakeConnection::open(&test.settings()).await.unwrap();
    // The sixth execution may use a plan made for any length.
    for size in [1, BATCH, BATCH, BATCH, BATCH, BATCH, BATCH, 1] {
        let asked: Vec<&Incoming> = callbacks.iter().take(size).collect();
        let found = connection.look_up(&asked).await.unwrap();
        assert!(found.len() == size && found.iter().all(|found| found.present && found.latest.is_some()));
        let ids: Vec<Uuid> = known.iter().take(size).map(|(id, _)| *id).collect();
        assert_eq!(connection.present(&ids).await.unwrap().len(), size);
    }
    connection.close().await;
    let after = wait_for("the lookups to be counted", LIMIT, || async {
        let scans = scans(pool).await;
        if scans.1 > before.1 + 3_000 { Ok(scans) } else { Err(scans) }
    })
    .await;
    assert_eq!(after.0, before.0, "a full scan");
}

fn incoming(id: Uuid, key: &[u8]) -> Incoming {
    Incoming {
        id: CallbackId(id),
        source: "clay".into(),
        key: IdempotencyKey { hash: key.try_into().unwrap(), kind: KeyKind::Header },
        digest: [0; 32],
        row_id: None,
        skip: None,
        body: "{}".into(),
        headers: "[]".to_owned(),
        received_at: None,
    }
}
