//! `claygate.rule_sets`: every rule set that ever decided something, and which ones are in use now.

use std::time::Duration;

use serde_json::Value;

use super::{Database, DbError};

/// Records that `version`, whose normalised text is `rules`, is in use, and answers which versions were in use within
/// `window`, this one among them.
///
/// # Errors
/// [`DbError`].
pub async fn record(
    database: &Database,
    version: &str,
    rules: &Value,
    window: Duration,
) -> Result<Vec<String>, DbError> {
    sqlx::query(
        "INSERT INTO claygate.rule_sets (version, rules) VALUES ($1, $2::json)
         ON CONFLICT (version) DO UPDATE SET last_seen_at = now()",
    )
    .bind(version)
    .bind(rules.to_string())
    .execute(database.pool())
    .await?;
    active(database, window).await
}

/// The versions that were in use within `window`. More than one: processes disagree, as during a rolling deployment.
///
/// # Errors
/// [`DbError`].
pub async fn active(database: &Database, window: Duration) -> Result<Vec<String>, DbError> {
    Ok(sqlx::query_scalar(
        "SELECT version FROM claygate.rule_sets WHERE last_seen_at > now() - make_interval(secs => $1) ORDER BY version",
    )
    .bind(window.as_secs_f64())
    .fetch_all(database.pool())
    .await?)
}
