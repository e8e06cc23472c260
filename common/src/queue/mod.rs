//! The queue: ids on their way from the transaction that made work necessary to the worker that does it.
//!
//! A message is a queue's name and 1 to 64 ids; what was committed together travels together. Delivery is at least
//! once: a message that is not acknowledged comes again, marked `redelivered`, and its consumer then works its ids off
//! one at a time, so that one bad id never takes its neighbours with it. Whoever receives a message acknowledges it
//! only after the commit that makes it unnecessary, and keeps it no longer than seconds: what cannot start goes back
//! as a due outbox row ([`crate::db::outbox::push`]).
//!
//! Two back-ends pass one conformance suite: [`postgres`], which claims due entries from the outbox itself, and
//! [`rabbitmq`], where a relay publishes them.

mod backlog;
mod doorbell;
mod open;
pub mod postgres;
pub mod rabbitmq;

use std::fmt;

use async_trait::async_trait;
use uuid::Uuid;

pub use backlog::BacklogWatch;
pub use doorbell::Doorbell;
pub use open::{broker_settings, open, queues_of};

/// Most ids in one message.
pub const BATCH_MAX: usize = 64;

/// The name of a queue.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueName(String);

impl QueueName {
    /// Callbacks to be routed.
    pub fn callbacks() -> Self {
        Self("callbacks".to_owned())
    }

    /// Deliveries of one destination.
    pub fn deliver(destination: &str) -> Self {
        Self(format!("deliver.{destination}"))
    }

    /// Deliveries that ended without reaching anyone and whose cool-downs were given back: what they blocked goes on.
    pub fn released() -> Self {
        Self("released".to_owned())
    }

    /// What a broker gave up carrying: messages that came back too often. Nothing is pushed to it.
    pub fn dead() -> Self {
        Self("dead".to_owned())
    }

    /// The name in tables and in the broker (there behind a prefix and a dot).
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The destination, where it is a deliver queue.
    pub fn destination(&self) -> Option<&str> {
        self.0.strip_prefix("deliver.")
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a back-end needs to recognise a message again. Valid on the consumer that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub(crate) id: i64,
    pub(crate) claim: i32,
}

/// Ids to be worked off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The queue that it was pushed to; not the one that it comes from where that is the dead letters.
    pub queue: QueueName,
    /// 1 to 64 ids.
    pub refs: Vec<Uuid>,
    /// It was given out before and not acknowledged: work it off one id at a time.
    pub redelivered: bool,
    /// For [`Consumer::ack`] and [`Consumer::release`].
    pub receipt: Receipt,
}

/// Why the queue cannot be used just now. The caller backs off and tries again.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The back-end's database failed.
    #[error("the queue's database failed")]
    Database(#[from] crate::db::DbError),
    /// The back-end's broker failed.
    #[error("the queue's broker failed: {0}")]
    Broker(#[from] rabbitmq::BrokerError),
}

impl QueueError {
    /// Whether the log has it already: the connection tells its loss once, not each of its users again and again.
    pub fn is_told(&self) -> bool {
        matches!(self, Self::Broker(rabbitmq::BrokerError::Down))
    }
}

/// A queue back-end.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Opens a consumer of `queue`. Any number may consume the same queue.
    async fn consumer(&self, queue: &QueueName) -> Result<Box<dyn Consumer>, QueueError>;

    /// Where messages go that the back-end itself gives up on; `None`: it never does.
    fn dead_letters(&self) -> Option<QueueName> {
        None
    }

    /// What brings `queues` from the outbox to the back-end, to be run beside the consumers; `None`: they claim from the
    /// outbox themselves.
    fn relay(&self, _queues: Vec<QueueName>) -> Option<rabbitmq::Relay> {
        None
    }
}

/// One consumer of one queue.
#[async_trait]
pub trait Consumer: Send {
    /// Waits until something is due, or until a back-end's own waking time has passed, and takes messages of together
    /// about `want` ids (at least one message when one is due; the last may exceed it). May return none.
    ///
    /// # Cancel safety
    /// Safe: what was claimed and not returned comes again.
    async fn receive(&mut self, want: usize) -> Result<Vec<Message>, QueueError>;

    /// Whether more was there than the last receive brought, as far as this consumer can tell.
    fn more_may_wait(&self) -> bool;

    /// Acknowledges messages. Call it only after the commit that makes them unnecessary. Answers how many were still
    /// this consumer's; the others were given out again, and their new holders find nothing to do.
    async fn ack(&mut self, receipts: &[Receipt]) -> Result<usize, QueueError>;

    /// Gives messages back at once, for others to take; they come again as redelivered.
    async fn release(&mut self, receipts: &[Receipt]) -> Result<(), QueueError>;
}
