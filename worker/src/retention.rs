//! Retention: removes what the configuration does not keep, at the start and every hour.
//!
//! Safe to run in every worker at once: one of them does it, the others find it being done. It rests after each step for as
//! long as the step took. When it dies, more is kept than was meant to be, and the next run removes it.

use std::time::Duration;

use common::db::retention::{self, Pace, Run};
use common::db::{Database, DbError};
use common::retention::{Policy, What};
use common::telemetry::logs::chain;
use common::telemetry::metrics::{RETENTION_HELD, RETENTION_LAST_SUCCESS, RETENTION_REMOVED};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::health::Health;

const EVERY: Duration = Duration::from_secs(60 * 60);
/// After a failure the next try comes sooner.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Makes every series exist at 0.
pub(crate) fn register() {
    metrics::gauge!(RETENTION_LAST_SUCCESS).set(0.0);
    for what in What::ALL {
        metrics::counter!(RETENTION_REMOVED, "what" => what.as_str()).increment(0);
        metrics::gauge!(RETENTION_HELD, "what" => what.as_str()).set(0.0);
    }
}

/// Runs until `shutdown`.
pub async fn run(database: Database, policy: Policy, health: Health, shutdown: CancellationToken) {
    loop {
        let pause = match run_once(&database, &policy, &shutdown).await {
            Ok(_) => EVERY,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "retention was cut short");
                AGAIN_AFTER
            }
        };
        health.warn(
            "retention",
            (pause == AGAIN_AFTER).then(|| "retention was cut short; it goes on in a minute".to_owned()),
        );
        if tokio::time::timeout(pause, shutdown.cancelled()).await.is_ok() {
            return;
        }
    }
}

/// One run; tells what it removed.
///
/// # Errors
/// [`DbError`]; what was removed before stays removed.
pub async fn run_once(database: &Database, policy: &Policy, shutdown: &CancellationToken) -> Result<Run, DbError> {
    let mut counted = [0; What::ALL.len()];
    let done = retention::run(database.settings(), policy, Pace::Background, shutdown, |done| {
        let of_kind = &mut counted[done.what as usize];
        metrics::counter!(RETENTION_REMOVED, "what" => done.what.as_str()).increment(done.removed - *of_kind);
        *of_kind = done.removed;
    })
    .await?;
    match &done {
        Run::Ended(all) => {
            metrics::gauge!(RETENTION_LAST_SUCCESS).set(OffsetDateTime::now_utc().unix_timestamp() as f64);
            for one in all {
                metrics::gauge!(RETENTION_HELD, "what" => one.what.as_str()).set(one.held as f64);
                if one.removed > 0 || one.held > 0 {
                    tracing::info!(what = one.what.as_str(), removed = one.removed, held = one.held, "retention");
                }
            }
        }
        // Whoever runs it says what is held; what this process said before may not be true any more.
        Run::Elsewhere => {
            for what in What::ALL {
                metrics::gauge!(RETENTION_HELD, "what" => what.as_str()).set(0.0);
            }
        }
        Run::Stopped(_) => {}
    }
    Ok(done)
}
