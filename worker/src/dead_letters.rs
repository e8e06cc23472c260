//! The consumer of what the broker gave up carrying: messages that came back to it thousands of times.
//!
//! Poison is decided in Postgres long before that; what arrives here has a reason that nobody counted. Each of its ids
//! that has not ended becomes dead (`poison`), so that it is seen, and can be replayed.

use std::sync::Arc;

use async_trait::async_trait;
use common::db::{Database, DbError, deliveries};
use common::ids::{CallbackId, DeliveryId};
use common::queue::{Doorbell, Message, Queue, QueueName};
use common::states::Reason;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::health::Beat;
use crate::one_by_one::{self, Work};
use crate::route::Router;
use crate::telemetry;

/// Ends what was given up.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    pub(crate) router: Router,
    pub(crate) database: Database,
    pub(crate) doorbell: Doorbell,
}

impl DeadLetters {
    /// Consumes `name` until `shutdown`.
    pub(crate) async fn run(self, queue: Arc<dyn Queue>, name: QueueName, beat: Beat, shutdown: CancellationToken) {
        one_by_one::run(&self, queue, name, beat, shutdown).await;
    }

    async fn end_delivery(&self, destination: &str, id: Uuid) -> Result<(), DbError> {
        let given_up = deliveries::give_up(&self.database, DeliveryId(id), Reason::Poison).await?;
        if given_up.ended {
            telemetry::count_dead_delivery(destination, Reason::Poison);
        }
        if given_up.released {
            self.doorbell.ring(&QueueName::released());
        }
        Ok(())
    }
}

#[async_trait]
impl Work for DeadLetters {
    async fn work_off(&self, message: &Message) -> Result<(), DbError> {
        tracing::error!(queue = %message.queue, ids = message.refs.len(), "the broker gave a message up");
        for id in &message.refs {
            match message.queue.destination() {
                Some(destination) => self.end_delivery(destination, *id).await?,
                None if message.queue == QueueName::callbacks() => {
                    self.router.give_up(CallbackId(*id), Reason::Poison).await?;
                }
                // What a cool-down had blocked stays skipped, and can be replayed.
                None => {}
            }
        }
        Ok(())
    }
}
