//! Whatever comes to a callback, in whatever order and from whomever: it ends by one routing, an end is left by a replay
//! alone, nothing that waits is forgotten, every end has its decision and its deliveries, and the books balance.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::db::books::{self, Scope, Verdict};
use common::db::events::{self, EventFilter};
use common::db::intake::{Books, Candidate, Counted, Incoming, IntakeConnection};
use common::db::quarantine::{Problem, Unusable};
use common::db::replay::{self, ReplayError};
use common::db::routing::{self, Decided, NewDelivery};
use common::db::sweep::{self, SweepLimits};
use common::db::{Database, DbError, quarantine, rule_sets};
use common::idempotency::{IdempotencyKey, KeyKind};
use common::ids::{CallbackId, DeliveryId};
use common::states::{CallbackState, Reason};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sqlx::{PgPool, Row};
use testkit::postgres::TestDatabase;
use time::OffsetDateTime;

const SOURCE: &str = "clay";
const RULES: &str = "v";
const DESTINATION: &str = "crm";
/// The keys and bodies that senders have.
const KEYS: u8 = 3;
const BODIES: u8 = 2;

#[derive(Clone, Copy, Debug)]
enum Operation {
    /// A sender's callback.
    TakeIn {
        key: u8,
        body: u8,
        how: How,
    },
    /// Something that is no callback is kept.
    Quarantine {
        key: u8,
    },
    /// An operator has it taken in, repaired.
    Release {
        key: u8,
    },
    Route(Age, Outcome),
    /// Two workers have the same callback.
    RouteTwice(Outcome, Outcome),
    GiveUp,
    CountClaim,
    Replay,
    /// Two operators have the same wish.
    ReplayTwice,
    /// What was queued is acknowledged, or lost with the broker.
    Unqueue,
    Sweep,
    /// Retention removes the body.
    Expire,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Now,
    /// It lay in a spool for hours.
    Spooled,
    /// Its source only records changes.
    Recorded,
}

/// Which routing a worker believes that it does.
#[derive(Clone, Copy, Debug)]
enum Age {
    Current,
    Former,
    Coming,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Routed,
    Skipped,
    Dead,
}

impl Outcome {
    const fn state(self) -> CallbackState {
        match self {
            Self::Routed => CallbackState::Routed,
            Self::Skipped => CallbackState::Skipped,
            Self::Dead => CallbackState::Dead,
        }
    }

    const fn reason(self) -> Option<Reason> {
        match self {
            Self::Routed => None,
            Self::Skipped => Some(Reason::NoRule),
            Self::Dead => Some(Reason::RuleError),
        }
    }
}

fn operations() -> impl Strategy<Value = Vec<(usize, Operation)>> {
    let key = 0..KEYS;
    let how = prop_oneof![4 => Just(How::Now), 2 => Just(How::Spooled), 1 => Just(How::Recorded)];
    let outcome = prop_oneof![3 => Just(Outcome::Routed), 1 => Just(Outcome::Skipped), 1 => Just(Outcome::Dead)];
    let age = prop_oneof![4 => Just(Age::Current), 1 => Just(Age::Former), 1 => Just(Age::Coming)];
    let operation = prop_oneof![
        5 => (key.clone(), 0..BODIES, how).prop_map(|(key, body, how)| Operation::TakeIn { key, body, how }),
        1 => key.clone().prop_map(|key| Operation::Quarantine { key }),
        2 => key.prop_map(|key| Operation::Release { key }),
        6 => (age, outcome.clone()).prop_map(|(age, outcome)| Operation::Route(age, outcome)),
        2 => (outcome.clone(), outcome).prop_map(|(one, other)| Operation::RouteTwice(one, other)),
        1 => Just(Operation::GiveUp),
        1 => Just(Operation::CountClaim),
        3 => Just(Operation::Replay),
        1 => Just(Operation::ReplayTwice),
        3 => Just(Operation::Unqueue),
        2 => Just(Operation::Sweep),
        1 => Just(Operation::Expire),
    ];
    prop::collection::vec((0usize..6, operation), 1..40)
}

