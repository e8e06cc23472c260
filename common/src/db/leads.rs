//! `claygate.leads`: the normalised lead of each callback. Written by routing ([`super::routing`]), read by whoever
//! sends it.

use serde_json::{Map, Value};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use time::OffsetDateTime;

use super::{Database, DbError};
use crate::ids::CallbackId;
use crate::lead::Lead;
use crate::score::IcpScore;

/// A stored lead with what its callback says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredLead {
    /// The callback it was read from.
    pub callback_id: CallbackId,
    /// That callback's source.
    pub source: String,
    /// When that callback came in.
    pub received_at: OffsetDateTime,
    /// The lead.
    pub lead: Lead,
}

/// Reads the leads of `callbacks`, in no particular order; those that have none (erased, never routed) are left out.
///
/// # Errors
/// [`DbError`].
pub async fn load(database: &Database, callbacks: &[CallbackId]) -> Result<Vec<StoredLead>, DbError> {
    let ids: Vec<_> = callbacks.iter().map(|id| id.0).collect();
    let rows = sqlx::query(
        "SELECT l.callback_id, c.source, l.received_at, l.email, l.first_name, l.last_name, l.company_name, l.job_title,
                l.employee_count, l.industry, l.linkedin_url, l.icp_score, l.personalized_opener, l.extra, l.warnings
         FROM claygate.leads AS l JOIN claygate.callbacks AS c ON c.id = l.callback_id
         WHERE l.callback_id = ANY($1)",
    )
    .bind(ids)
    .fetch_all(database.pool())
    .await?;
    rows.iter().map(|row| stored(row).map_err(DbError::from)).collect()
}

fn stored(row: &PgRow) -> Result<StoredLead, sqlx::Error> {
    Ok(StoredLead {
        callback_id: CallbackId(row.try_get("callback_id")?),
        source: row.try_get("source")?,
        received_at: row.try_get("received_at")?,
        lead: read(row)?,
    })
}

/// The lead in a row that has its columns.
pub(super) fn read(row: &PgRow) -> Result<Lead, sqlx::Error> {
    let Json(extra): Json<Map<String, Value>> = row.try_get("extra")?;
    Ok(Lead {
        email: row.try_get("email")?,
        first_name: row.try_get("first_name")?,
        last_name: row.try_get("last_name")?,
        company_name: row.try_get("company_name")?,
        job_title: row.try_get("job_title")?,
        employee_count: row.try_get("employee_count")?,
        industry: row.try_get("industry")?,
        linkedin_url: row.try_get("linkedin_url")?,
        icp_score: row.try_get::<Option<f64>, _>("icp_score")?.and_then(IcpScore::new),
        personalized_opener: row.try_get("personalized_opener")?,
        extra,
        warnings: row.try_get("warnings")?,
    })
}
