//! What came back of the rows that went into tables of Clay (`claygate.rows`).
//!
//! A callback names its row (`callbacks.row_id`); the transaction that routes it says so here. The first one counts,
//! whichever worker routes it; a name that no row has ties to nothing.

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::DbError;
use crate::ids::{CallbackId, RowId};

/// A callback that says which row it came back from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Return {
    pub(super) row: RowId,
    pub(super) callback: CallbackId,
    pub(super) received_at: OffsetDateTime,
}

/// Marks rows as returned, each by the first of its callbacks, unless it was before. What came back has been sent,
/// whether its answer got lost or not.
///
/// # Errors
/// [`DbError`]; the surrounding transaction is then lost as a whole.
pub(super) async fn mark_returned(connection: &mut PgConnection, returns: &[Return]) -> Result<(), DbError> {
    if returns.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "WITH firsts AS MATERIALIZED (
             SELECT DISTINCT ON (id) id, callback_id, received_at
             FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS i (id, callback_id, received_at)
             ORDER BY id, received_at, callback_id
         ), held AS MATERIALIZED (
             SELECT id FROM claygate.rows WHERE id = ANY($1) AND returned_at IS NULL ORDER BY id FOR UPDATE
         )
         UPDATE claygate.rows AS r SET returned_at = firsts.received_at, returned_by = firsts.callback_id,
             sent_at = COALESCE(r.sent_at, CASE WHEN r.webhook IS NOT NULL THEN firsts.received_at END)
         FROM held JOIN firsts USING (id) WHERE r.id = held.id AND r.id = ANY($1)",
    )
    .bind(returns.iter().map(|one| one.row.0).collect::<Vec<Uuid>>())
    .bind(returns.iter().map(|one| one.callback.0).collect::<Vec<Uuid>>())
    .bind(returns.iter().map(|one| one.received_at).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
