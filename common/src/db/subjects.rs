//! What deliveries are made of, held against [`super::retention`] by whoever makes a delivery of something old.

use std::collections::HashSet;

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::DbError;

/// Answers those of `deliveries` of which something to send is still stored: the lead of their callback, or the object of
/// their row. It stays until the surrounding transaction ends.
///
/// To be asked before the deliveries themselves are locked: what removes them locks in this order.
///
/// # Errors
/// [`DbError`].
pub(super) async fn hold(connection: &mut PgConnection, deliveries: &[Uuid]) -> Result<HashSet<Uuid>, DbError> {
    let of_callbacks: Vec<Uuid> = sqlx::query_scalar(
        "SELECT d.id FROM claygate.deliveries AS d
         JOIN claygate.callbacks AS c ON c.id = d.callback_id
         JOIN claygate.leads AS l ON l.callback_id = d.callback_id
         WHERE d.id = ANY($1) ORDER BY c.id FOR KEY SHARE OF c, l",
    )
    .bind(deliveries)
    .fetch_all(&mut *connection)
    .await?;
    let of_rows: Vec<Uuid> = sqlx::query_scalar(
        "SELECT d.id FROM claygate.deliveries AS d
         JOIN claygate.rows AS r ON r.id = d.row_id AND r.body IS NOT NULL
         WHERE d.id = ANY($1) ORDER BY r.id FOR KEY SHARE OF r",
    )
    .bind(deliveries)
    .fetch_all(connection)
    .await?;
    Ok(of_callbacks.into_iter().chain(of_rows).collect())
}
