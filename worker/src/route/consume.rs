//! The consumer of the queue `callbacks`: takes messages, has them routed, acknowledges after the commit.
//!
//! Fresh messages that arrive together are routed as one batch; a redelivered one is worked off one id at a time, so
//! that a poisonous callback takes none of its neighbours with it. While the database is away a batch is kept and
//! tried again with growing pauses; if its message's claim runs out in the meantime, another worker has it and the
//! fence keeps the two apart.

use std::sync::Arc;
use std::time::Duration;

use common::crash::{self, Point};
use common::db::DbError;
use common::ids::CallbackId;
use common::queue::{BATCH_MAX, Consumer, Message, Queue, QueueError, QueueName, Receipt};
use common::telemetry::logs::chain;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Router;
use crate::health::Beat;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Consumes `callbacks` until `shutdown`. Several may run at once.
pub async fn run(router: Router, queue: Arc<dyn Queue>, beat: Beat, shutdown: CancellationToken) {
    let mut pause = PAUSE_MIN;
    while !shutdown.is_cancelled() {
        let Err(error) = consume(&router, queue.as_ref(), &beat, &shutdown, &mut pause).await else { return };
        if !error.is_told() {
            tracing::warn!(error = %chain(&error), "consuming callbacks was interrupted");
        }
        wait(&shutdown, &mut pause).await;
    }
}

async fn consume(
    router: &Router,
    queue: &dyn Queue,
    beat: &Beat,
    shutdown: &CancellationToken,
    pause: &mut Duration,
) -> Result<(), QueueError> {
    let mut consumer = queue.consumer(&QueueName::callbacks()).await?;
    loop {
        let messages = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            messages = consumer.receive(BATCH_MAX) => messages?,
        };
        beat.beat();
        *pause = PAUSE_MIN;
        if !messages.is_empty() {
            work_off(router, consumer.as_mut(), messages, beat, shutdown).await?;
        }
    }
}

/// Routes what was received, and acknowledges what was committed.
async fn work_off(
    router: &Router,
    consumer: &mut dyn Consumer,
    messages: Vec<Message>,
    beat: &Beat,
    shutdown: &CancellationToken,
) -> Result<(), QueueError> {
    crash::point(Point::AfterClaim);
    let (again, fresh): (Vec<Message>, Vec<Message>) = messages.into_iter().partition(|message| message.redelivered);
    let receipts: Vec<Receipt> = fresh.iter().map(|message| message.receipt).collect();
    let ids: Vec<CallbackId> = fresh.into_iter().flat_map(|message| message.refs).map(CallbackId).collect();
    if !ids.is_empty() {
        let routed = insist(beat, shutdown, || router.route_batch(&ids)).await.is_some();
        settle(consumer, &receipts, routed, shutdown).await?;
    }
    for message in again {
        let routed = work_off_again(router, &message.refs, beat, shutdown).await;
        settle(consumer, &[message.receipt], routed, shutdown).await?;
    }
    Ok(())
}

/// Routes the callbacks of a redelivered message one by one. Answers whether all of them are done with; one that fails
/// does not keep the others from their turn.
async fn work_off_again(router: &Router, refs: &[Uuid], beat: &Beat, shutdown: &CancellationToken) -> bool {
    let mut done = true;
    for one in refs.iter().map(|id| [CallbackId(*id)]) {
        done &= match insist(beat, shutdown, || router.count_redelivery(one[0])).await {
            None => false,
            Some(false) => true,
            Some(true) => insist(beat, shutdown, || router.route_batch(&one)).await.is_some(),
        };
    }
    done
}

/// Acknowledges what was routed. What was not is given back when the process stops; else its claim has to run out: what
/// fails for the program's own fault would come again at once, and be counted as poison within a second.
async fn settle(
    consumer: &mut dyn Consumer,
    receipts: &[Receipt],
    routed: bool,
    shutdown: &CancellationToken,
) -> Result<(), QueueError> {
    if routed {
        consumer.ack(receipts).await?;
    } else if shutdown.is_cancelled() {
        consumer.release(receipts).await?;
    }
    Ok(())
}

/// Does `work` until it succeeds, the process stops, or trying again makes no sense (`None`).
async fn insist<F, T>(beat: &Beat, shutdown: &CancellationToken, work: impl Fn() -> F) -> Option<T>
where
    F: Future<Output = Result<T, DbError>>,
{
    let mut pause = PAUSE_MIN;
    loop {
        match work().await {
            Ok(done) => {
                beat.beat();
                return Some(done);
            }
            Err(error @ DbError::Unavailable(_)) => {
                // Every batch under way says so once.
                if pause == PAUSE_MIN {
                    tracing::warn!(error = %chain(&error), "routing waits for the database");
                } else {
                    tracing::debug!(error = %chain(&error), "routing still waits for the database");
                }
                wait(shutdown, &mut pause).await;
                if shutdown.is_cancelled() {
                    return None;
                }
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "a batch could not be routed");
                wait(shutdown, &mut pause).await;
                return None;
            }
        }
    }
}

/// A pause that grows, and that a stop ends.
async fn wait(shutdown: &CancellationToken, pause: &mut Duration) {
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(*pause) => {}
    }
    *pause = (*pause * 2).min(PAUSE_MAX);
}
