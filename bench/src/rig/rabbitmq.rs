//! The RabbitMQ of the bench: a private broker, and names of its own for each run.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};
use embedded::rabbitmq::{Broker, Settings};
use lapin::options::{BasicGetOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties};
use serde::Deserialize;

/// The queue of the Express handlers.
const BASELINE_QUEUE: &str = "baseline.callbacks";

/// The running broker.
pub struct RabbitMq {
    broker: Broker,
    next: AtomicU32,
}

impl RabbitMq {
    /// Starts it.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let start = || Broker::start(&Settings::throw_away("cargo xtask bench"));
        let broker = tokio::task::spawn_blocking(start).await??;
        Ok(Self { broker, next: AtomicU32::new(0) })
    }

    /// `amqp://user:password@127.0.0.1:port/%2f`.
    pub fn url(&self) -> String {
        self.broker.url()
    }

    /// The Erlang VM.
    pub fn pid(&self) -> u32 {
        self.broker.pid()
    }

    /// The version, for the header.
    pub fn version(&self) -> String {
        let (major, minor) = self.broker.installation().version;
        format!("{major}.{minor}")
    }

    /// A prefix that no run had before.
    pub fn prefix(&self) -> String {
        format!("run-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A fresh quorum queue.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn make_queue(&self) -> anyhow::Result<String> {
        let queue = format!("{}.alone", self.prefix());
        let (connection, channel) = self.connect().await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::durable(), arguments).await?;
        connection.close(200, "done".into()).await?;
        Ok(queue)
    }

    /// Empties the queue of callbacks of `prefix`, and says how many ids were in it.
    ///
    /// # Errors
    /// When a message is none of claygate's.
    pub async fn take_published(&self, prefix: &str) -> anyhow::Result<u64> {
        #[derive(Deserialize)]
        struct Body {
            ids: Vec<String>,
        }
        let (connection, channel) = self.connect().await?;
        let (queue, mut published) = (format!("{prefix}.callbacks"), 0);
        while let Some(message) = channel.basic_get(queue.as_str().into(), BasicGetOptions { no_ack: true }).await? {
            let body: Body = serde_json::from_slice(&message.data).context("reading a message")?;
            published += body.ids.len() as u64;
        }
        connection.close(200, "done".into()).await?;
        Ok(published)
    }

    /// Whether the queues of `prefix` are empty: everything was acknowledged. That of a `hung` destination need not be.
    ///
    /// # Errors
    /// Names the queue that is not.
    pub async fn check_empty(&self, prefix: &str, destinations: usize, hung: Option<usize>) -> anyhow::Result<()> {
        let (connection, channel) = self.connect().await?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let spared = hung.map(|number| deliver_queue(prefix, number));
        for queue in queues(prefix, destinations).filter(|queue| spared.as_ref() != Some(queue)) {
            let found = channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await?;
            let left = found.message_count();
            ensure!(left == 0, "{left} messages are left in {queue}");
        }
        Ok(connection.close(200, "done".into()).await?)
    }

    /// Removes what a run with `prefix` made.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn remove(&self, prefix: &str, destinations: usize) -> anyhow::Result<()> {
        let others = [format!("{prefix}.dead"), format!("{prefix}.released"), format!("{prefix}.alone")];
        let (connection, channel) = self.connect().await?;
        for queue in queues(prefix, destinations).chain(others).chain([BASELINE_QUEUE.to_owned()]) {
            channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await?;
        }
        channel.exchange_delete(prefix.into(), ExchangeDeleteOptions::default()).await?;
        Ok(connection.close(200, "done".into()).await?)
    }

    /// Stops it.
    ///
    /// # Errors
    /// When it has to be killed.
    pub async fn stop(self) -> anyhow::Result<()> {
        Ok(tokio::task::spawn_blocking(move || self.broker.stop()).await??)
    }

    async fn connect(&self) -> anyhow::Result<(Connection, Channel)> {
        let connection = Connection::connect(&self.url(), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }
}

/// The queues that work goes through.
fn queues(prefix: &str, destinations: usize) -> impl Iterator<Item = String> {
    let deliver = move |number| deliver_queue(prefix, number);
    std::iter::once(format!("{prefix}.callbacks")).chain((0..destinations).map(deliver))
}

fn deliver_queue(prefix: &str, destination: usize) -> String {
    format!("{prefix}.deliver.d{destination}")
}
