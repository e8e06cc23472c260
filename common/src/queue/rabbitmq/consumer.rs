//! One consumer of one queue: a channel of its own, a subscription while somebody receives, and what it holds.
//!
//! The broker pushes; [`Consumer::receive`] pulls. Between the two lies a small buffer, bounded by the subscription's
//! prefetch. What is in the buffer or was received is held by this consumer, and the broker gives it to others only
//! when it is returned or the channel ends. So a keeper looks in from time to time: a buffer that nobody empties goes
//! back through the outbox, and a message that was received and then forgotten is returned.
//!
//! A subscription can die without a word. So after every wait in vain the queue is looked at, over this very channel:
//! no answer, a queue that does not know this consumer, or messages that wait and do not come are failures like any
//! other, and the caller opens a new consumer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::Acker;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::link::Session;
use super::{BrokerError, Shared, message};
use crate::db::{DbError, outbox};
use crate::queue::{Consumer, Message, QueueError, QueueName, Receipt};
use crate::telemetry::logs::chain;

/// Ids that are asked for, per message of prefetch: messages hold several when there is much to do.
const IDS_PER_MESSAGE: usize = 4;
/// Most messages in the buffer.
const PREFETCH_MAX: usize = 16;
/// Looks in a row that find messages waiting after a wait in vain. One may be chance: they have just arrived.
const STARVED_AFTER: u8 = 3;

/// See the module.
pub(super) struct RabbitConsumer {
    state: Arc<Mutex<State>>,
    keeper: JoinHandle<()>,
}

struct State {
    shared: Arc<Shared>,
    session: Session,
    queue: QueueName,
    name: ShortString,
    subscription: Option<Subscription>,
    buffer: VecDeque<Buffered>,
    /// Received, and neither acknowledged nor released, by delivery tag.
    held: BTreeMap<u64, Held>,
    /// The highest delivery tag that was seen.
    last_tag: u64,
    /// The end of the last receive.
    idle_since: Instant,
    starved: u8,
    /// A command was interrupted: what the broker thinks of this channel is not known.
    in_doubt: bool,
}

struct Subscription {
    stream: lapin::Consumer,
    prefetch: usize,
    /// Its messages have higher tags.
    after_tag: u64,
}

struct Buffered {
    tag: u64,
    acker: Acker,
    redelivered: bool,
    queue: QueueName,
    refs: Vec<Uuid>,
}

struct Held {
    acker: Acker,
    since: Instant,
}

impl RabbitConsumer {
    /// A consumer that subscribes with its first receive. Declares its queue.
    pub(super) async fn open(shared: &Arc<Shared>, queue: &QueueName) -> Result<Self, BrokerError> {
        let session = shared.consuming.open().await?;
        shared.topology.declare(&session, queue).await?;
        let state = State {
            shared: Arc::clone(shared),
            session,
            queue: queue.clone(),
            name: shared.topology.queue(queue),
            subscription: None,
            buffer: VecDeque::new(),
            held: BTreeMap::new(),
            last_tag: 0,
            idle_since: Instant::now(),
            starved: 0,
            in_doubt: false,
        };
        let every = shared.settings.idle_after / 2;
        let state = Arc::new(Mutex::new(state));
        let keeper = tokio::spawn(keep(Arc::clone(&state), every));
        Ok(Self { state, keeper })
    }
}

impl Drop for RabbitConsumer {
    /// With the keeper goes the last hold on the channel, and what it held goes to others.
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn receive(&mut self, want: usize) -> Result<Vec<Message>, QueueError> {
        let mut state = self.state.lock().await;
        let received = state.receive(want.max(1)).await;
        state.idle_since = Instant::now();
        Ok(received?)
    }

    fn more_may_wait(&self) -> bool {
        // Locked: the keeper is at work, and gives back what is there.
        self.state.try_lock().is_ok_and(|state| !state.buffer.is_empty() || state.is_exhausted())
    }

    async fn ack(&mut self, receipts: &[Receipt]) -> Result<usize, QueueError> {
        Ok(self.state.lock().await.ack(receipts).await?)
    }

    async fn release(&mut self, receipts: &[Receipt]) -> Result<(), QueueError> {
        let mut state = self.state.lock().await;
        for tag in tags(receipts) {
            if let Some(held) = state.held.remove(&tag) {
                state.give_back(&held.acker).await?;
            }
        }
        Ok(())
    }
}

/// Looks in until it is aborted. While somebody receives, the state is locked and there is nothing to do.
async fn keep(state: Arc<Mutex<State>>, every: std::time::Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Ok(mut state) = state.try_lock() else { continue };
        if let Err(error) = state.tidy().await {
            tracing::debug!(queue = %state.queue, error = %chain(&error), "a consumer could not be tidied up");
            state.in_doubt = true;
        }
    }
}

