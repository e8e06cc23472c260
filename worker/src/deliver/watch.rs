//! Carries `destination_state`, and what is left of Clay's webhook URLs, into the lanes, about once a second.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::db::{Database, DbError, destination_state};
use common::states::DestinationState;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pools::Pools;
use crate::lanes::Lanes;

const EVERY: Duration = Duration::from_secs(1);

/// Looks until `shutdown`. While the database is away, lanes keep what they know.
pub(super) async fn run(lanes: Arc<Lanes>, mut pools: Pools, database: Database, shutdown: CancellationToken) {
    loop {
        let asked_at = Instant::now();
        match look(&mut pools, &database).await {
            Ok(held) => {
                for (name, lane) in lanes.iter() {
                    if lane.gate.follow(held.contains(name), asked_at) {
                        let state = if held.contains(name) { "held" } else { "running" };
                        tracing::info!(destination = name, state, "the destination's state has changed");
                    }
                }
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "destinations' states could not be read");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// The destinations that are not sent to.
async fn look(pools: &mut Pools, database: &Database) -> Result<HashSet<String>, DbError> {
    let known = destination_state::list(database).await?;
    let held = known.into_iter().filter(|status| status.state != DestinationState::Running);
    let mut held: HashSet<String> = held.map(|status| status.destination).collect();
    held.extend(pools.look().await?);
    Ok(held)
}
