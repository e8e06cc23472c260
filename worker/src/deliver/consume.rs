//! The consumer of one destination's queue: slots, then leases, then attempts; the rest goes back.
//!
//! Nothing is received that could not start, and what cannot start within seconds after all (the slots filled up, the
//! rate is used up, the destination broke) becomes an outbox entry that is due when it can. While the destination is
//! broken or throttled its messages are taken and put off ([`super::put_off`]), so that they do not grow old in the queue.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::db::rows::{self, LeasedRow};
use common::db::{DbError, deliveries};
use common::ids::DeliveryId;
use common::queue::{BATCH_MAX, Consumer, Message, Queue, QueueError, QueueName};
use common::states::Reason;
use futures_util::FutureExt as _;
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::gate::Passage;
use super::pace::is_missed;
use super::put_off::Groups;
use super::{LaneWork, telemetry};
use crate::health::Beat;
use crate::lanes::{LeasedDelivery, Started};

/// Claims of one delivery without an attempt after which it is given up as poison.
const CLAIMS_MAX: i16 = 5;
/// How long received ids may wait for a slot or a rate.
const START_WITHIN: Duration = Duration::from_secs(2);
/// How often a lane that waits for something looks up, and beats.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest that ids are put off: an operator's resume or another worker should not wait for a day.
const PUT_OFF_MAX: Duration = Duration::from_secs(60);
/// A lane that is closed for less than this leaves its backlog in the queue.
const PUT_OFF_MIN: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why consuming was interrupted.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("the database failed")]
    Database(#[from] DbError),
    #[error("this program broke")]
    Panic,
}