impl State {
    async fn receive(&mut self, want: usize) -> Result<Vec<Message>, BrokerError> {
        if self.in_doubt {
            return Err(BrokerError::Forgotten);
        }
        self.return_overdue().await?;
        self.collect().await?;
        if self.buffer.is_empty() && (self.subscription.is_none() || self.is_exhausted()) {
            self.subscribe(want).await?;
        }
        if self.buffer.is_empty() {
            self.wait().await?;
        }
        Ok(self.hand_out(want))
    }

    /// Subscribes; an exhausted subscription is replaced, since its prefetch is held by whoever received it.
    async fn subscribe(&mut self, want: usize) -> Result<(), BrokerError> {
        self.unsubscribe().await?;
        self.in_doubt = true;
        let prefetch = (want / IDS_PER_MESSAGE).clamp(1, PREFETCH_MAX);
        let channel = &self.session.channel;
        let count = u16::try_from(prefetch).unwrap_or(u16::MAX);
        self.session.command("setting the prefetch", channel.basic_qos(count, BasicQosOptions::default())).await?;
        let consuming = channel.basic_consume(
            self.name.clone(),
            ShortString::default(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let stream = self.session.command("subscribing", consuming).await?;
        self.subscription = Some(Subscription { stream, prefetch, after_tag: self.last_tag });
        (self.in_doubt, self.starved) = (false, 0);
        Ok(())
    }

    /// Ends the subscription; what it has brought is in the buffer then.
    async fn unsubscribe(&mut self) -> Result<(), BrokerError> {
        let Some(mut subscription) = self.subscription.take() else { return Ok(()) };
        self.in_doubt = true;
        let tag = subscription.stream.tag();
        let cancelling = self.session.channel.basic_cancel(tag, BasicCancelOptions::default());
        self.session.command("ending a subscription", cancelling).await?;
        self.in_doubt = false;
        while let Some(next) = subscription.stream.next().now_or_never().flatten() {
            let delivery = next.map_err(|error| self.session.judge(error))?;
            self.put_into_buffer(delivery).await?;
        }
        Ok(())
    }

    /// Whether whoever received holds all that the subscription may bring.
    fn is_exhausted(&self) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| {
            let held = self.held.range(subscription.after_tag + 1..).count();
            held + self.buffer.len() >= subscription.prefetch
        })
    }

    /// Takes what has arrived, without waiting.
    async fn collect(&mut self) -> Result<(), BrokerError> {
        while let Some(subscription) = &mut self.subscription
            && let Some(next) = subscription.stream.next().now_or_never()
        {
            self.take(next).await?;
        }
        Ok(())
    }

    /// Takes what the subscription brought: a message, an error, or its end.
    async fn take(&mut self, next: Option<lapin::Result<Delivery>>) -> Result<(), BrokerError> {
        let delivery = next.ok_or(BrokerError::Cancelled)?.map_err(|error| self.session.judge(error))?;
        self.put_into_buffer(delivery).await
    }

    /// Waits for a message; when none comes, sees whether that is the truth.
    async fn wait(&mut self) -> Result<(), BrokerError> {
        let Some(subscription) = &mut self.subscription else { return Ok(()) };
        if let Ok(next) = timeout(self.shared.settings.poll_every, subscription.stream.next()).await {
            self.starved = 0;
            self.take(next).await?;
            return self.collect().await;
        }
        let (waiting, consumers) = self.session.look_at(self.name.clone()).await?;
        if consumers == 0 {
            return Err(BrokerError::Forgotten);
        }
        self.starved = if waiting > 0 { self.starved + 1 } else { 0 };
        if self.starved >= STARVED_AFTER { Err(BrokerError::Starved) } else { Ok(()) }
    }

    async fn put_into_buffer(&mut self, delivery: Delivery) -> Result<(), BrokerError> {
        self.last_tag = self.last_tag.max(delivery.delivery_tag);
        let Some((queue, refs)) = message::decode(&delivery.data) else {
            // Somebody else publishes here. What is in it might be personal: only its size is told.
            tracing::error!(queue = %self.queue, bytes = delivery.data.len(), "a message that is not ours was put aside");
            if self.queue == QueueName::dead() {
                self.settle(&delivery.acker, false).await?;
            } else {
                let rejecting = delivery.acker.reject(BasicRejectOptions { requeue: false });
                self.session.command("putting a message aside", rejecting).await?;
            }
            return Ok(());
        };
        let returned_too_often = is_returned_too_often(&delivery);
        let Delivery { delivery_tag: tag, acker, redelivered, .. } = delivery;
        let one = Buffered { tag, acker, redelivered, queue, refs };
        if self.queue == QueueName::dead() && !returned_too_often {
            // A policy of the operator's dropped it, not its ids.
            self.give_back_to_outbox(one).await
        } else {
            self.buffer.push_back(one);
            Ok(())
        }
    }

