//! `claygate.destination_state`: which destinations are not sent to, and why. A missing row means running; the row
//! of one that was resumed stays, so that an answer to what was sent before does not hold it again.
//!
//! Workers look at it about once a second; a change takes effect with the next request, not with those under way.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgConnection;
use time::OffsetDateTime;

use super::{Database, DbError};
use crate::states::DestinationState;

/// What is known of one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The destination's name. It may have left the configuration.
    pub destination: String,
    /// Whether it is sent to.
    pub state: DestinationState,
    /// Why, in words; never a secret or anything of a lead.
    pub reason: String,
    /// Since when.
    pub since: OffsetDateTime,
}

/// Every destination that has a row, by name. The others are running.
///
/// # Errors
/// [`DbError`].
pub async fn list(database: &Database) -> Result<Vec<Status>, DbError> {
    let rows =
        sqlx::query("SELECT destination, state, reason, since FROM claygate.destination_state ORDER BY destination")
            .fetch_all(database.pool())
            .await?;
    rows.iter()
        .map(|row| {
            let state: String = row.try_get("state")?;
            Ok(Status {
                destination: row.try_get("destination")?,
                // The CHECK knows the same words; a newer one is certainly not "go on".
                state: DestinationState::from_word(&state).unwrap_or(DestinationState::Paused),
                reason: row.try_get("reason")?,
                since: row.try_get("since")?,
            })
        })
        .collect()
}

/// Pauses `destination`. Answers whether it was running before; one that is held already keeps its reason.
///
/// # Errors
/// [`DbError`].
pub async fn pause(database: &Database, destination: &str, reason: &str) -> Result<bool, DbError> {
    let mut connection = database.pool().acquire().await?;
    hold(&mut connection, &[Hold { destination, state: DestinationState::Paused, reason, age: Duration::ZERO }])
        .await
        .map(|held| !held.is_empty())
}

/// Lets `destination` run again, whatever held it. Answers whether anything did.
///
/// # Errors
/// [`DbError`].
pub async fn resume(database: &Database, destination: &str) -> Result<bool, DbError> {
    let resumed = sqlx::query(
        "UPDATE claygate.destination_state SET state = 'running', reason = 'resumed', since = clock_timestamp()
         WHERE destination = $1 AND state <> 'running'",
    )
    .bind(destination)
    .execute(database.pool())
    .await?;
    Ok(resumed.rows_affected() > 0)
}

/// Why a destination is not to be sent to.
#[derive(Clone, Copy, Debug)]
pub struct Hold<'a> {
    /// Its name.
    pub destination: &'a str,
    /// Paused or disabled.
    pub state: DestinationState,
    /// Why, in words; never a secret or anything of a lead.
    pub reason: &'a str,
    /// How long ago the attempt began that says so. One from before a resume says nothing new.
    pub age: Duration,
}

/// Pauses or disables several destinations. Disabled wins over paused; otherwise the first word on each stands. Answers
/// which ones changed.
///
/// # Errors
/// [`DbError`]; a surrounding transaction is then lost as a whole.
pub async fn hold(connection: &mut PgConnection, holds: &[Hold<'_>]) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar(
        "INSERT INTO claygate.destination_state AS known (destination, state, reason)
         SELECT DISTINCT ON (i.destination) i.destination, i.state, i.reason
         FROM unnest($1::text[], $2::text[], $3::text[], $4::float8[]) WITH ORDINALITY
             AS i (destination, state, reason, age, place)
         WHERE NOT EXISTS (
             SELECT FROM claygate.destination_state AS resumed
             WHERE resumed.destination = i.destination AND resumed.state = 'running'
               AND resumed.since > clock_timestamp() - make_interval(secs => i.age)
         )
         ORDER BY i.destination, i.state <> 'disabled', place
         ON CONFLICT (destination) DO UPDATE SET state = EXCLUDED.state, reason = EXCLUDED.reason, since = now()
         WHERE known.state = 'running' OR (known.state = 'paused' AND EXCLUDED.state = 'disabled')
         RETURNING destination",
    )
    .bind(holds.iter().map(|hold| hold.destination).collect::<Vec<_>>())
    .bind(holds.iter().map(|hold| hold.state.as_str()).collect::<Vec<_>>())
    .bind(holds.iter().map(|hold| hold.reason).collect::<Vec<_>>())
    .bind(holds.iter().map(|hold| hold.age.as_secs_f64()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?)
}
