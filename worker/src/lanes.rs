//! Lanes: one per destination, with its slots. What routing hands to delivering goes through here.
//!
//! A slot is taken *before* the transaction that creates or leases a delivery, so that a lease never waits for
//! one. A slot that is not started, or whose delivery panics, gives itself back on drop.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::config::{Config, DestinationKind};
use common::ids::{CallbackId, DeliveryId, RowId};
use common::person::Person;
use common::queue::BATCH_MAX;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use crate::deliver::Gate;
use crate::destinations::requests_max;

/// What a lease has beyond the longest request: time to record the outcome.
const LEASE_MARGIN: Duration = Duration::from_secs(20);

/// One delivery that this process holds a lease on, ready to be sent.
#[derive(Clone, Debug)]
pub struct LeasedDelivery {
    /// The delivery; `webhook-id` and `Idempotency-Key` of every attempt.
    pub id: DeliveryId,
    /// The callback it was made of; `None`: it is of a row that was handed in.
    pub callback_id: Option<CallbackId>,
    /// That row.
    pub row_id: Option<RowId>,
    /// Where it goes.
    pub destination: String,
    /// The rule that named the destination; `None` where an operator did.
    pub rule: Option<String>,
    /// 0 for the first delivery of this callback to this destination.
    pub replay: i32,
    /// Attempts made so far.
    pub attempts: i32,
    /// Those of them that used up the retry schedule.
    pub failures: i32,
    /// Every later write is conditional on it.
    pub lease_token: Uuid,
    /// When the lease ends, on this process' monotonic clock; never later than the database's `lease_until`.
    pub lease_deadline: Instant,
    /// Values captured by earlier steps; an object.
    pub captured: Value,
    /// The lead's present fields, or the row's own.
    pub lead: Arc<Map<String, Value>>,
    /// The callback's source; empty where there is none.
    pub source: Arc<str>,
    /// When the callback or row came in.
    pub received_at: OffsetDateTime,
    /// Whom its cool-down is for.
    pub person: Option<Person>,
}

impl LeasedDelivery {
    /// The row that it makes in a table of Clay: the one that was handed in, else one of its own id.
    pub fn row(&self) -> RowId {
        self.row_id.unwrap_or(RowId(self.id.0))
    }
}

/// A delivery with the permit of its slot; the permit is given back when this is dropped.
#[derive(Debug)]
pub struct Started {
    /// What is to be sent.
    pub delivery: LeasedDelivery,
    /// The slot it occupies.
    pub permit: OwnedSemaphorePermit,
    /// Its turn, where its destination has a rate.
    pub turn: Option<Instant>,
}

/// A slot of a destination that nobody uses yet. Dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    permit: OwnedSemaphorePermit,
    start: mpsc::UnboundedSender<Started>,
}

impl Slot {
    /// Sends `delivery`, whose lease is committed. Never blocks: the slots bound what is under way.
    pub fn start(self, delivery: LeasedDelivery) {
        // A runner that has gone (shutdown) lets the lease run out; the rescuer gives the delivery back.
        let _ = self.start.send(Started { delivery, permit: self.permit, turn: None });
    }
}

/// The lanes of this process.
pub struct Lanes {
    lanes: HashMap<String, Arc<Lane>>,
}

/// What one destination's runner and the routing share.
pub(crate) struct Lane {
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) size: usize,
    pub(crate) lease: Duration,
    /// Whether anything may be sent, as far as this process knows.
    pub(crate) gate: Gate,
    /// Something of it waits in its queue, as far as this process knows.
    pub(crate) waiting: AtomicBool,
    /// It has a rate, whose requests only its consumer reserves.
    has_rate: bool,
    start: mpsc::UnboundedSender<Started>,
}

impl Lanes {
    /// A lane per destination, and for each the receiver of what is started in it.
    pub fn new(config: &Config) -> (Self, HashMap<String, mpsc::UnboundedReceiver<Started>>) {
        let mut lanes = HashMap::new();
        let mut receivers = HashMap::new();
        for (name, destination) in &config.destinations {
            let (start, receiver) = mpsc::unbounded_channel();
            let size = match destination.kind {
                // Nothing but the record takes time, and records are written in groups.
                DestinationKind::Log => BATCH_MAX,
                _ => destination.concurrency.max(1),
            };
            let requests = u32::try_from(requests_max(destination)).unwrap_or(u32::MAX);
            let lane = Lane {
                slots: Arc::new(Semaphore::new(size)),
                size,
                lease: destination.timeout.saturating_mul(requests) + LEASE_MARGIN,
                gate: Gate::new(destination.breaker),
                waiting: AtomicBool::new(false),
                has_rate: destination.rate.is_some(),
                start,
            };
            lanes.insert(name.clone(), Arc::new(lane));
            receivers.insert(name.clone(), receiver);
        }
        (Self { lanes }, receivers)
    }

    /// A slot for the fast lane: running, breaker closed, no rate to wait for, nothing waiting, and fewer than half of
    /// the slots taken.
    pub fn try_slot(&self, destination: &str) -> Option<Slot> {
        let lane = self.lanes.get(destination)?;
        if lane.has_rate || lane.waiting.load(Ordering::Relaxed) || !lane.gate.is_open() {
            return None;
        }
        if lane.slots.available_permits() * 2 <= lane.size && lane.size > 1 {
            return None;
        }
        let permit = Arc::clone(&lane.slots).try_acquire_owned().ok()?;
        Some(Slot { permit, start: lane.start.clone() })
    }

    /// How long a lease of this destination is.
    pub fn lease_for(&self, destination: &str) -> Duration {
        self.lanes.get(destination).map_or(LEASE_MARGIN, |lane| lane.lease)
    }

    /// Says that something of this destination was queued: the fast lane stays closed until its queue is empty again.
    pub fn note_waiting(&self, destination: &str) {
        if let Some(lane) = self.lanes.get(destination) {
            lane.waiting.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self, destination: &str) -> Option<Arc<Lane>> {
        self.lanes.get(destination).map(Arc::clone)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Lane)> {
        self.lanes.iter().map(|(name, lane)| (name.as_str(), lane.as_ref()))
    }

    /// Gives no slot any more; what has one goes on.
    pub(crate) fn close(&self) {
        self.lanes.values().for_each(|lane| lane.slots.close());
    }
}