/// A callback as it has to stand in the table.
#[derive(Clone, Debug, PartialEq)]
struct Standing {
    state: CallbackState,
    reason: Option<String>,
    routing: i32,
    claims: i16,
}

/// What has to be known of a callback.
#[derive(Clone, Debug)]
struct Known {
    standing: Standing,
    has_body: bool,
    key: u8,
    body: u8,
    revision: i32,
    /// How each routing ended; a recorded one had none.
    decided: HashMap<i32, CallbackState>,
}

impl Known {
    fn waits(&self) -> bool {
        self.standing.state == CallbackState::Received
    }

    /// Ends it as a routing does, where that may be.
    fn end(&mut self, routing: i32, state: CallbackState, reason: Option<Reason>) -> bool {
        let may = self.waits() && self.standing.routing == routing;
        if may {
            self.standing.state = state;
            self.standing.reason = reason.map(|reason| reason.as_str().to_owned());
            self.decided.insert(routing, state);
        }
        may
    }

    fn replay(&mut self) {
        self.standing =
            Standing { state: CallbackState::Received, reason: None, routing: self.standing.routing + 1, claims: 0 };
    }
}

struct World {
    database: Database,
    pool: PgPool,
    intake: IntakeConnection,
    books: Books,
    order: Vec<CallbackId>,
    known: HashMap<CallbackId, Known>,
    quarantined: HashMap<u8, CallbackId>,
}

impl World {
    async fn begin(test: &TestDatabase) -> Self {
        // A life begins alone, however the one before ended.
        for table in [
            "callbacks",
            "callback_bodies",
            "decisions",
            "deliveries",
            "leads",
            "outbox",
            "quarantine",
            "intake_counts",
            "sweep_marks",
        ] {
            let gone = sqlx::AssertSqlSafe(format!("DELETE FROM claygate.{table}"));
            sqlx::query(gone).execute(test.pool()).await.unwrap();
        }
        let intake = IntakeConnection::open(&test.settings()).await.unwrap();
        let database = test.database();
        let rules = serde_json::json!([
            {"name": "all", "when": "true", "to": [DESTINATION], "source": [], "stop": false}
        ]);
        rule_sets::record(&database, RULES, &rules, Duration::from_secs(60)).await.unwrap();
        Self {
            database,
            pool: test.pool().clone(),
            intake,
            books: Books { instance: "test".into(), writer: 0 },
            order: Vec::new(),
            known: HashMap::new(),
            quarantined: HashMap::new(),
        }
    }

    async fn apply(&mut self, place: usize, operation: Operation) {
        match operation {
            Operation::TakeIn { key, body, how } => {
                self.take_in(key, body, how).await;
            }
            Operation::Quarantine { key } => self.quarantine(key).await,
            Operation::Release { key } => {
                if let Some(id) = self.quarantined.get(&key).copied() {
                    let callback = self.take_in(key, BODIES, How::Now).await;
                    quarantine::mark_released(&self.database, id, callback).await.unwrap();
                }
            }
            Operation::Sweep => self.sweep().await,
            _ if self.order.is_empty() => {}
            _ => self.apply_to(self.order[place % self.order.len()], operation).await,
        }
        self.check(operation).await;
    }

