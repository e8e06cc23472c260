//! Lanes: one per destination, with its slots and the line before them. What routing hands to delivering goes through here.
//!
//! A request needs a slot. What comes from the queue is leased when it has one. What routing hands over needs a *place in
//! the line*, taken before the transaction that creates the delivery with its lease; places are given out for as long as the
//! line is short enough to be through within [`AHEAD`], at the pace at which this lane has been answering. A lane that
//! answers fast thus never sends its deliveries through the queue, and one that hangs gets no more than a few.
//! A place that is not used, or whose delivery panics, gives itself back on drop.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use common::config::{Config, DestinationKind};
use common::ids::{CallbackId, DeliveryId, RowId};
use common::person::Person;
use common::queue::BATCH_MAX;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use uuid::Uuid;

use crate::deliver::Gate;
use crate::destinations::requests_max;

/// What a lease has beyond the longest request: time to record the outcome.
const LEASE_MARGIN: Duration = Duration::from_secs(20);
/// How long the line before a lane's slots may take, at the lane's own pace. Far below [`LEASE_MARGIN`].
const AHEAD: Duration = Duration::from_millis(250);
/// Most deliveries in one line: what a process that dies leaves to the rescuer.
const LINE_MAX: usize = 256;
/// A lane whose slots have all been taken for so long without one of them having become free is stuck.
const STUCK_AFTER: Duration = Duration::from_millis(250);
/// How long a batch waits for places in lines that move. It is less than what the way through the queue takes.
const ROOM_WITHIN: Duration = AHEAD;

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
    /// That row as it was written: a number in `lead` has a double's digits at most.
    pub row: Option<Arc<[u8]>>,
    /// The callback's source; empty where there is none.
    pub source: Arc<str>,
    /// When the callback or row came in.
    pub received_at: OffsetDateTime,
    /// Whom its cool-down is for.
    pub person: Option<Person>,
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

/// A delivery in the line before the slots; its place is given back when this is dropped.
#[derive(Debug)]
pub struct InLine {
    /// What is to be sent.
    pub delivery: LeasedDelivery,
    _held: Held,
}

impl InLine {
    /// Leaves the line.
    pub(crate) fn into_delivery(self) -> LeasedDelivery {
        self.delivery
    }
}

/// A place in the line of a destination that nobody uses yet. Dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    held: Held,
    line: mpsc::UnboundedSender<InLine>,
}

impl Place {
    /// Has `delivery` sent, whose lease is committed, as soon as there is a slot. Never blocks: the places bound the line.
    pub fn start(self, delivery: LeasedDelivery) {
        // A runner that has gone (shutdown) lets the lease run out; the rescuer gives the delivery back.
        let _ = self.line.send(InLine { delivery, _held: self.held });
    }
}

/// Counts as a place taken for as long as it lives.
#[derive(Debug)]
struct Held(Arc<Line>);

impl Line {
    /// Takes a place where fewer than `end` are taken.
    fn take(self: &Arc<Self>, end: usize) -> Option<Held> {
        let one_more = |taken| (taken < end).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Held(Arc::clone(self)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
        self.0.moved.notify_waiters();
    }
}

/// The places before a lane's slots.
#[derive(Debug, Default)]
struct Line {
    taken: AtomicUsize,
    /// A place has become free.
    moved: Notify,
    /// What an attempt has taken lately, in microseconds; 0 before the first.
    attempt_us: AtomicU64,
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
    line: Arc<Line>,
    start: mpsc::UnboundedSender<InLine>,
    /// When an attempt began or ended last, in milliseconds from `made_at`.
    moved_ms: AtomicU64,
    made_at: Instant,
}

impl Lane {
    /// Learns that an attempt begins or has ended.
    pub(crate) fn note_move(&self) {
        let since = u64::try_from(self.made_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(since, Ordering::Relaxed);
    }

    /// Nothing that is queued for it now can begin soon, as far as this process knows.
    fn is_stuck(&self) -> bool {
        let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        let rests = || self.made_at.elapsed().saturating_sub(moved) > STUCK_AFTER;
        !self.gate.is_open() || (self.slots.available_permits() == 0 && rests())
    }

    /// Learns how long an attempt took, which has ended.
    pub(crate) fn note_attempt(&self, took: Duration) {
        self.note_move();
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX / 8).clamp(1, u64::MAX / 8);
        // Two at once may lose one of them: it is an estimate.
        let before = self.line.attempt_us.load(Ordering::Relaxed);
        let mean = if before == 0 { took } else { (before * 7 + took) / 8 };
        self.line.attempt_us.store(mean.max(1), Ordering::Relaxed);
    }

