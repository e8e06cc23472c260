//! Consuming a queue that is seldom full: message by message, each acknowledged when it is worked off.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use common::db::DbError;
use common::queue::{Message, Queue, QueueError, QueueName};
use common::telemetry::logs::chain;
use tokio_util::sync::CancellationToken;

use crate::health::Beat;

const PAUSE: Duration = Duration::from_secs(1);
/// Ids taken at once. Each is a transaction of its own, and a message is kept for seconds only.
const WANT: usize = 8;

/// What is done with a message.
#[async_trait]
pub(crate) trait Work: Send + Sync {
    /// Does it; a failure gives the message back, to come again.
    async fn work_off(&self, message: &Message) -> Result<(), DbError>;
}

/// Consumes `name` until `shutdown`.
pub(crate) async fn run(
    work: &dyn Work,
    queue: Arc<dyn Queue>,
    name: QueueName,
    beat: Beat,
    shutdown: CancellationToken,
) {
    loop {
        let failed = tokio::select! {
            () = shutdown.cancelled() => return,
            failed = consume(work, queue.as_ref(), &name, &beat) => failed,
        };
        if !failed.is_told() {
            tracing::warn!(queue = %name, error = %chain(&failed), "consuming was interrupted");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Consumes until something fails. Cancelling it loses nothing: a message that is not acknowledged comes again.
async fn consume(work: &dyn Work, queue: &dyn Queue, name: &QueueName, beat: &Beat) -> QueueError {
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
            let worked_off = work.work_off(&message).await;
            let settled = match &worked_off {
                Ok(()) => consumer.ack(&[message.receipt]).await.map(|_| ()),
                Err(_) => consumer.release(&[message.receipt]).await,
            };
            if let Err(error) = worked_off.map_err(QueueError::from).and(settled) {
                return error;
            }
        }
    }
}
