//! RabbitMQ alone: persistent messages of one id into a quorum queue, each confirmed, and a consumer that acknowledges
//! them cumulatively. Counted when the last is acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::wire;
use crate::measure::{Latencies, Quantiles};

/// Survives the broker's restart.
const PERSISTENT: u8 = 2;
/// About as long as a message of one id.
const BODY: &[u8] = br#"{"queue":"callbacks","ids":["0198c5a7-0000-7000-8000-000000000000"]}"#;
/// Messages that are delivered and not acknowledged.
const PREFETCH: u16 = 1_000;
const CONSUME_LIMIT: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The broker.
    pub url: String,
    /// A quorum queue that is there.
    pub queue: String,
    /// Messages that are published and not confirmed.
    pub window: usize,
    /// How long before the measurement.
    pub warm_up_ms: u64,
    /// How long.
    pub measured_ms: u64,
}

/// Said at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Messages of the measured time, all confirmed and consumed.
    pub messages: u64,
    /// Up to the last acknowledgement, in seconds.
    pub seconds: f64,
    /// From publishing to the confirm, in milliseconds.
    pub latency: Quantiles,
}

/// Publishes and consumes, says `true` after the warm-up, and reports.
///
/// # Errors
/// When the broker fails or refuses a message.
pub(super) async fn run(plan: Plan) -> anyhow::Result<()> {
    let connect = || Connection::connect(&plan.url, ConnectionProperties::default());
    let (publishing, consuming) = (connect().await?, connect().await?);
    let publisher = publishing.create_channel().await?;
    publisher.confirm_select(ConfirmSelectOptions::default()).await?;
    let receiver = consuming.create_channel().await?;
    receiver.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let mut consumer = receiver
        .basic_consume(plan.queue.as_str().into(), "bench".into(), BasicConsumeOptions::default(), Default::default())
        .await?;

    exchange_for(&plan, &publisher, &mut consumer, Duration::from_millis(plan.warm_up_ms)).await?;
    wire::say(&true)?;
    wire::hear_go().await?;
    let started = Instant::now();
    let (messages, latencies) =
        exchange_for(&plan, &publisher, &mut consumer, Duration::from_millis(plan.measured_ms)).await?;
    let seconds = started.elapsed().as_secs_f64();
    wire::say(&Report { messages, seconds, latency: latencies.quantiles() })?;
    // What it has used can be read as long as it is there.
    wire::wait_for_end().await
}

/// Publishes for `length`, while the consumer takes; ends when it has taken everything.
async fn exchange_for(
    plan: &Plan,
    publisher: &Channel,
    consumer: &mut Consumer,
    length: Duration,
) -> anyhow::Result<(u64, Latencies)> {
    let (tell, mut told) = tokio::sync::watch::channel(None);
    let publishing = async {
        let published = publish_for(plan, publisher, length).await?;
        tell.send_replace(Some(published.0));
        anyhow::Ok(published)
    };
    let consuming = async {
        let mut consumed = 0;
        loop {
            let total: Option<u64> = *told.borrow_and_update();
            if total.is_some_and(|total| consumed >= total) {
                return anyhow::Ok(());
            }
            // Only the wait may be cut short: what was taken has to be counted.
            let first = tokio::select! {
                next = timeout(CONSUME_LIMIT, consumer.next()) => next?,
                changed = told.changed() => {
                    changed?;
                    continue;
                }
            };
            consumed += take(consumer, first.context("the consumer ended")??).await?;
        }
    };
    let (published, ()) = tokio::try_join!(publishing, consuming)?;
    Ok(published)
}

async fn publish_for(plan: &Plan, publisher: &Channel, length: Duration) -> anyhow::Result<(u64, Latencies)> {
    let window = Arc::new(Semaphore::new(plan.window));
    let deadline = Instant::now() + length;
    let (mut messages, mut latencies, mut confirms) = (0, Latencies::new(), JoinSet::new());
    while Instant::now() < deadline {
        let place = Arc::clone(&window).acquire_owned().await?;
        let published = Instant::now();
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let confirm =
            publisher.basic_publish("".into(), plan.queue.as_str().into(), mandatory, BODY, properties).await?;
        messages += 1;
        confirms.spawn_local(async move {
            let confirmation = confirm.await?;
            drop(place);
            ensure!(matches!(confirmation, Confirmation::Ack(None)), "the broker did not take a message");
            Ok(published.elapsed())
        });
        while let Some(confirmed) = confirms.try_join_next() {
            latencies.add(confirmed??);
        }
    }
    while let Some(confirmed) = confirms.join_next().await {
        latencies.add(confirmed??);
    }
    Ok((messages, latencies))
}

/// Takes what is there beside `last`, and acknowledges it together.
async fn take(consumer: &mut Consumer, mut last: Delivery) -> anyhow::Result<u64> {
    let mut taken = 1;
    while taken < u64::from(PREFETCH) / 2 {
        let Some(next) = consumer.next().now_or_never() else { break };
        last = next.context("the consumer ended")??;
        taken += 1;
    }
    last.acker.ack(BasicAckOptions { multiple: true }).await?;
    Ok(taken)
}
