//! `claygate.callback_aliases`: ids that were answered for spooled callbacks which turned out to be duplicates.

use time::OffsetDateTime;
use uuid::Uuid;

use super::DbError;
use super::intake::{Books, IntakeConnection};
use crate::ids::CallbackId;

/// An id that was answered, and the callback that it is the same as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias<'a> {
    /// The id that was answered.
    pub alias_id: CallbackId,
    /// The callback that was there before.
    pub callback_id: CallbackId,
    /// The source's name.
    pub source: &'a str,
    /// When the spooled callback was received.
    pub received_at: OffsetDateTime,
}

const ADD: &str = "
    WITH input AS (
        SELECT alias_id, callback_id, source, LEAST(received_at, now()) AS received_at
        FROM unnest($3::uuid[], $4::uuid[], $5::text[], $6::timestamptz[])
            AS t(alias_id, callback_id, source, received_at)
    ), added AS (
        INSERT INTO claygate.callback_aliases (alias_id, callback_id, received_at)
        SELECT alias_id, callback_id, received_at FROM input ORDER BY alias_id
        ON CONFLICT DO NOTHING
        RETURNING alias_id
    )
    INSERT INTO claygate.intake_counts AS counts (instance, writer, source, hour, result, n)
    SELECT $1, $2, source, date_trunc('hour', received_at), 'duplicate', count(*)
    FROM input JOIN added USING (alias_id)
    GROUP BY 3, 4 ORDER BY 3, 4
    ON CONFLICT ON CONSTRAINT intake_counts_pkey DO UPDATE SET n = counts.n + excluded.n";

/// Adds aliases and counts each as a duplicate, once however often it is added.
///
/// # Errors
/// [`DbError`]; nothing is written then.
pub async fn add(connection: &mut IntakeConnection, books: &Books, aliases: &[Alias<'_>]) -> Result<(), DbError> {
    let alias_ids: Vec<Uuid> = aliases.iter().map(|alias| alias.alias_id.0).collect();
    let callback_ids: Vec<Uuid> = aliases.iter().map(|alias| alias.callback_id.0).collect();
    let sources: Vec<&str> = aliases.iter().map(|alias| alias.source).collect();
    let received_at: Vec<OffsetDateTime> = aliases.iter().map(|alias| alias.received_at).collect();
    sqlx::query(ADD)
        .bind(&*books.instance)
        .bind(books.writer)
        .bind(alias_ids)
        .bind(callback_ids)
        .bind(sources)
        .bind(received_at)
        .execute(&mut connection.connection)
        .await?;
    Ok(())
}
