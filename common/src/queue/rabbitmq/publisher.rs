//! Publishing with confirms: what the broker said of each message.
//!
//! Only a positive confirm without a returned message counts. The broker confirms what it could route nowhere, too;
//! such a message comes back first, because it was published as mandatory.

use std::sync::Arc;

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation};
use metrics::counter;
use tokio::time::{Instant, timeout_at};

use super::link::Session;
use super::relay::Parcel;
use super::{BrokerError, Shared, message};
use crate::queue::QueueName;
use crate::telemetry::metrics::PUBLISHED;

/// Survives the broker's restart.
const PERSISTENT: u8 = 2;

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// It is in its queue, on disk.
    Confirmed,
    /// No queue took it.
    Unroutable,
    /// The broker refused it: its queue is full, or could not store it.
    Refused,
    /// Nothing is known of it; it may be there.
    Unknown,
}

impl Published {
    pub(super) const ALL: [Self; 4] = [Self::Confirmed, Self::Unroutable, Self::Refused, Self::Unknown];

    /// The label in metrics and logs.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Unroutable => "unroutable",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// A channel in confirm mode, for one queue.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    session: Session,
    queue: QueueName,
}

impl Publisher {
    /// Opens a channel and makes sure that the queue is there.
    pub(super) async fn open(shared: &Arc<Shared>, queue: &QueueName) -> Result<Self, BrokerError> {
        let session = shared.publishing.open().await?;
        let publisher = Self { shared: Arc::clone(shared), session, queue: queue.clone() };
        publisher.declare().await?;
        let confirming = publisher.session.channel.confirm_select(ConfirmSelectOptions::default());
        publisher.session.command("asking for confirms", confirming).await?;
        Ok(publisher)
    }

    /// Makes sure that the queue is there.
    pub(super) async fn declare(&self) -> Result<(), BrokerError> {
        self.shared.topology.declare(&self.session, &self.queue).await
    }

    /// Whether publishing makes sense now: the broker reads from the connection.
    pub(super) fn is_ready(&self) -> bool {
        !self.session.is_blocked()
    }

    /// Whether the channel can still be used.
    pub(super) fn is_open(&self) -> bool {
        self.session.is_open()
    }

    /// Publishes a message for each of `parcels` and waits for what the broker says of it. A connection that lets us wait
    /// is given up.
    pub(super) async fn publish(&self, parcels: &[Parcel]) -> Vec<Published> {
        let deadline = Instant::now() + self.shared.settings.confirm_timeout;
        let mut confirms = Vec::with_capacity(parcels.len());
        for parcel in parcels {
            // A publish waits for room in the socket, which a broker in need does not make.
            match timeout_at(deadline, self.send(parcel)).await {
                Ok(Ok(confirm)) => confirms.push(confirm),
                Ok(Err(_)) | Err(_) => break,
            }
        }
        let waiting = confirms.into_iter().map(|confirm| async move {
            match timeout_at(deadline, confirm).await {
                Ok(Ok(Confirmation::Ack(None))) => Published::Confirmed,
                Ok(Ok(Confirmation::Ack(Some(_)))) => Published::Unroutable,
                Ok(Ok(Confirmation::Nack(_))) => Published::Refused,
                Ok(Ok(Confirmation::NotRequested) | Err(_)) | Err(_) => Published::Unknown,
            }
        });
        let mut published = join_all(waiting).await;
        published.resize(parcels.len(), Published::Unknown);
        for one in &published {
            counter!(PUBLISHED, "result" => one.as_str()).increment(1);
        }
        if published.contains(&Published::Unknown) && !self.session.is_blocked() {
            self.session.give_up().await;
        }
        published
    }

    async fn send(&self, parcel: &Parcel) -> lapin::Result<lapin::PublisherConfirm> {
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties =
            BasicProperties::default().with_delivery_mode(PERSISTENT).with_content_type("application/json".into());
        let body = message::encode(&self.queue, &parcel.refs);
        let topology = &self.shared.topology;
        let key = self.queue.as_str().into();
        self.session.channel.basic_publish(topology.exchange(), key, mandatory, &body, properties).await
    }
}
