//! Rows that are handed in: stored once per key, each with its delivery, whoever else hands in the same.

use std::time::Duration;

use common::db::rows::{NewRow, RowKey, RowKeyKind, RowOnce, RowsFor, TakenIn, take_in};
use common::ids::RowId;
use common::person::Person;
use common::states::Reason;
use testkit::postgres::TestDatabase;
use uuid::Uuid;

const TO: RowsFor<'static> = RowsFor { destination: "leads", workspace: "acme", batch: None };

fn row(key: u16) -> NewRow {
    let mut hash = [0; 32];
    hash[..2].copy_from_slice(&key.to_be_bytes());
    NewRow {
        id: RowId::new(),
        body: format!("{{\"n\":{key}}}").into_bytes(),
        key: RowKey { kind: RowKeyKind::Content, hash },
        line: None,
        skip: None,
        once: None,
    }
}

async fn hand_in(test: &TestDatabase, rows: &[NewRow]) -> Vec<TakenIn> {
    let mut transaction = test.pool().begin().await.unwrap();
    let taken = take_in(&mut transaction, TO, rows).await.unwrap();
    transaction.commit().await.unwrap();
    taken
}

/// State and reason of each row's delivery, in the order of its key, and how many ids wait in the queue.
async fn found(test: &TestDatabase) -> (Vec<(String, Option<String>)>, i64) {
    let deliveries = sqlx::query_as(
        "SELECT d.state, d.reason FROM claygate.rows AS r JOIN claygate.deliveries AS d ON d.row_id = r.id
         WHERE r.workspace = 'acme' AND r.destination = 'leads' AND d.destination = 'leads' ORDER BY r.key",
    )
    .fetch_all(test.pool())
    .await
    .unwrap();
    let queued = sqlx::query_scalar(
        "SELECT COALESCE(sum(cardinality(refs)), 0)::bigint FROM claygate.outbox WHERE queue = 'deliver.leads'",
    )
    .fetch_one(test.pool())
    .await
    .unwrap();
    (deliveries, queued)
}

#[tokio::test]
async fn a_row_is_stored_and_queued_once_however_often_it_is_handed_in() {
    let test = TestDatabase::create().await;
    let rows: Vec<NewRow> = (0..150).map(row).collect();
    let mut batch = rows.clone();
    batch.push(row(7));
    let taken = hand_in(&test, &batch).await;
    assert!(taken[..150].iter().all(|one| *one == TakenIn::Accepted), "{taken:?}");
    assert_eq!(taken[150], TakenIn::Duplicate(rows[7].id));

    let again = hand_in(&test, &[row(200), row(3)]).await;
    assert_eq!(again, [TakenIn::Accepted, TakenIn::Duplicate(rows[3].id)]);
    let (deliveries, queued) = found(&test).await;
    assert_eq!((deliveries.len(), queued), (151, 151));
    assert!(deliveries.iter().all(|(state, _)| state == "pending"));
    let body: Vec<u8> = sqlx::query_scalar("SELECT body FROM claygate.rows WHERE id = $1")
        .bind(rows[5].id)
        .fetch_one(test.pool())
        .await
        .unwrap();
    assert_eq!(body, br#"{"n":5}"#);
}

#[tokio::test]
async fn what_a_filter_holds_back_is_stored_with_its_reason_and_not_queued() {
    let test = TestDatabase::create().await;
    let once = |columns: u8| {
        Some(RowOnce { columns: Person([columns; 32]), within: Duration::from_secs(60), reason: Reason::DuplicateRow })
    };
    let rows = [
        NewRow { skip: Some(Reason::NoRule), once: once(1), ..row(0) },
        NewRow { once: once(1), ..row(1) },
        NewRow { once: once(1), ..row(2) },
        NewRow { once: once(2), ..row(3) },
    ];
    let taken = hand_in(&test, &rows).await;
    let duplicate = TakenIn::Skipped(Reason::DuplicateRow);
    assert_eq!(taken, [TakenIn::Skipped(Reason::NoRule), TakenIn::Accepted, duplicate, TakenIn::Accepted]);
    assert_eq!(hand_in(&test, &[NewRow { once: once(2), ..row(4) }]).await, [duplicate]);
    let (deliveries, queued) = found(&test).await;
    let reasons: Vec<Option<&str>> = deliveries.iter().map(|(_, reason)| reason.as_deref()).collect();
    assert_eq!(reasons, [Some("no_rule"), None, Some("duplicate_row"), None, Some("duplicate_row")]);
    assert_eq!(queued, 2);
    let blocked: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM claygate.deliveries AS d JOIN claygate.deliveries AS earlier ON earlier.id = d.blocked_by
         WHERE earlier.state = 'pending' AND earlier.person = d.person",
    )
    .fetch_one(test.pool())
    .await
    .unwrap();
    assert_eq!(blocked, 2);
}

#[tokio::test]
async fn two_that_hand_in_the_same_rows_at_once_store_each_row_once() {
    let test = TestDatabase::create().await;
    let forth: Vec<NewRow> = (0..200).map(row).collect();
    let back: Vec<NewRow> = (0..200).rev().map(row).collect();
    let (one, other) = tokio::join!(hand_in(&test, &forth), hand_in(&test, &back));
    let accepted = |taken: &[TakenIn]| taken.iter().filter(|one| **one == TakenIn::Accepted).count();
    assert_eq!(accepted(&one) + accepted(&other), 200);
    let (deliveries, queued) = found(&test).await;
    assert_eq!((deliveries.len(), queued), (200, 200));
    let batch = Uuid::now_v7();
    let mut transaction = test.pool().begin().await.unwrap();
    let with_line = NewRow { line: Some(4), ..row(900) };
    take_in(&mut transaction, RowsFor { batch: Some(batch), ..TO }, &[with_line]).await.unwrap();
    transaction.commit().await.unwrap();
    let place: (Uuid, i64) = sqlx::query_as("SELECT batch_id, line FROM claygate.rows WHERE batch_id IS NOT NULL")
        .fetch_one(test.pool())
        .await
        .unwrap();
    assert_eq!(place, (batch, 4));
}