    /// How long the line may be now: no length at all while the lane is held, broken, limited by a rate, or something of it
    /// waits in its queue, which comes first.
    fn line_end(&self) -> usize {
        if self.has_rate || self.waiting.load(Ordering::Relaxed) || !self.gate.is_open() {
            return 0;
        }
        // Half of the slots, whatever is known of the pace.
        let busy = self.size - self.slots.available_permits().min(self.size);
        self.size.div_ceil(2).saturating_sub(busy).max(self.line_max())
    }

    fn try_place(&self) -> Option<Place> {
        let held = self.line.take(self.line_end())?;
        Some(Place { held, line: self.start.clone() })
    }

    /// Takes up to `want` places, some of them once they have become free.
    async fn reserve(&self, want: usize, deadline: Instant) -> Vec<Place> {
        let mut places = Vec::with_capacity(want);
        loop {
            let mut moved = std::pin::pin!(self.line.moved.notified());
            moved.as_mut().enable();
            while places.len() < want
                && let Some(place) = self.try_place()
            {
                places.push(place);
            }
            // A lane that is not open, or whose whole line would be too short, does not move for us.
            if places.len() == want || self.line_end() == 0 || self.line_max() < want {
                return places;
            }
            if tokio::time::timeout_at(deadline, moved).await.is_err() {
                return places;
            }
        }
    }

    /// How long it may be at the lane's pace.
    fn line_max(&self) -> usize {
        let attempt_us = u128::from(self.line.attempt_us.load(Ordering::Relaxed));
        if attempt_us == 0 {
            return 0;
        }
        let ahead = AHEAD.as_micros() * self.size as u128 / attempt_us;
        usize::try_from(ahead).unwrap_or(LINE_MAX).min(LINE_MAX)
    }
}

impl Lanes {
    /// A lane per destination, and for each the receiver of what is started in it.
    pub fn new(config: &Config) -> (Self, HashMap<String, mpsc::UnboundedReceiver<InLine>>) {
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
                line: Arc::default(),
                start,
                moved_ms: AtomicU64::new(0),
                made_at: Instant::now(),
            };
            lanes.insert(name.clone(), Arc::new(lane));
            receivers.insert(name.clone(), receiver);
        }
        (Self { lanes }, receivers)
    }

    /// A place in the fast lane, if there is one now.
    pub fn try_place(&self, destination: &str) -> Option<Place> {
        self.lanes.get(destination)?.try_place()
    }

    /// As many places as `wanted` says for each destination, or as there are. Waits, not for long, where a line moves. A
    /// destination that has none to give is not waited for: its deliveries go through its queue.
    pub async fn reserve_places(&self, wanted: &HashMap<String, usize>) -> HashMap<String, Vec<Place>> {
        let deadline = Instant::now() + ROOM_WITHIN;
        let mut places: HashMap<String, Vec<Place>> = HashMap::with_capacity(wanted.len());
        for (destination, want) in wanted {
            if let Some(lane) = self.lanes.get(destination) {
                places.insert(destination.clone(), lane.reserve(*want, deadline).await);
            }
        }
        places
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

    /// Whether a destination is sent nothing just now, or its slots are all taken and none has become free for a while.
    pub fn is_stuck(&self, destination: &str) -> bool {
        self.lanes.get(destination).is_some_and(|lane| lane.is_stuck())
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
