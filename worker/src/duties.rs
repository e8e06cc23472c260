//! Small duties that run from time to time: saying which rules are in use, making the coming weeks' partitions.
//!
//! Safe to run in every worker at once. When they die, routing goes on: versions look inactive, and partitions are
//! there for weeks ahead.

use std::sync::Arc;
use std::time::Duration;

use common::db::{Database, DbError, partitions, rule_sets};
use common::rules::RuleSet;
use common::telemetry::logs::chain;
use tokio_util::sync::CancellationToken;

use crate::health::Health;

const ANNOUNCE_EVERY: Duration = Duration::from_secs(30);
/// A version that was not announced for so long is in use no more.
pub(crate) const ACTIVE_WITHIN: Duration = Duration::from_secs(90);
const PARTITIONS_EVERY: Duration = Duration::from_secs(60 * 60);
/// After a failure the next try comes sooner.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Records from time to time that `rules` are in use, until `shutdown`; warns while other workers use others.
pub async fn announce_rules(database: Database, rules: Arc<RuleSet>, health: Health, shutdown: CancellationToken) {
    loop {
        let pause = match announce_once(&database, &rules, &health).await {
            Ok(()) => ANNOUNCE_EVERY,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "the rules in use could not be recorded");
                AGAIN_AFTER
            }
        };
        if is_stopped_within(pause, &shutdown).await {
            return;
        }
    }
}

/// Records once, and sets or clears the warning.
///
/// # Errors
/// [`DbError`]; the warning stays as it was.
pub async fn announce_once(database: &Database, rules: &RuleSet, health: &Health) -> Result<(), DbError> {
    let active = rule_sets::record(database, rules.version(), rules.normalised(), ACTIVE_WITHIN).await?;
    let warning = (active.len() > 1).then(|| {
        let versions: Vec<&str> = active.iter().filter_map(|version| version.get(..12)).collect();
        format!("{} versions of the rules are in use: {}", active.len(), versions.join(", "))
    });
    health.warn("rules", warning);
    Ok(())
}

/// Makes the missing partitions at once and every hour, until `shutdown`.
pub async fn make_partitions(database: Database, shutdown: CancellationToken) {
    loop {
        let pause = match partitions::ensure_now(&database).await {
            Ok(()) => PARTITIONS_EVERY,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "partitions could not be made");
                AGAIN_AFTER
            }
        };
        if is_stopped_within(pause, &shutdown).await {
            return;
        }
    }
}

async fn is_stopped_within(pause: Duration, shutdown: &CancellationToken) -> bool {
    tokio::time::timeout(pause, shutdown.cancelled()).await.is_ok()
}
