//! The consumer of what the broker gave up carrying: messages that came back to it thousands of times.
//!
//! Poison is decided in Postgres long before that; what arrives here has a reason that nobody counted. Each of its ids
//! that has not ended becomes dead (`poison`), so that it is seen, and can be replayed.

use std::sync::Arc;
use std::time::Duration;

use common::db::{Database, DbError, deliveries};
use common::ids::{CallbackId, DeliveryId};
use common::queue::{Doorbell, Message, Queue, QueueError, QueueName};
use common::states::Reason;
use common::telemetry::logs::chain;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::health::Beat;
use crate::route::Router;
use crate::telemetry;

const WANT: usize = 64;
const PAUSE: Duration = Duration::from_secs(2);

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
        loop {
            let failed = tokio::select! {
                () = shutdown.cancelled() => return,
                failed = self.consume(queue.as_ref(), &name, &beat) => failed,
            };
            if !failed.is_told() {
                tracing::warn!(error = %chain(&failed), "consuming dead letters was interrupted");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// Consumes until something fails. Cancelling it loses nothing: a message that is not acknowledged comes again.
    async fn consume(&self, queue: &dyn Queue, name: &QueueName, beat: &Beat) -> QueueError {
        let mut consumer = match queue.consumer(name).await {
            Ok(consumer) => consumer,
            Err(error) => return error,
        };
        loop {
            let messages = match consumer.receive(WANT).await {
                Ok(messages) => messages,
                Err(error) => return error,
            };
            beat.beat();
            for message in messages {
                if let Err(error) = self.end(&message).await {
                    return error.into();
                }
                if let Err(error) = consumer.ack(&[message.receipt]).await {
                    return error;
                }
            }
        }
    }

    async fn end(&self, message: &Message) -> Result<(), DbError> {
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
