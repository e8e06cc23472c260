//! A Clay workspace with one table, as a process of its own; with every line from its parent it says what it counted.

use std::time::Duration;

use fake_clay::{FakeClay, Keep, Limit, Settings, TableSettings};
use serde::{Deserialize, Serialize};

use super::wire;

/// What it is like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Rows per second and burst of the workspace; `None`: any number.
    pub limit: Option<(f64, u32)>,
    /// How long an answer takes.
    pub latency_ms: u64,
}

/// Said when it listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listening {
    /// The table's webhook URL.
    pub url: String,
}

/// Serves until the parent ends it.
///
/// # Errors
/// When there is no port.
pub(super) async fn run(plan: Plan) -> anyhow::Result<()> {
    let limit = plan.limit.map(|(per_second, burst)| Limit { per_second, burst });
    let latency = Duration::from_millis(plan.latency_ms);
    let clay = FakeClay::start(Settings { limit, latency, keep: Keep::Ids, ..Settings::default() }).await?;
    let table = clay.add_table("people", TableSettings { cap: None, ..TableSettings::default() });
    wire::say(&Listening { url: table.url().to_owned() })?;
    while wire::hear().await?.is_some() {
        wire::say(&clay.counts())?;
    }
    Ok(())
}