    async fn apply_to(&mut self, id: CallbackId, operation: Operation) {
        let known = self.known.get_mut(&id).unwrap();
        match operation {
            Operation::Route(age, outcome) => {
                let routing = match age {
                    Age::Current => known.standing.routing,
                    Age::Former => known.standing.routing - 1,
                    Age::Coming => known.standing.routing + 1,
                };
                let routed = routing::commit(&self.database, RULES, &[decided(id, routing, outcome)]).await.unwrap();
                let is_routed = routed.callbacks.contains(&id);
                assert_eq!(is_routed, known.end(routing, outcome.state(), outcome.reason()), "{known:?}");
                assert_eq!(routed.deliveries.len(), usize::from(is_routed && matches!(outcome, Outcome::Routed)));
            }
            Operation::RouteTwice(one, other) => {
                let routing = known.standing.routing;
                let (first, second) = ([decided(id, routing, one)], [decided(id, routing, other)]);
                let (first, second) = tokio::join!(
                    routing::commit(&self.database, RULES, &first),
                    routing::commit(&self.database, RULES, &second)
                );
                let routed = [first, second].map(|done| done.unwrap().callbacks.contains(&id));
                match routed {
                    [true, false] => assert!(known.end(routing, one.state(), one.reason())),
                    [false, true] => assert!(known.end(routing, other.state(), other.reason())),
                    [false, false] => assert!(!known.waits(), "nobody routed what waits"),
                    [true, true] => panic!("both routed it"),
                }
            }
            Operation::GiveUp => {
                let done = routing::give_up(&self.database, id, RULES, Reason::Poison).await.unwrap();
                assert_eq!(done, known.end(known.standing.routing, CallbackState::Dead, Some(Reason::Poison)));
            }
            Operation::CountClaim => {
                let claims = routing::count_claim(&self.database, id).await.unwrap();
                known.standing.claims += i16::from(known.waits());
                assert_eq!(claims, known.waits().then_some(known.standing.claims));
            }
            Operation::Replay => match replay::replay_callback(&self.database, id).await {
                Ok(()) => {
                    assert!(!known.waits() && known.has_body, "{known:?}");
                    known.replay();
                }
                Err(ReplayError::InProgress) => assert!(known.waits()),
                Err(ReplayError::BodyExpired) => assert!(!known.waits() && !known.has_body),
                Err(error) => panic!("{error}"),
            },
            Operation::ReplayTwice => {
                let (first, second) = tokio::join!(
                    replay::replay_callback(&self.database, id),
                    replay::replay_callback(&self.database, id)
                );
                let replayed = usize::from(first.is_ok()) + usize::from(second.is_ok());
                assert_eq!(replayed, usize::from(!known.waits() && known.has_body), "{first:?} {second:?} {known:?}");
                if replayed == 1 {
                    known.replay();
                }
            }
            Operation::Unqueue => {
                let gone = "DELETE FROM claygate.outbox WHERE queue = 'callbacks' AND refs @> ARRAY[$1]";
                sqlx::query(gone).bind(id.0).execute(&self.pool).await.unwrap();
            }
            Operation::Expire => {
                // What waits is not touched by retention.
                if !known.waits() {
                    known.has_body = false;
                    let gone = "DELETE FROM claygate.callback_bodies WHERE callback_id = $1";
                    sqlx::query(gone).bind(id.0).execute(&self.pool).await.unwrap();
                }
            }
            Operation::TakeIn { .. } | Operation::Quarantine { .. } | Operation::Release { .. } | Operation::Sweep => {}
        }
    }