    /// Gives what a policy made a dead letter of back to its queue. Where the outbox cannot be reached, it is held, and
    /// returned in a while.
    async fn give_back_to_outbox(&mut self, one: Buffered) -> Result<(), BrokerError> {
        match self.push(std::slice::from_ref(&one)).await {
            Ok(()) => drop(self.settle(&one.acker, false).await?),
            Err(error) => {
                tracing::debug!(queue = %one.queue, error = %chain(&error), "a dead letter waits for the database");
                self.held.insert(one.tag, Held { acker: one.acker, since: Instant::now() });
            }
        }
        Ok(())
    }

    fn hand_out(&mut self, want: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        let (mut ids, since) = (0, Instant::now());
        while ids < want
            && let Some(Buffered { tag, acker, redelivered, queue, refs }) = self.buffer.pop_front()
        {
            ids += refs.len();
            self.held.insert(tag, Held { acker, since });
            let receipt = Receipt { id: i64::try_from(tag).unwrap_or(i64::MAX), claim: 0 };
            messages.push(Message { queue, refs, redelivered, receipt });
        }
        messages
    }

    /// Acknowledges what is still held; all at once where nothing below it is left open.
    async fn ack(&mut self, receipts: &[Receipt]) -> Result<usize, BrokerError> {
        let mut acked: Vec<(u64, Acker)> =
            tags(receipts).filter_map(|tag| Some((tag, self.held.remove(&tag)?.acker))).collect();
        acked.sort_unstable_by_key(|(tag, _)| *tag);
        let Some((highest, last)) = acked.last() else { return Ok(0) };
        // The buffer lies above everything that was received.
        if self.held.range(..highest).next().is_none() {
            let done = self.settle(last, true).await?;
            return Ok(if done { acked.len() } else { 0 });
        }
        let mut done = 0;
        for (_, acker) in &acked {
            done += usize::from(self.settle(acker, false).await?);
        }
        Ok(done)
    }

    /// Acknowledges one message, or all up to it. Answers whether the channel was still there to do so. The library may
    /// let an acknowledgement wait for ever while a connection ends, so it is a command like the others.
    async fn settle(&self, acker: &Acker, multiple: bool) -> Result<bool, BrokerError> {
        self.session.command("acknowledging", acker.ack(BasicAckOptions { multiple })).await
    }

    /// Gives one message to others; it comes again as redelivered.
    async fn give_back(&self, acker: &Acker) -> Result<(), BrokerError> {
        let returning = acker.nack(BasicNackOptions { multiple: false, requeue: true });
        self.session.command("returning a message", returning).await.map(drop)
    }

    /// Returns what was received so long ago that whoever did will not settle it any more.
    async fn return_overdue(&mut self) -> Result<(), BrokerError> {
        while let Some(oldest) = self.held.first_entry()
            && oldest.get().since.elapsed() > self.shared.settings.hold_max
        {
            let held = oldest.remove();
            self.give_back(&held.acker).await?;
        }
        Ok(())
    }

    async fn tidy(&mut self) -> Result<(), BrokerError> {
        self.return_overdue().await?;
        if !self.in_doubt && self.idle_since.elapsed() > self.shared.settings.idle_after {
            self.park().await?;
        }
        Ok(())
    }

    /// Ends the subscription and gives the buffer to others: by the outbox, since a return counts towards poison.
    async fn park(&mut self) -> Result<(), BrokerError> {
        self.unsubscribe().await?;
        // A redelivered message keeps its mark, so it is returned; dead letters have no place in the outbox.
        let is_returned = |one: &Buffered| one.redelivered || self.queue == QueueName::dead();
        let (again, fresh): (Vec<_>, Vec<_>) = self.buffer.drain(..).partition(is_returned);
        for one in again {
            self.give_back(&one.acker).await?;
        }
        if fresh.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.push(&fresh).await {
            tracing::debug!(queue = %self.queue, error = %chain(&error), "prefetched messages wait for the database");
            self.buffer.extend(fresh);
            return Ok(());
        }
        for one in fresh {
            self.settle(&one.acker, false).await?;
        }
        Ok(())
    }

    async fn push(&self, messages: &[Buffered]) -> Result<(), DbError> {
        let mut transaction = self.shared.database.pool().begin().await?;
        for one in messages {
            outbox::push(&mut transaction, &one.queue, &one.refs, None).await?;
        }
        transaction.commit().await?;
        messages.iter().for_each(|one| self.shared.doorbell.ring(&one.queue));
        Ok(())
    }
}

/// Whether a dead letter became one because it came back more often than its queue allows.
fn is_returned_too_often(delivery: &Delivery) -> bool {
    let headers = delivery.properties.headers().as_ref();
    headers.and_then(|headers| headers.inner().get("x-first-death-reason")).is_some_and(|reason| match reason {
        AMQPValue::LongString(reason) => reason.as_bytes() == b"delivery_limit",
        _ => false,
    })
}

fn tags(receipts: &[Receipt]) -> impl Iterator<Item = u64> {
    receipts.iter().filter_map(|receipt| u64::try_from(receipt.id).ok())
}
