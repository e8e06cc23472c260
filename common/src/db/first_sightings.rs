//! Callbacks whose keys nobody has seen, as nearly all are: the intake's cheaper statement.
//!
//! [`IntakeConnection::store`] looks each key up before it writes the row, promises the row's place to other writers while it
//! does so, and reads back what it wrote. Where nothing is a repeat, the constraint alone says the same: this statement writes
//! all of its rows or, where one key is taken, none, and the caller then stores the same with the other one.

use sqlx::Row;
use time::OffsetDateTime;
use uuid::Uuid;

use super::DbError;
use super::intake::{Books, Candidate, Columns, IntakeConnection};
use crate::queue::{BATCH_MAX, QueueName};

// The counts and the outbox entries are told, not counted: every row is written, or none.
const STORE_FIRST: &str = "
    WITH stored AS (
        INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, row_id, state, reason)
        SELECT id, source, key, key_kind, digest, now(), row_id,
            CASE WHEN skip IS NULL THEN 'received' ELSE 'skipped' END, skip
        FROM (
            SELECT unnest($1::uuid[]) AS id, unnest($2::text[]) AS source, unnest($3::bytea[]) AS key,
                unnest($4::text[]) AS key_kind, unnest($5::bytea[]) AS digest, unnest($6::uuid[]) AS row_id,
                unnest($7::text[]) AS skip
        ) AS input
    ), bodies AS (
        INSERT INTO claygate.callback_bodies (callback_id, received_at, body, headers)
        SELECT unnest($1::uuid[]), now(), unnest($8::bytea[]), unnest($9::text[])::json
    ), counted AS (
        INSERT INTO claygate.intake_counts AS counts (instance, writer, source, hour, result, n)
        SELECT $10, $11, unnest($12::text[]), date_trunc('hour', now()), 'new', unnest($13::bigint[])
        ON CONFLICT ON CONSTRAINT intake_counts_pkey DO UPDATE SET n = counts.n + excluded.n
    ), queued AS (
        INSERT INTO claygate.outbox (queue, refs)
        SELECT $14, ($15::uuid[])[entry * $16 + 1 : (entry + 1) * $16]
        FROM generate_series(0, (cardinality($15) + $16 - 1) / $16 - 1) AS entry
    )
    SELECT now()";

impl IntakeConnection {
    /// Writes `candidates`, none of which has a time of receipt yet, as first sightings of their keys, in one transaction:
    /// callbacks, bodies, counts and outbox entries. Answers their common receipt.
    ///
    /// `candidates` must be sorted by source and key, and no key may stand in them twice.
    ///
    /// # Errors
    /// [`DbError::Refused`] where a key is taken, or a row is refused for what is in it. Nothing is written then, except
    /// that after [`DbError::Unavailable`] it is not known.
    pub async fn store_first(
        &mut self,
        books: &Books,
        candidates: &[Candidate<'_>],
    ) -> Result<OffsetDateTime, DbError> {
        let (sources, counts): (Vec<&str>, Vec<i64>) = candidates
            .chunk_by(|one, other| one.incoming.source == other.incoming.source)
            .filter_map(|same| Some((&*same.first()?.incoming.source, same.len() as i64)))
            .unzip();
        let queued: Vec<Uuid> =
            candidates.iter().filter(|row| row.skip.is_none()).map(|row| row.incoming.id.0).collect();
        let columns = Columns::of(candidates);
        let row = sqlx::query(STORE_FIRST)
            .bind(columns.ids)
            .bind(columns.sources)
            .bind(columns.keys)
            .bind(columns.key_kinds)
            .bind(columns.digests)
            .bind(columns.row_ids)
            .bind(columns.skips)
            .bind(columns.bodies)
            .bind(columns.headers)
            .bind(&*books.instance)
            .bind(books.writer)
            .bind(sources)
            .bind(counts)
            .bind(QueueName::callbacks().as_str())
            .bind(queued)
            .bind(BATCH_MAX as i32)
            .fetch_one(&mut self.connection)
            .await?;
        Ok(row.try_get(0)?)
    }
}
