//! The exchange, the queues and how they are bound.
//!
//! Everything is durable and declared by whoever uses it, relay or consumer, so that a queue that somebody deleted is
//! there again with its next use. The arguments of a queue cannot be changed once it is there: a name carries a version
//! when they have to.

use lapin::Channel;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use tokio::sync::Mutex;

use super::BrokerError;
use super::link::Session;
use crate::queue::QueueName;

/// One declaration at a time: RabbitMQ meets the use of a queue whose making is still under way elsewhere with an
/// internal error, which ends the connection. Between processes that can happen once, at the first start of all.
static DECLARING: Mutex<()> = Mutex::const_new(());

/// Returns of one message after which the broker moves it to the dead letters: a backstop only, far above what restarts
/// and outages can bring, since poison is counted in Postgres.
const DELIVERY_LIMIT: i64 = 10_000;
/// Messages of one queue; the relay backs off when it is full.
const LENGTH_MAX: i64 = 1_000_000;
/// Dead letters that nobody consumes are dropped: what they name is found by the sweeper.
const DEAD_LENGTH_MAX: i64 = 100_000;
const DEAD_TTL_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// The names of one installation.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    prefix: String,
}

impl Topology {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The topic exchange; a message's routing key is its queue's name.
    pub(super) fn exchange(&self) -> ShortString {
        self.prefix.as_str().into()
    }

    /// The queue's name in the broker.
    pub(super) fn queue(&self, queue: &QueueName) -> ShortString {
        format!("{}.{queue}", self.prefix).into()
    }

    /// Makes sure that `queue` is there, and where its dead letters go.
    pub(super) async fn declare(&self, session: &Session, queue: &QueueName) -> Result<(), BrokerError> {
        let _one_at_a_time = DECLARING.lock().await;
        session.command("declaring a queue", self.declare_over(&session.channel, queue)).await
    }

    async fn declare_over(&self, channel: &Channel, queue: &QueueName) -> lapin::Result<()> {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(self.exchange(), lapin::ExchangeKind::Topic, durable, FieldTable::default()).await?;
        let dead = QueueName::dead();
        self.declare_queue(channel, &dead, self.dead_arguments()).await?;
        if *queue != dead {
            self.declare_queue(channel, queue, self.arguments()).await?;
        }
        Ok(())
    }

    async fn declare_queue(&self, channel: &Channel, queue: &QueueName, arguments: FieldTable) -> lapin::Result<()> {
        channel.queue_declare(self.queue(queue), QueueDeclareOptions::durable(), arguments).await?;
        let key = queue.as_str().into();
        channel
            .queue_bind(self.queue(queue), self.exchange(), key, QueueBindOptions::default(), FieldTable::default())
            .await
    }

    /// A full queue refuses (the relay then waits) and loses nothing on the way to the dead letters.
    fn arguments(&self) -> FieldTable {
        table([
            ("x-queue-type", AMQPValue::LongString("quorum".into())),
            ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
            ("x-max-length", AMQPValue::LongLongInt(LENGTH_MAX)),
            ("x-overflow", AMQPValue::LongString("reject-publish".into())),
            ("x-dead-letter-strategy", AMQPValue::LongString("at-least-once".into())),
            ("x-dead-letter-exchange", AMQPValue::LongString(self.prefix.as_str().into())),
            ("x-dead-letter-routing-key", AMQPValue::LongString(QueueName::dead().as_str().into())),
        ])
    }

    fn dead_arguments(&self) -> FieldTable {
        table([
            ("x-queue-type", AMQPValue::LongString("quorum".into())),
            ("x-max-length", AMQPValue::LongLongInt(DEAD_LENGTH_MAX)),
            ("x-message-ttl", AMQPValue::LongLongInt(DEAD_TTL_MS)),
        ])
    }
}

fn table<const N: usize>(arguments: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(name.into(), value);
    }
    table
}
