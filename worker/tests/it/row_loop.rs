//! What comes back is tied to the row it came from, once, in the transaction that routes it.

use common::ids::{CallbackId, RowId};
use serde_json::json;
use sqlx::Row as _;

use crate::route_rig::{ALL_TO_LOG, RouteRig};

/// A row that was counted under a URL; `sent`: and taken by Clay, as its answer said.
async fn row(rig: &RouteRig, sent: bool) -> RowId {
    let id = RowId::new();
    sqlx::query(
        "INSERT INTO claygate.rows (id, workspace, destination, webhook, sent_at)
         VALUES ($1, 'acme', 'leads', 'w', CASE WHEN $2 THEN now() - interval '1 minute' END)",
    )
    .bind(id.0)
    .bind(sent)
    .execute(rig.test.pool())
    .await
    .unwrap();
    id
}

/// A callback that names `row`.
async fn back(rig: &RouteRig, row: RowId) -> CallbackId {
    let id = rig.callback(&json!({"email": "ada@example.com"})).await;
    sqlx::query("UPDATE claygate.callbacks SET row_id = $1 WHERE id = $2")
        .bind(row.0)
        .bind(id.0)
        .execute(rig.test.pool())
        .await
        .unwrap();
    id
}

/// By which callback it came back, whether then, and whether it counts as sent before.
async fn found(rig: &RouteRig, id: RowId) -> (Option<CallbackId>, bool, bool) {
    let row = sqlx::query(
        "SELECT r.returned_by, r.returned_at = c.received_at AS then, r.sent_at <= r.returned_at AS sent
         FROM claygate.rows AS r LEFT JOIN claygate.callbacks AS c ON c.id = r.returned_by WHERE r.id = $1",
    )
    .bind(id.0)
    .fetch_one(rig.test.pool())
    .await
    .unwrap();
    let flag = |name| row.get::<Option<bool>, _>(name).unwrap_or_default();
    (row.get::<Option<uuid::Uuid>, _>("returned_by").map(CallbackId), flag("then"), flag("sent"))
}

#[tokio::test]
async fn a_row_comes_back_once_by_its_first_callback() {
    let rig = RouteRig::new(ALL_TO_LOG).await;
    let (one, two, unanswered) = (row(&rig, true).await, row(&rig, true).await, row(&rig, false).await);
    let first = back(&rig, one).await;
    let again = back(&rig, one).await;
    let lost = back(&rig, unanswered).await;
    let forged = back(&rig, RowId::new()).await;
    let report = rig.router.route_batch(&[again, first, lost, forged]).await.unwrap();
    assert_eq!(report.ended, 4, "whoever names a row that is not there is routed as well");
    assert_eq!(found(&rig, one).await, (Some(first), true, true));
    assert_eq!(found(&rig, unanswered).await, (Some(lost), true, true), "what came back was sent");
    assert_eq!(found(&rig, two).await, (None, false, false));

    let later = back(&rig, one).await;
    rig.router.route_batch(&[later]).await.unwrap();
    assert_eq!(found(&rig, one).await.0, Some(first));
}

#[tokio::test]
async fn a_callback_that_cannot_be_read_has_come_back_too_and_nothing_is_marked_before_it_is_routed() {
    let rig = RouteRig::new(ALL_TO_LOG).await;
    let one = row(&rig, true).await;
    let id = back(&rig, one).await;
    rig.execute("UPDATE claygate.callback_bodies SET body = '[]'").await;
    assert_eq!(found(&rig, one).await.0, None);
    rig.router.route_batch(&[id]).await.unwrap();
    assert_eq!(rig.state(id).await.0, "dead");
    assert_eq!(found(&rig, one).await.0, Some(id));
}
