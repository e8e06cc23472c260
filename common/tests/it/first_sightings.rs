//! What the intake's cheaper statement writes is what the other one writes, or nothing.

use common::db::DbError;
use common::db::intake::{Books, Candidate, Incoming, IntakeConnection};
use common::idempotency::{IdempotencyKey, KeyKind};
use common::ids::{CallbackId, RowId};
use common::states::Reason;
use sqlx::PgPool;
use testkit::postgres::TestDatabase;

/// Everything that the intake wrote, without ids and times.
const WRITTEN: &str = "
    SELECT (SELECT json_agg(json_build_array(source, key, key_kind, revision, digest, spooled, row_id, state, reason,
                routing, claims, sweeps, enqueued_at, (SELECT json_build_array(body, headers)
                    FROM claygate.callback_bodies AS b WHERE b.callback_id = c.id AND b.received_at = c.received_at)
            ) ORDER BY source, key) FROM claygate.callbacks AS c)::text,
        (SELECT json_agg(json_build_array(instance, writer, source, result, n) ORDER BY source, result)
            FROM claygate.intake_counts)::text,
        (SELECT json_agg(json_build_array(queue, cardinality(refs), claims, due_at <= now()) ORDER BY id)
            FROM claygate.outbox)::text,
        (SELECT json_agg(source || encode(key, 'hex') ORDER BY source, key) FROM claygate.callbacks
            WHERE id IN (SELECT unnest(refs) FROM claygate.outbox))::text";

type Written = (Option<String>, Option<String>, Option<String>, Option<String>);

async fn written(pool: &PgPool) -> Written {
    sqlx::query_as(WRITTEN).fetch_one(pool).await.unwrap()
}

/// The `n`th of a batch that is sorted by source and key.
fn incoming(n: u8) -> Incoming {
    Incoming {
        id: CallbackId::new(),
        source: if n < 100 { "clay".into() } else { "other".into() },
        key: IdempotencyKey { hash: [n; 32], kind: if n < 50 { KeyKind::Content } else { KeyKind::Pointer } },
        digest: [n / 2; 32],
        row_id: n.is_multiple_of(3).then(|| RowId(uuid::Uuid::from_u128(n.into()))),
        skip: n.is_multiple_of(7).then_some(Reason::TestEvent),
        body: format!("{{\"n\": {n}}}").into_bytes().into(),
        headers: format!("[[\":path\",\"/{n}\"]]"),
        received_at: None,
    }
}

fn candidates(batch: &[Incoming]) -> Vec<Candidate<'_>> {
    batch.iter().map(|incoming| Candidate { incoming, revision: 0, skip: incoming.skip }).collect()
}

fn books() -> Books {
    Books { instance: "one".into(), writer: 1 }
}

#[tokio::test]
async fn both_statements_write_the_same() {
    let (looking, first) = (TestDatabase::create().await, TestDatabase::create().await);
    let mut looking_connection = IntakeConnection::open(&looking.settings()).await.unwrap();
    let mut first_connection = IntakeConnection::open(&first.settings()).await.unwrap();
    // One; as many as fit into an entry of the outbox, and more; only some that are not queued.
    for batch in [0..1, 1..70, 70..200, 203..204, 210..211] {
        let batch: Vec<Incoming> = batch.map(incoming).collect();
        let stored = looking_connection.store(&books(), &candidates(&batch)).await.unwrap();
        assert_eq!(stored.len(), batch.len());
        let received_at = first_connection.store_first(&books(), &candidates(&batch)).await.unwrap();
        let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.callbacks WHERE received_at = $1")
            .bind(received_at)
            .fetch_one(first.pool())
            .await
            .unwrap();
        assert_eq!(stored.unsigned_abs() as usize, batch.len());
    }
    let (looking, first) = (written(looking.pool()).await, written(first.pool()).await);
    assert!(looking.0.is_some() && looking.1.is_some() && looking.2.is_some() && looking.3.is_some());
    assert_eq!(first, looking);
}

#[tokio::test]
async fn a_key_or_an_id_that_is_taken_refuses_the_whole_batch() {
    let test = TestDatabase::create().await;
    let mut connection = IntakeConnection::open(&test.settings()).await.unwrap();
    let taken = incoming(5);
    connection.store_first(&books(), &candidates(std::slice::from_ref(&taken))).await.unwrap();
    let before = written(test.pool()).await;

    let same_key = [incoming(4), incoming(5), incoming(6)];
    let same_id = [incoming(4), Incoming { id: taken.id, ..incoming(6) }];
    let no_headers = [incoming(4), Incoming { headers: "[".to_owned(), ..incoming(6) }];
    for (batch, name) in
        [(&same_key[..], Some("callbacks_key")), (&same_id[..], Some("callbacks_pkey")), (&no_headers[..], None)]
    {
        let refused = connection.store_first(&books(), &candidates(batch)).await.err();
        let Some(DbError::Refused { constraint, .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(constraint.as_deref(), name);
        assert_eq!(written(test.pool()).await, before);
    }
    connection.store_first(&books(), &candidates(&[incoming(4), incoming(6)])).await.unwrap();
}
