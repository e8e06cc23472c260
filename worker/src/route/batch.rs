//! One try at a batch: load, judge, plan, commit, start.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use common::config::Config;
use common::crash::{self, Point};
use common::db::DbError;
use common::db::routing::{self, Decided, NewDelivery, NewLease, Routed, Unrouted};
use common::ids::{CallbackId, DeliveryId};
use common::lead::Lead;
use common::queue::QueueName;
use common::rules::{Evaluation, OwnedRuleInput};
use common::states::{CallbackState, Reason};
use serde_json::{Map, Value};
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use uuid::Uuid;

use super::plan::{Plan, Planned, plan};
use super::{BatchReport, Router};
use crate::lanes::{LeasedDelivery, Place};

/// A callback that was read and judged.
pub(super) struct Judged {
    pub(super) plan: Plan,
    lead: Option<Lead>,
    /// The lead as its destinations see it.
    object: Arc<Map<String, Value>>,
    trace: String,
}

/// A place with what is needed to fill it once the commit has gone through.
struct Reserved {
    place: Place,
    token: Uuid,
    lease_deadline: Instant,
}

impl Router {
    /// Loads, judges and commits `ids`, and starts what got a slot.
    pub(super) async fn try_part(&self, ids: &[CallbackId]) -> Result<BatchReport, DbError> {
        let callbacks = routing::load(&self.inner.database, ids).await?;
        if callbacks.is_empty() {
            return Ok(BatchReport::default());
        }
        let mut judged = self.judge(&callbacks).await;
        let places = self.inner.lanes.reserve_places(&wanted(&judged)).await;
        let (decided, reserved) = self.decide(&callbacks, &mut judged, places);
        let routed = routing::commit(&self.inner.database, self.inner.rules.version(), &decided).await?;
        crash::point(Point::AfterRoute);
        Ok(self.start(&callbacks, &judged, decided, reserved, &routed))
    }

    /// Normalises the leads, lets the rules judge them, and plans.
    pub(super) async fn judge(&self, callbacks: &[Unrouted]) -> Vec<Judged> {
        let mut inputs = Vec::with_capacity(callbacks.len());
        let read: Vec<Result<Read, Reason>> = callbacks
            .iter()
            .map(|callback| {
                let lead = read(&self.inner.config, callback)?;
                let object = Arc::new(lead.to_object());
                let source = callback.source.clone();
                inputs.push(OwnedRuleInput { lead: Arc::clone(&object), source, callback: describe(callback) });
                Ok(Read { lead, object })
            })
            .collect();
        let mut evaluations = self.inner.threads.evaluate(inputs).await.into_iter();
        callbacks
            .iter()
            .zip(read)
            .map(|(callback, read)| match read {
                Err(reason) => Judged::dead(reason),
                Ok(read) => match evaluations.next() {
                    Some(evaluation) => self.plan_one(callback, read, &evaluation),
                    None => Judged::dead(Reason::RuleError),
                },
            })
            .collect()
    }

    fn plan_one(&self, callback: &Unrouted, read: Read, evaluation: &Evaluation) -> Judged {
        let person = read.lead.person();
        let planned = Planned { lead: &read.object, person, workspace: callback.workspace.as_deref() };
        Judged {
            plan: plan(evaluation, planned, &self.inner.config.destinations),
            object: read.object,
            lead: Some(read.lead),
            trace: serde_json::to_string(&evaluation.trace).unwrap_or_else(|_| "[]".to_owned()),
        }
    }

    /// Turns plans into rows, and gives the places to the deliveries that come first.
    fn decide(
        &self,
        callbacks: &[Unrouted],
        judged: &mut [Judged],
        mut places: HashMap<String, Vec<Place>>,
    ) -> (Vec<Decided>, HashMap<DeliveryId, Reserved>) {
        // Before the transaction starts, so that no lease ends earlier in the table than here.
        let now = Instant::now();
        let mut reserved = HashMap::new();
        let decided = callbacks
            .iter()
            .zip(judged)
            .map(|(callback, judged)| Decided {
                id: callback.id,
                routing: callback.routing,
                received_at: callback.received_at,
                row_id: callback.row_id,
                state: judged.plan.state,
                reason: judged.plan.reason,
                lead: judged.lead.take(),
                trace: std::mem::take(&mut judged.trace),
                deliveries: judged
                    .plan
                    .deliveries
                    .iter()
                    .map(|planned| {
                        let id = DeliveryId::new();
                        let mut places = places.get_mut(&planned.destination).filter(|_| planned.skip.is_none());
                        let place = places.as_mut().and_then(|places| places.pop());
                        let lease = place.map(|place| {
                            let duration = self.inner.lanes.lease_for(&planned.destination);
                            let token = Uuid::new_v4();
                            reserved.insert(id, Reserved { place, token, lease_deadline: now + duration });
                            NewLease { token, duration }
                        });
                        NewDelivery {
                            id,
                            destination: planned.destination.clone(),
                            rule: Some(planned.rule.clone()),
                            person: planned.person,
                            skip: planned.skip,
                            once_per: planned.once_per,
                            blocked_as: planned.blocked_as,
                            lease,
                        }
                    })
                    .collect(),
            })
            .collect();
        (decided, reserved)
    }

