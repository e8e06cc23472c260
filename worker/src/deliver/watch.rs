//! Carries `destination_state` into the lanes, about once a second.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::db::{Database, destination_state};
use common::states::DestinationState;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lanes::Lanes;

const EVERY: Duration = Duration::from_secs(1);

/// Looks until `shutdown`. While the database is away, lanes keep what they know.
pub(super) async fn run(lanes: Arc<Lanes>, database: Database, shutdown: CancellationToken) {
    loop {
        let asked_at = Instant::now();
        match destination_state::list(&database).await {
            Ok(known) => {
                let held: HashSet<String> = known
                    .into_iter()
                    .filter(|status| status.state != DestinationState::Running)
                    .map(|status| status.destination)
                    .collect();
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
