//! What `claygate doctor` asks a database, in one short statement.

use time::OffsetDateTime;

use super::{Database, DbError};

/// A database's own words about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// `server_version_num`, for example 150018.
    pub server_version: i32,
    /// Its clock.
    pub clock: OffsetDateTime,
    /// Whether it takes no writes (a standby).
    pub read_only: bool,
    /// The newest applied migration; `None`: no schema yet.
    pub schema_version: Option<i32>,
}

/// Asks `database`.
///
/// # Errors
/// [`DbError`], [`DbError::Unavailable`] when it cannot be reached.
pub async fn examine(database: &Database) -> Result<Diagnosis, DbError> {
    let (server_version, clock, read_only, has_schema): (i32, OffsetDateTime, bool, bool) = sqlx::query_as(
        "SELECT current_setting('server_version_num')::int4, clock_timestamp(), pg_is_in_recovery(), \
                to_regclass('claygate.schema_history') IS NOT NULL",
    )
    .fetch_one(database.pool())
    .await?;
    let schema_version = match has_schema {
        true => {
            sqlx::query_scalar("SELECT max(version) FROM claygate.schema_history").fetch_one(database.pool()).await?
        }
        false => None,
    };
    Ok(Diagnosis { server_version, clock, read_only, schema_version })
}
