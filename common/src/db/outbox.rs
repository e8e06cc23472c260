//! `claygate.outbox`: everything that has to happen, written in the transaction that made it necessary.

use sqlx::postgres::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::DbError;
use crate::queue::{BATCH_MAX, QueueName};

/// Puts `refs` into `queue`, due at `due_at` (`None`: now), in batches of at most [`BATCH_MAX`].
///
/// To be called inside the transaction that makes the work necessary; ring the [`crate::queue::Doorbell`] after its
/// commit.
///
/// # Errors
/// [`DbError`]; the surrounding transaction is then lost as a whole.
pub async fn push(
    connection: &mut PgConnection,
    queue: &QueueName,
    refs: &[Uuid],
    due_at: Option<OffsetDateTime>,
) -> Result<(), DbError> {
    for batch in refs.chunks(BATCH_MAX) {
        sqlx::query("INSERT INTO claygate.outbox (queue, refs, due_at) VALUES ($1, $2, COALESCE($3, now()))")
            .bind(queue.as_str())
            .bind(batch)
            .bind(due_at)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
