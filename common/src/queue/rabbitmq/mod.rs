//! RabbitMQ as the queue: a relay publishes what is due in the outbox, consumers take ids from quorum queues.
//!
//! The broker carries ids and nothing else, and nothing is lost with it: whatever it forgets is still in Postgres, and
//! the sweeper puts it back. It may give a message twice; every consumer works by state, so the second time finds
//! nothing to do.
//!
//! * [`Relay`] is the only publisher. An outbox entry is deleted after the broker has confirmed its message, never
//!   before; one that was published and not deleted (the process died in between) is published again.
//! * A consumer holds little and never for long. It asks for messages only while somebody receives, gives what it
//!   prefetched back *through the outbox* when nobody does (a return would count towards poison), and returns what was
//!   neither acknowledged nor released in [`RabbitSettings::hold_max`].
//! * Publishing and consuming use a connection each: while the broker is short of memory it stops reading from
//!   connections that publish, and acknowledgements have to go on.
//! * There is one way to recover: whatever fails or takes too long ends the channel, or the connection where that does
//!   not answer, and its user starts anew. The library's own recovery is not used (ADR 14).

mod consumer;
mod link;
mod message;
mod publisher;
mod relay;
mod topology;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use url::Url;

use self::consumer::RabbitConsumer;
use self::link::Link;
use self::topology::Topology;
use super::{Consumer, Doorbell, Queue, QueueError, QueueName};
use crate::db::Database;

pub use relay::Relay;

/// Which broker, and how patiently.
#[derive(Clone, Debug)]
pub struct RabbitSettings {
    /// `amqp://user@host:port/vhost` or `amqps://…`, without a password.
    pub url: Url,
    /// The user's password.
    pub password: Option<SecretString>,
    /// The name of the exchange, and the first part of every queue's name.
    pub prefix: String,
    /// How long one command of ours may take before the connection counts as dead.
    pub command_timeout: Duration,
    /// How long a window of messages may wait for its confirms.
    pub confirm_timeout: Duration,
    /// The longest wait of [`Consumer::receive`] without a message; also how often a silent consumer is examined.
    pub poll_every: Duration,
    /// A consumer that nobody receives from for so long gives back what it prefetched.
    pub idle_after: Duration,
    /// A message that was received and neither acknowledged nor released for so long is given to others.
    pub hold_max: Duration,
}

impl RabbitSettings {
    /// The usual patience.
    pub fn new(url: Url, password: Option<SecretString>, prefix: impl Into<String>) -> Self {
        Self {
            url,
            password,
            prefix: prefix.into(),
            command_timeout: Duration::from_secs(3),
            confirm_timeout: Duration::from_secs(10),
            poll_every: Duration::from_secs(1),
            idle_after: Duration::from_secs(2),
            hold_max: Duration::from_secs(60),
        }
    }
}

/// Why the broker cannot be used just now. Whoever meets it starts anew, after a pause.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The broker or the connection to it refused or failed.
    #[error("RabbitMQ failed: {0}")]
    Failed(#[from] lapin::Error),
    /// No answer in time; the connection was given up.
    #[error("RabbitMQ did not answer in time ({0})")]
    Silent(&'static str),
    /// There is no connection; it is dialled again after a pause, by whoever comes first then.
    #[error("there is no connection to RabbitMQ")]
    Down,
    /// The broker ended the subscription: its queue was deleted or has moved.
    #[error("RabbitMQ cancelled the consumer")]
    Cancelled,
    /// The subscription is there, the queue is not empty, and nothing comes.
    #[error("RabbitMQ delivers nothing although messages wait")]
    Starved,
    /// The subscription is gone on the broker's side, unannounced.
    #[error("RabbitMQ does not know the consumer any more")]
    Forgotten,
}

/// The broker, as one process sees it. Cheap to clone.
#[derive(Clone)]
pub struct RabbitQueue {
    shared: Arc<Shared>,
}

struct Shared {
    settings: RabbitSettings,
    topology: Topology,
    consuming: Arc<Link>,
    publishing: Arc<Link>,
    database: Database,
    doorbell: Doorbell,
}

impl RabbitQueue {
    /// A queue over the broker of `settings`, for what is in `database`. Nothing is dialled before it is needed.
    pub fn new(settings: RabbitSettings, database: Database, doorbell: Doorbell) -> Self {
        let consuming = Link::new(&settings, "consuming");
        let publishing = Link::new(&settings, "publishing");
        let topology = Topology::new(&settings.prefix);
        Self { shared: Arc::new(Shared { settings, topology, consuming, publishing, database, doorbell }) }
    }
}

/// Connects and disconnects: whether the broker of `settings` can be reached and lets this user in.
///
/// # Errors
/// [`BrokerError`], with its cause.
pub async fn try_connect(settings: &RabbitSettings) -> Result<(), BrokerError> {
    Link::new(settings, "trying").try_dial().await
}

#[async_trait]
impl Queue for RabbitQueue {
    async fn consumer(&self, queue: &QueueName) -> Result<Box<dyn Consumer>, QueueError> {
        Ok(Box::new(RabbitConsumer::open(&self.shared, queue).await?))
    }

    fn dead_letters(&self) -> Option<QueueName> {
        Some(QueueName::dead())
    }

    fn relay(&self, queues: Vec<QueueName>) -> Option<Relay> {
        Some(Relay::new(self, queues))
    }
}