/// Consumes until `shutdown`.
pub(super) async fn run(work: Arc<LaneWork>, queue: Arc<dyn Queue>, beat: Beat, shutdown: CancellationToken) {
    let mut intake = Intake {
        work,
        beat,
        shutdown: shutdown.clone(),
        turns: VecDeque::new(),
        no_turn_before: None,
        groups: Groups::default(),
    };
    let mut pause = PAUSE_MIN;
    while !shutdown.is_cancelled() {
        let begun = Instant::now();
        let error = match AssertUnwindSafe(intake.consume(queue.as_ref())).catch_unwind().await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            // The message comes again and is counted.
            Err(_) => Interrupted::Panic,
        };
        if !matches!(&error, Interrupted::Queue(error) if error.is_told()) {
            tracing::warn!(
                destination = intake.work.name,
                error = &error as &dyn std::error::Error,
                "consuming deliveries was interrupted"
            );
        }
        pause = if begun.elapsed() > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What could not start, and how long it should be put off.
#[derive(Default)]
struct Rest {
    ids: Vec<DeliveryId>,
    wait: Duration,
}

struct Intake {
    work: Arc<LaneWork>,
    beat: Beat,
    shutdown: CancellationToken,
    /// Turns of the destination's rate that were reserved and not used.
    turns: VecDeque<Instant>,
    /// There is no turn to be had before: the backlog waits where it is.
    no_turn_before: Option<Instant>,
    /// What was put off since the destination was left alone.
    groups: Groups,
}

impl Intake {
    async fn consume(&mut self, queue: &dyn Queue) -> Result<(), Interrupted> {
        let mut consumer = queue.consumer(&QueueName::deliver(&self.work.name)).await?;
        loop {
            if self.shutdown.is_cancelled() {
                return Ok(());
            }
            let Some(want) = self.wait_for_room().await else { continue };
            let messages = tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                messages = consumer.receive(want) => messages?,
            };
            self.beat.beat();
            let more_may_wait = consumer.more_may_wait();
            self.work.lane.waiting.store(more_may_wait, Ordering::Relaxed);
            let begun = Instant::now();
            if !messages.is_empty() {
                self.work_off(consumer.as_mut(), messages).await?;
            }
            self.groups.looked(Instant::now(), begun.elapsed(), more_may_wait);
        }
    }

    /// How many ids may be received, after at most [`LOOK_EVERY`]; `None`: none yet.
    async fn wait_for_room(&mut self) -> Option<usize> {
        let now = Instant::now();
        let passage = self.work.lane.gate.passage(now);
        if !matches!(passage, Passage::Later(_)) {
            self.groups = Groups::default();
        }
        let lane = &self.work.lane;
        if let (Passage::Open | Passage::Probe, Some(until)) = (passage, self.no_turn_before.filter(|at| now < *at)) {
            return self.look_again(until.saturating_duration_since(now)).await;
        }
        match passage {
            // The backlog waits where it is: put off for ever shorter times, it would go round faster and faster.
            Passage::Later(until) if until.saturating_duration_since(now) < PUT_OFF_MIN => {
                self.look_again(until.saturating_duration_since(now)).await
            }
            Passage::Held | Passage::Probing => self.look_again(LOOK_EVERY).await,
            Passage::Later(_) => match self.groups.pause(now) {
                Some(wait) => self.look_again(wait).await,
                None => Some(BATCH_MAX),
            },
            Passage::Probe => Some(1),
            Passage::Open => {
                if lane.slots.available_permits() == 0 {
                    // Taken and given back at once: while the queue is empty, the fast lane may have every slot.
                    let _free = tokio::time::timeout(LOOK_EVERY, lane.slots.acquire()).await;
                    self.beat.beat();
                }
                // As many as there are slots, since those that are taken become free while the first ones start.
                (lane.slots.available_permits() > 0).then_some(lane.size.min(BATCH_MAX))
            }
        }
    }

    /// Waits for a change of the gate, at most `wait` and [`LOOK_EVERY`]; receives nothing.
    async fn look_again(&self, wait: Duration) -> Option<usize> {
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = self.work.lane.gate.changed(LOOK_EVERY.min(wait)) => {}
        }
        self.beat.beat();
        None
    }

    /// Starts or puts back every id, and acknowledges.
    async fn work_off(&mut self, consumer: &mut dyn Consumer, messages: Vec<Message>) -> Result<(), Interrupted> {
        let (again, fresh): (Vec<Message>, Vec<Message>) =
            messages.into_iter().partition(|message| message.redelivered);
        let receipts: Vec<_> = fresh.iter().map(|message| message.receipt).collect();
        let ids: Vec<DeliveryId> = fresh.into_iter().flat_map(|message| message.refs).map(DeliveryId).collect();
        if !ids.is_empty() {
            let rest = self.start(ids, Instant::now() + START_WITHIN).await?;
            self.put_back(rest).await?;
            consumer.ack(&receipts).await?;
        }
        for message in again {
            let deadline = Instant::now() + START_WITHIN;
            let mut rest = Rest::default();
            for id in message.refs {
                let left = self.start_redelivered(DeliveryId(id), deadline).await?;
                rest.wait = rest.wait.max(left.wait);
                rest.ids.extend(left.ids);
            }
            self.put_back(rest).await?;
            consumer.ack(&[message.receipt]).await?;
        }
        Ok(())
    }

    /// A message comes again when its holder died or its lease ran out: the claim is counted before the work.
    async fn start_redelivered(&mut self, id: DeliveryId, deadline: Instant) -> Result<Rest, DbError> {
        match deliveries::count_claim(&self.work.database, id).await? {
            None => Ok(Rest::default()),
            Some(claims) if claims <= CLAIMS_MAX => self.start(vec![id], deadline).await,
            Some(_) => {
                let given_up = deliveries::give_up(&self.work.database, id, Reason::Poison).await?;
                if given_up.ended {
                    tracing::error!(delivery = %id, "claimed too often without an attempt; given up");
                    telemetry::count_dead(&self.work.name, Reason::Poison);
                }
                if given_up.released {
                    self.work.doorbell.ring(&QueueName::released());
                }
                Ok(Rest::default())
            }
        }
    }

    /// Puts back what could not start, just before its message is acknowledged: a message that is not acknowledged
    /// comes again as a whole, and entries written beside it would come twice.
    async fn put_back(&mut self, rest: Rest) -> Result<(), DbError> {
        if rest.ids.is_empty() {
            return Ok(());
        }
        let mut wait = rest.wait.min(PUT_OFF_MAX);
        if wait >= PUT_OFF_MIN {
            wait += self.groups.next_delay();
        }
        deliveries::put_back(&self.work.database, &self.work.name, &rest.ids, wait).await?;
        if wait < LOOK_EVERY {
            // Sooner than consumers look by themselves.
            self.work.doorbell.ring(&QueueName::deliver(&self.work.name));
        }
        Ok(())
    }

    /// Starts what can start until `deadline`, and answers the rest.
    async fn start(&mut self, ids: Vec<DeliveryId>, deadline: Instant) -> Result<Rest, DbError> {
        let mut ids = VecDeque::from(ids);
        let wait = self.start_some(&mut ids, deadline).await?;
        Ok(Rest { ids: ids.into(), wait })
    }

    /// Takes from `ids` what was started or needs no start. Answers how long the rest should be put off.
    async fn start_some(&mut self, ids: &mut VecDeque<DeliveryId>, deadline: Instant) -> Result<Duration, DbError> {
        while !ids.is_empty() && !self.shutdown.is_cancelled() {
            self.beat.beat();
            let now = Instant::now();
            let most = match self.work.lane.gate.passage(now) {
                Passage::Open => ids.len(),
                Passage::Probe => 1,
                Passage::Later(until) => return Ok(until.saturating_duration_since(now)),
                // Held: the queue is not consumed until it is resumed. Probing: the answer decides.
                Passage::Held | Passage::Probing => return Ok(Duration::ZERO),
            };
            let Some(mut permits) = self.take_slots(most, deadline).await else { return Ok(Duration::ZERO) };
            match self.reserve_turns(permits.len()).await? {
                Ok(turns) => permits.truncate(turns),
                Err(wait) if now + wait > deadline => return Ok(wait),
                Err(wait) => {
                    drop(permits);
                    tokio::time::sleep(wait).await;
                    continue;
                }
            }
            let taken: Vec<DeliveryId> = ids.iter().copied().take(permits.len()).collect();
            let leased = self.lease(&taken).await?;
            ids.drain(..taken.len());
            for ((delivery, has_lead), permit) in leased.into_iter().zip(permits) {
                if has_lead {
                    self.work.spawn(Started { delivery, permit, turn: self.turns.pop_front() });
                } else {
                    self.work.spawn_unsendable(Started { delivery, permit, turn: None });
                }
            }
        }
        Ok(Duration::ZERO)
    }

    /// How many of `want` requests have a turn, 1 at least, reserving what is missing; `Err`: how long until there may be
    /// one. Without a rate all of them may go.
    async fn reserve_turns(&mut self, want: usize) -> Result<Result<usize, Duration>, DbError> {
        let Some(pace) = &self.work.pace else { return Ok(Ok(want)) };
        let now = Instant::now();
        self.turns.retain(|turn| !is_missed(*turn, now));
        if self.turns.len() < want {
            match pace.reserve(want - self.turns.len()).await? {
                Ok(turns) => self.turns.extend(turns),
                Err(wait) => {
                    self.no_turn_before = now.checked_add(wait);
                    if self.turns.is_empty() {
                        return Ok(Err(wait));
                    }
                }
            }
        }
        Ok(Ok(want.min(self.turns.len())))
    }

    /// 1 to `most` slots; `None`: none became free in time.
    async fn take_slots(&self, most: usize, deadline: Instant) -> Option<Vec<OwnedSemaphorePermit>> {
        let slots = &self.work.lane.slots;
        let first = tokio::time::timeout_at(deadline, Arc::clone(slots).acquire_owned()).await.ok()?.ok()?;
        let mut permits = vec![first];
        while permits.len() < most
            && let Ok(permit) = Arc::clone(slots).try_acquire_owned()
        {
            permits.push(permit);
        }
        Some(permits)
    }

    /// Takes leases; beside each delivery whether its lead is still there.
    async fn lease(&self, ids: &[DeliveryId]) -> Result<Vec<(LeasedDelivery, bool)>, DbError> {
        let work = &self.work;
        let token = Uuid::new_v4();
        // Before the statement, so that no lease ends earlier in the table than here.
        let lease_deadline = Instant::now() + work.lane.lease;
        let mut tries = 0;
        let leased = loop {
            match deliveries::lease(&work.database, &work.name, ids, token, work.lane.lease).await {
                Err(DbError::Collision(_)) if tries < 3 => tries += 1,
                leased => break leased?,
            }
        };
        let mut taken: Vec<(LeasedDelivery, bool)> = leased
            .into_iter()
            .map(|one| (one.lead.is_some(), one))
            .map(|(has_lead, one)| {
                let delivery = LeasedDelivery {
                    lead: Arc::new(one.lead_object()),
                    id: one.id,
                    callback_id: Some(one.callback_id),
                    row_id: None,
                    destination: work.name.clone(),
                    rule: one.rule,
                    replay: one.replay,
                    attempts: one.attempts,
                    failures: one.failures,
                    lease_token: token,
                    lease_deadline,
                    captured: one.captured.unwrap_or_else(|| Value::Object(Map::new())),
                    row: None,
                    source: one.source.into(),
                    received_at: one.received_at,
                    person: one.person,
                };
                (delivery, has_lead)
            })
            .collect();
        if taken.len() < ids.len() {
            // What has ended or is leased, and what is of a row that was handed in.
            taken.extend(self.lease_rows(ids, token, lease_deadline).await?);
        }
        Ok(taken)
    }

    /// As [`Intake::lease`], of deliveries of rows that were handed in.
    async fn lease_rows(
        &self,
        ids: &[DeliveryId],
        token: Uuid,
        lease_deadline: Instant,
    ) -> Result<Vec<(LeasedDelivery, bool)>, DbError> {
        let work = &self.work;
        let leased = rows::lease(&work.database, &work.name, ids, token, work.lane.lease).await?;
        let read = |row: LeasedRow| {
            let object: Option<Map<String, Value>> =
                row.body.as_deref().and_then(|body| serde_json::from_slice(body).ok());
            let has_object = object.is_some();
            let delivery = LeasedDelivery {
                lead: Arc::new(object.unwrap_or_default()),
                row: row.body.map(Into::into),
                id: row.id,
                callback_id: None,
                row_id: Some(row.row_id),
                destination: work.name.clone(),
                rule: None,
                replay: row.replay,
                attempts: row.attempts,
                failures: row.failures,
                lease_token: token,
                lease_deadline,
                captured: Value::Object(Map::new()),
                source: "".into(),
                received_at: row.created_at,
                person: None,
            };
            (delivery, has_object)
        };
        Ok(leased.into_iter().map(read).collect())
    }
}
