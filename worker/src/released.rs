//! The consumer of the queue `released`: a delivery ended without reaching anyone and gave its cool-down back; what had
//! been skipped for it goes on.
//!
//! Guarantee: of several leads of one person at least one reaches the destination, as long as one of them can
//! (pitfall 48 of such systems: the first dies after the second was skipped for it). Safe to run twice: see
//! [`common::db::released`]. When it dies, the message comes again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::config::Config;
use common::db::{Database, DbError, released};
use common::ids::DeliveryId;
use common::queue::{Doorbell, Message, Queue, QueueName};
use tokio_util::sync::CancellationToken;

use crate::health::Beat;
use crate::one_by_one::{self, Work};

/// Goes on with what a released cool-down had blocked.
#[derive(Clone)]
pub struct Releaser {
    database: Database,
    doorbell: Doorbell,
    once_per: Arc<HashMap<String, Duration>>,
}

impl Releaser {
    /// A releaser for the destinations of `config`.
    pub fn new(config: &Config, database: Database, doorbell: Doorbell) -> Self {
        let once_per = config.destinations.iter().filter_map(|(name, d)| Some((name.clone(), d.once_per?))).collect();
        Self { database, doorbell, once_per: Arc::new(once_per) }
    }

    /// Makes the deliveries that `blocker` had kept from being sent.
    ///
    /// # Errors
    /// [`DbError`]; nothing was done.
    pub async fn release_once(&self, blocker: DeliveryId) -> Result<released::Released, DbError> {
        let released = released::route_blocked(&self.database, blocker, &self.once_per).await?;
        for destination in released.made.iter().collect::<BTreeSet<_>>() {
            self.doorbell.ring(&QueueName::deliver(destination));
        }
        Ok(released)
    }

    /// Consumes until `shutdown`.
    pub async fn run(self, queue: Arc<dyn Queue>, beat: Beat, shutdown: CancellationToken) {
        one_by_one::run(&self, queue, QueueName::released(), beat, shutdown).await;
    }
}

#[async_trait]
impl Work for Releaser {
    /// What cannot succeed must not come again for ever, nor hold up others: the skips stay as they are, name the
    /// delivery that blocked them, and can be replayed.
    async fn work_off(&self, message: &Message) -> Result<(), DbError> {
        for id in &message.refs {
            match self.release_once(DeliveryId(*id)).await {
                Ok(_) => {}
                Err(error @ (DbError::Unavailable(_) | DbError::Collision(_))) => return Err(error),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(delivery = %id, error, "what a delivery had blocked could not go on");
                }
            }
        }
        Ok(())
    }
}