    /// After the commit: starts what has a place, rings for what was queued, counts.
    fn start(
        &self,
        callbacks: &[Unrouted],
        judged: &[Judged],
        decided: Vec<Decided>,
        mut reserved: HashMap<DeliveryId, Reserved>,
        routed: &Routed,
    ) -> BatchReport {
        let mut report = BatchReport::default();
        let mut queued: BTreeMap<String, usize> = BTreeMap::new();
        for ((callback, judged), decided) in callbacks.iter().zip(judged).zip(decided) {
            if !routed.callbacks.contains(&decided.id) {
                continue;
            }
            report.ended += 1;
            report.dead += usize::from(decided.state == CallbackState::Dead);
            crate::telemetry::count_routed(decided.reason, decided.lead.as_ref());
            let source: Arc<str> = callback.source.as_str().into();
            for delivery in decided.deliveries {
                let Some(made) = routed.deliveries.get(&delivery.id) else { continue };
                // A place whose delivery was skipped after all is dropped here, which gives it back.
                let reserved = reserved.remove(&delivery.id);
                if made.skipped.is_some() {
                    report.skipped += 1;
                    crate::telemetry::count_skipped_delivery(&delivery.destination);
                } else if let Some(reserved) = reserved {
                    report.started += 1;
                    reserved.place.start(LeasedDelivery {
                        id: delivery.id,
                        callback_id: Some(callback.id),
                        row_id: None,
                        destination: delivery.destination,
                        rule: delivery.rule,
                        replay: made.replay,
                        attempts: 0,
                        failures: 0,
                        lease_token: reserved.token,
                        lease_deadline: reserved.lease_deadline,
                        captured: Value::Object(Map::new()),
                        lead: Arc::clone(&judged.object),
                        row: None,
                        source: Arc::clone(&source),
                        received_at: callback.received_at,
                        person: delivery.person,
                    });
                } else {
                    report.queued += 1;
                    *queued.entry(delivery.destination).or_default() += 1;
                }
            }
        }
        for destination in queued.keys() {
            self.inner.lanes.note_waiting(destination);
            let queue = QueueName::deliver(destination);
            // What goes to a destination that hangs or is broken would cost more one by one than what is delivered.
            if self.inner.lanes.is_stuck(destination) {
                self.inner.doorbell.ring_later(&queue);
            } else {
                self.inner.doorbell.ring(&queue);
            }
        }
        report
    }
}

/// How many deliveries are planned for each destination.
fn wanted(judged: &[Judged]) -> HashMap<String, usize> {
    let mut wanted = HashMap::new();
    for planned in judged.iter().flat_map(|one| &one.plan.deliveries).filter(|planned| planned.skip.is_none()) {
        *wanted.entry(planned.destination.clone()).or_default() += 1;
    }
    wanted
}

impl Judged {
    fn dead(reason: Reason) -> Self {
        Self {
            plan: Plan { state: CallbackState::Dead, reason: Some(reason), deliveries: Vec::new() },
            lead: None,
            object: Arc::default(),
            trace: "[]".to_owned(),
        }
    }
}

/// A body that was read as a lead.
struct Read {
    lead: Lead,
    object: Arc<Map<String, Value>>,
}

/// Reads a callback's body as a lead. A source that is not configured any more has no mapping; its leads are routed
/// nevertheless.
fn read(config: &Config, callback: &Unrouted) -> Result<Lead, Reason> {
    let body = callback.body.as_deref().ok_or(Reason::BodyExpired)?;
    let object: Map<String, Value> = serde_json::from_slice(body).map_err(|_| Reason::Unreadable)?;
    let no_mapping = BTreeMap::new();
    let mapping = config.sources.get(&callback.source).map_or(&no_mapping, |source| &source.fields);
    Ok(Lead::normalise(&object, mapping))
}

/// What rules see as `callback`.
fn describe(callback: &Unrouted) -> Map<String, Value> {
    let mut facts = Map::new();
    facts.insert("id".to_owned(), callback.id.to_string().into());
    facts.insert("key_kind".to_owned(), callback.key_kind.as_str().into());
    facts.insert("revision".to_owned(), callback.revision.into());
    facts.insert("received_at".to_owned(), callback.received_at.format(&Rfc3339).unwrap_or_default().into());
    facts
}
