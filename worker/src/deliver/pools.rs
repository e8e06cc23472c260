//! The webhook URLs of this worker's tables of Clay: says which there are, and looks at what is left of them.
//!
//! Runs in the watch, about once a second. A destination none of whose URLs takes a row is held, and goes on by itself when
//! one does: because the configuration has a new one, its cap was raised, or an operator resumed it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use common::db::clay_webhooks::{self, Pool, Webhook};
use common::db::{Database, DbError, loop_report};
use tokio::time::Instant;

use super::telemetry;
use crate::destinations::clay::ClayTarget;

/// How often the table hears that these URLs are configured.
const REGISTER_EVERY: Duration = Duration::from_secs(30);
/// How often rows that are out are counted.
const COUNT_EVERY: Duration = Duration::from_secs(15);
/// Per cent of the cap at which a warning is due.
const WARN_AT: [i16; 2] = [80, 95];

/// The pools of one worker.
pub(super) struct Pools {
    targets: Vec<Arc<ClayTarget>>,
    database: Database,
    registered_at: Option<Instant>,
    counted_at: Option<Instant>,
}

impl Pools {
    pub(super) fn new(targets: Vec<Arc<ClayTarget>>, database: Database) -> Self {
        Self { targets, database, registered_at: None, counted_at: None }
    }

    /// Looks once. Answers the destinations that have no URL left.
    ///
    /// # Errors
    /// [`DbError`]; the next look does what is missing.
    pub(super) async fn look(&mut self) -> Result<HashSet<String>, DbError> {
        if self.targets.is_empty() {
            return Ok(HashSet::new());
        }
        if self.registered_at.is_none_or(|at| at.elapsed() >= REGISTER_EVERY) {
            for target in &self.targets {
                clay_webhooks::register(&self.database, target.pool()).await?;
            }
            self.registered_at = Some(Instant::now());
        }
        for (webhook, destination, per_cent) in clay_webhooks::note_fill(&self.database, &WARN_AT).await? {
            tracing::warn!(destination, webhook, per_cent, "a webhook URL of Clay has used up most of its submissions");
        }
        let known = clay_webhooks::list(&self.database).await?;
        let known: HashMap<&str, &Webhook> = known.iter().map(|one| (one.webhook.as_str(), one)).collect();
        let mut dry = HashSet::new();
        for target in &self.targets {
            let pool = target.pool();
            let webhooks: Vec<&Webhook> =
                pool.webhooks.iter().filter_map(|name| known.get(name.as_str()).copied()).collect();
            let is_dry = is_dry(pool, &webhooks);
            telemetry::show_pool(&pool.destination, &webhooks, is_dry);
            if is_dry {
                dry.insert(pool.destination.clone());
            }
        }
        self.count_open().await?;
        Ok(dry)
    }

    /// Counts the rows that are out, where any are expected back.
    async fn count_open(&mut self) -> Result<(), DbError> {
        if self.counted_at.is_some_and(|at| at.elapsed() < COUNT_EVERY) {
            return Ok(());
        }
        for target in &self.targets {
            if let Some(within) = target.expect_within() {
                let destination = &target.pool().destination;
                telemetry::show_open(destination, loop_report::count_open(&self.database, destination, within).await?);
            }
        }
        self.counted_at = Some(Instant::now());
        Ok(())
    }
}

/// Whether no URL takes a row. One that the table does not know yet does.
fn is_dry(pool: &Pool, webhooks: &[&Webhook]) -> bool {
    webhooks.len() == pool.webhooks.len() && !webhooks.iter().any(|webhook| webhook.is_usable())
}