    /// As the intake does it: a first sighting, else a repeat, else the next revision. Answers whose data it is.
    async fn take_in(&mut self, key: u8, body: u8, how: How) -> CallbackId {
        let received_at = (how == How::Spooled).then(|| OffsetDateTime::now_utc() - time::Duration::hours(3));
        let incoming = Incoming {
            id: CallbackId::new(),
            source: Arc::from(SOURCE),
            key: IdempotencyKey { hash: [key; 32], kind: KeyKind::Header },
            digest: [body; 32],
            row_id: None,
            skip: None,
            body: format!("{{\"n\": {body}}}").into_bytes().into(),
            headers: "[]".to_owned(),
            received_at,
        };
        let found = self.intake.look_up(&[&incoming]).await.unwrap()[0];
        let before = self.known.iter().filter(|(_, known)| known.key == key).max_by_key(|(_, known)| known.revision);
        assert_eq!(found.latest.map(|latest| (latest.id, latest.revision)), before.map(|(id, k)| (*id, k.revision)));
        if let Some((id, _)) = before.filter(|(_, known)| known.body == body) {
            let id = *id;
            self.intake.count(&self.books, &[(SOURCE, Counted::Duplicate, received_at)]).await.unwrap();
            return id;
        }
        let revision = before.map_or(0, |(_, known)| known.revision + 1);
        let skip = (how == How::Recorded && revision > 0).then_some(Reason::Recorded);
        let candidate = Candidate { incoming: &incoming, revision, skip };
        let is_first = revision == 0 && received_at.is_none();
        if is_first {
            self.intake.store_first(&self.books, &[candidate]).await.unwrap();
        } else {
            assert_eq!(self.intake.store(&self.books, &[candidate]).await.unwrap().len(), 1);
        }
        if let Some(moment) = received_at {
            self.intake.pull_mark_back(moment).await.unwrap();
        }
        // Another writer that had looked before is told to look again.
        let late = Incoming { id: CallbackId::new(), ..incoming.clone() };
        let late = Candidate { incoming: &late, revision, skip };
        assert_eq!(self.intake.store(&self.books, &[late]).await.unwrap(), []);
        if is_first {
            let refused = self.intake.store_first(&self.books, &[late]).await.err();
            assert!(matches!(refused, Some(DbError::Refused { .. })), "{refused:?}");
        }
        // An id that is taken is never written twice, whatever its key.
        let other = Incoming { key: IdempotencyKey { hash: [u8::MAX; 32], ..incoming.key }, ..incoming.clone() };
        let other = Candidate { incoming: &other, revision: 0, skip: None };
        let refused = self.intake.store(&self.books, &[other]).await.err();
        assert!(matches!(refused, Some(DbError::Collision(_))), "{refused:?}");
        let state = if skip.is_some() { CallbackState::Skipped } else { CallbackState::Received };
        let reason = skip.map(|reason| reason.as_str().to_owned());
        let standing = Standing { state, reason, routing: 0, claims: 0 };
        let known = Known { standing, has_body: true, key, body, revision, decided: HashMap::new() };
        self.known.insert(incoming.id, known);
        self.order.push(incoming.id);
        incoming.id
    }

    async fn quarantine(&mut self, key: u8) {
        let unusable = Unusable {
            id: CallbackId::new(),
            source: Arc::from(SOURCE),
            problem: Problem::Malformed,
            detail: "a test".to_owned(),
            digest: [key; 32],
            body: "{".into(),
            headers: "[]".to_owned(),
            received_at: None,
        };
        let kept = quarantine::put(&mut self.intake, &self.books, &[&unusable]).await.unwrap()[0].0;
        assert_eq!(*self.quarantined.entry(key).or_insert(kept), kept, "identical bytes are kept once");
    }

    /// From the mark on, until the end; what waits in no queue is enqueued again.
    async fn sweep(&self) {
        let limits = SweepLimits { horizon: Duration::ZERO, enqueue_max: 2, read_max: 2 };
        let mut from = None;
        loop {
            let swept = sweep::callbacks(&self.database, limits, from).await.unwrap();
            from = swept.next;
            if !swept.is_cut && swept.requeued == 0 {
                break;
            }
        }
        for (id, known) in self.known.iter().filter(|(_, known)| known.waits()) {
            assert!(self.is_queued(*id).await, "{id} was not swept: {known:?}");
        }
    }

    async fn is_queued(&self, id: CallbackId) -> bool {
        let queued = "SELECT EXISTS (SELECT FROM claygate.outbox WHERE queue = 'callbacks' AND refs @> ARRAY[$1])";
        sqlx::query_scalar(queued).bind(id.0).fetch_one(&self.pool).await.unwrap()
    }

    async fn check(&self, operation: Operation) {
        let rows = sqlx::query(
            "SELECT c.id, c.state, c.reason, c.routing, c.claims,
                 COALESCE((SELECT position FROM claygate.sweep_marks WHERE queue = 'callbacks'), '-infinity')
                     <= c.received_at AS is_ahead,
                 ARRAY(SELECT d.routing || d.outcome FROM claygate.decisions AS d WHERE d.callback_id = c.id
                       ORDER BY d.routing) AS decided,
                 (SELECT count(*) FROM claygate.deliveries AS d WHERE d.callback_id = c.id) AS deliveries
             FROM claygate.callbacks AS c",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        assert_eq!(rows.len(), self.known.len(), "{operation:?} made or removed a callback");
        for row in rows {
            let id = CallbackId(row.get("id"));
            let known = &self.known[&id];
            let standing = Standing {
                state: CallbackState::from_word(row.get("state")).unwrap(),
                reason: row.get("reason"),
                routing: row.get("routing"),
                claims: row.get("claims"),
            };
            assert_eq!(standing, known.standing, "{operation:?}");
            let mut decided: Vec<_> = known.decided.iter().collect();
            decided.sort_unstable_by_key(|(routing, _)| **routing);
            let decided: Vec<String> = decided.iter().map(|(routing, state)| format!("{routing}{state}")).collect();
            assert_eq!(row.get::<Vec<String>, _>("decided"), decided, "{operation:?}");
            let routed = known.decided.values().filter(|state| **state == CallbackState::Routed).count();
            assert_eq!(row.get::<i64, _>("deliveries"), i64::try_from(routed).unwrap(), "{operation:?}");
            assert!(!known.waits() || row.get("is_ahead"), "{operation:?} left {id} behind the sweeper's mark");
        }
        // The lists of these two look elsewhere than at every callback.
        for state in [CallbackState::Received, CallbackState::Dead] {
            let filter = EventFilter { state: Some(state.as_str().to_owned()), ..EventFilter::default() };
            let listed = events::list(&self.database, &filter, 1_000).await.unwrap().unwrap().lines.len();
            let expected = self.known.values().filter(|known| known.standing.state == state).count();
            assert_eq!(listed, expected, "{operation:?}: {state} in the list");
        }
    }

    /// Nothing is lost now, and the books say so.
    async fn end(self) {
        self.sweep().await;
        let since = OffsetDateTime::now_utc() - time::Duration::hours(6);
        let scope = Scope { since, limit: Duration::from_secs(60), named_max: 5 };
        let report = books::verify(&self.database.settings().clone(), scope, |_, _| {}).await.unwrap();
        assert_eq!((report.verdict, report.differences), (Verdict::Balanced, Vec::new()));
        self.intake.close().await;
    }
}

/// What a worker decided: one delivery where it is routed.
fn decided(id: CallbackId, routing: i32, outcome: Outcome) -> Decided {
    let delivery = || NewDelivery {
        id: DeliveryId::new(),
        destination: DESTINATION.to_owned(),
        rule: Some("all".to_owned()),
        person: None,
        skip: None,
        once_per: None,
        blocked_as: Reason::CoolDown,
        lease: None,
    };
    let is_routed = matches!(outcome, Outcome::Routed);
    Decided {
        id,
        routing,
        received_at: OffsetDateTime::now_utc(),
        row_id: None,
        state: outcome.state(),
        reason: outcome.reason(),
        lead: None,
        trace: format!("[{{\"rule\": \"all\", \"result\": \"{}\"}}]", if is_routed { "matched" } else { "no_match" }),
        deliveries: is_routed.then(delivery).into_iter().collect(),
    }
}

/// Sixteen lives of a site, each of up to forty operations.
#[test]
fn no_sequence_of_operations_leaves_an_end_but_by_a_replay_or_forgets_a_callback() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let test = runtime.block_on(TestDatabase::create());
    let config = ProptestConfig { cases: 16, max_shrink_iters: 200, failure_persistence: None, ..Default::default() };
    TestRunner::new(config)
        .run(&operations(), |operations| {
            runtime.block_on(async {
                let mut world = World::begin(&test).await;
                for (place, operation) in operations {
                    world.apply(place, operation).await;
                }
                world.end().await;
            });
            Ok(())
        })
        .unwrap();
    runtime.block_on(async { drop(test) });
}
