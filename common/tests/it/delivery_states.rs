//! Whatever comes to a delivery, in whatever order and from whomever: it ends once, an end is never left, nothing that
//! waits is forgotten, and no CHECK is broken (each of the operations would fail).
//!
//! A person is not here, so no cool-down is: `routing` and `released` have tests of their own.

use std::time::Duration;

use common::db::attempts::{self, Attempt, Verdict};
use common::db::replay::{self, ReplayError};
use common::db::{Database, deliveries, rescue};
use common::ids::DeliveryId;
use common::states::{Class, DeliveryState, Reason};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sqlx::{PgPool, Row};
use testkit::postgres::TestDatabase;
use uuid::Uuid;

const DESTINATION: &str = "crm";
/// Leases of one delivery that may run out.
const CLAIMS_MAX: i16 = 3;
const LONG: Duration = Duration::from_secs(3_600);

/// Whose lease an operation claims to hold.
#[derive(Clone, Copy, Debug)]
enum Token {
    /// The one that was given out last.
    Last,
    /// The one before.
    Stale,
    /// One that nobody was given.
    Forged,
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Lease,
    /// The holder's time is over.
    RunOut,
    Record(Token, Outcome),
    GiveBack(Token),
    GiveUp,
    CountClaim,
    Rescue,
    /// An operator sends the delivery again.
    Replay,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Delivered,
    Dead,
    Again,
}

fn operations() -> impl Strategy<Value = Vec<(usize, Operation)>> {
    let token = prop_oneof![4 => Just(Token::Last), 1 => Just(Token::Stale), 1 => Just(Token::Forged)];
    let outcome = prop_oneof![1 => Just(Outcome::Delivered), 1 => Just(Outcome::Dead), 3 => Just(Outcome::Again)];
    let operation = prop_oneof![
        4 => Just(Operation::Lease),
        2 => Just(Operation::RunOut),
        4 => (token.clone(), outcome).prop_map(|(token, outcome)| Operation::Record(token, outcome)),
        1 => token.prop_map(Operation::GiveBack),
        1 => Just(Operation::GiveUp),
        1 => Just(Operation::CountClaim),
        2 => Just(Operation::Rescue),
        1 => Just(Operation::Replay),
    ];
    prop::collection::vec((0usize..3, operation), 1..30)
}

/// A delivery as it stands in the table.
#[derive(Clone, Debug, PartialEq)]
struct Standing {
    state: DeliveryState,
    reason: Option<String>,
    ended_at: Option<time::OffsetDateTime>,
    lease: Option<Uuid>,
    lease_is_live: bool,
    attempts: i32,
}

/// One delivery, and the leases that were given out on it.
struct Known {
    id: DeliveryId,
    tokens: Vec<Uuid>,
    standing: Standing,
}

struct World {
    database: Database,
    pool: PgPool,
    deliveries: Vec<Known>,
}

impl World {
    async fn begin(test: &TestDatabase) -> Self {
        let pool = test.pool().clone();
        let callback = Uuid::now_v7();
        let id = DeliveryId::new();
        sqlx::query(
            "WITH callback AS (
                 INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, state)
                 VALUES ($1, 'clay', sha256($1::text::bytea), 'content', sha256('x'), now(), 'routed')
                 RETURNING id, received_at
             )
             INSERT INTO claygate.leads (callback_id, received_at, extra, warnings)
             SELECT id, received_at, '{}', '{}' FROM callback",
        )
        .bind(callback)
        .execute(&pool)
        .await
        .unwrap();
        sqlx::query(
            "WITH made AS (
                 INSERT INTO claygate.deliveries (id, callback_id, destination, next_attempt_at)
                 VALUES ($1, $2, $3, now()) RETURNING id
             )
             INSERT INTO claygate.outbox (queue, refs) SELECT 'deliver.crm', ARRAY[id] FROM made",
        )
        .bind(id.0)
        .bind(callback)
        .bind(DESTINATION)
        .execute(&pool)
        .await
        .unwrap();
        let mut world = Self { database: test.database(), pool, deliveries: Vec::new() };
        world.know(id).await;
        world
    }

    async fn know(&mut self, id: DeliveryId) {
        let standing = self.read(id).await;
        self.deliveries.push(Known { id, tokens: Vec::new(), standing });
    }

    async fn read(&self, id: DeliveryId) -> Standing {
        let row = sqlx::query(
            "SELECT state, reason, ended_at, lease_token, COALESCE(lease_until >= now(), false) AS live, attempts
             FROM claygate.deliveries WHERE id = $1",
        )
        .bind(id.0)
        .fetch_one(&self.pool)
        .await
        .unwrap();
        Standing {
            state: DeliveryState::from_word(row.get("state")).unwrap(),
            reason: row.get("reason"),
            ended_at: row.get("ended_at"),
            lease: row.get("lease_token"),
            lease_is_live: row.get("live"),
            attempts: row.get("attempts"),
        }
    }

    fn token(&self, place: usize, which: Token) -> Uuid {
        let tokens = &self.deliveries[place].tokens;
        let given = match which {
            Token::Last => tokens.last(),
            Token::Stale => tokens.iter().rev().nth(1),
            Token::Forged => None,
        };
        given.copied().unwrap_or_else(Uuid::new_v4)
    }

    async fn apply(&mut self, place: usize, operation: Operation) {
        let place = place % self.deliveries.len();
        let (id, before) = (self.deliveries[place].id, self.deliveries[place].standing.clone());
        let pending = before.state == DeliveryState::Pending;
        match operation {
            Operation::Lease => {
                let token = Uuid::new_v4();
                let leased = deliveries::lease(&self.database, DESTINATION, &[id, id], token, LONG).await.unwrap();
                assert_eq!(leased.len(), usize::from(pending && !before.lease_is_live), "{before:?}");
                if !leased.is_empty() {
                    self.deliveries[place].tokens.push(token);
                    self.acknowledge(id).await;
                }
            }
            Operation::RunOut => {
                let run_out = "UPDATE claygate.deliveries SET lease_until = now() - interval '1 second'
                               WHERE id = $1 AND lease_until IS NOT NULL";
                sqlx::query(run_out).bind(id.0).execute(&self.pool).await.unwrap();
            }
            Operation::Record(which, outcome) => {
                let token = self.token(place, which);
                let recorded = self.record(id, token, outcome).await;
                assert_eq!(recorded.owned, pending && before.lease == Some(token), "{which:?} on {before:?}");
                assert_eq!(recorded.number, before.attempts + 1, "an attempt is recorded in any case");
            }
            Operation::GiveBack(which) => {
                let token = self.token(place, which);
                let given =
                    deliveries::give_back(&self.database, DESTINATION, &[id], token, Duration::ZERO).await.unwrap();
                assert_eq!(given, usize::from(before.lease == Some(token)));
            }
            Operation::GiveUp => {
                let done = deliveries::give_up(&self.database, id, Reason::UnknownDestination).await.unwrap();
                assert_eq!(done.ended, pending && !before.lease_is_live, "{before:?}");
            }
            Operation::CountClaim => {
                let claims = deliveries::count_claim(&self.database, id).await.unwrap();
                assert_eq!(claims.is_some(), pending);
            }
            Operation::Rescue => drop(rescue::give_back(&self.database, 10, CLAIMS_MAX).await.unwrap()),
            Operation::Replay => match replay::replay_delivery(&self.database, id, None).await {
                Ok(again) => {
                    assert!(!pending);
                    self.know(again).await;
                }
                Err(ReplayError::InProgress) => assert!(pending),
                Err(error) => panic!("{error}"),
            },
        }
        self.check(operation).await;
    }

    /// What was claimed from the queue is acknowledged with the lease.
    async fn acknowledge(&self, id: DeliveryId) {
        let gone = "DELETE FROM claygate.outbox WHERE refs = ARRAY[$1]";
        sqlx::query(gone).bind(id.0).execute(&self.pool).await.unwrap();
    }

    async fn record(&self, delivery: DeliveryId, token: Uuid, outcome: Outcome) -> attempts::Recorded {
        let (verdict, class) = match outcome {
            Outcome::Delivered => (Verdict::Delivered, Class::Delivered),
            Outcome::Dead => (Verdict::Dead(Reason::Terminal), Class::Permanent),
            Outcome::Again => (Verdict::Again { wait: Duration::ZERO, failed: true, hold: None }, Class::Transient),
        };
        let attempt = Attempt { verdict, class, ..testkit::attempts::delivered(delivery, token) };
        let mut connection = self.pool.acquire().await.unwrap();
        attempts::record(&mut connection, &[attempt]).await.unwrap()[0]
    }

    async fn check(&mut self, operation: Operation) {
        for place in 0..self.deliveries.len() {
            let id = self.deliveries[place].id;
            let (before, now) = (self.deliveries[place].standing.clone(), self.read(id).await);
            if before.state.is_end() {
                // Stragglers are recorded, and change nothing else.
                assert_eq!(Standing { attempts: before.attempts, ..now.clone() }, before, "{operation:?} left an end");
            }
            let tried = "SELECT count(*)::integer AS n, COALESCE(max(number), 0) AS last,
                             count(*) FILTER (WHERE owned AND class = 'delivered') AS taken
                         FROM claygate.attempts WHERE delivery_id = $1";
            let tried = sqlx::query(tried).bind(id.0).fetch_one(&self.pool).await.unwrap();
            let counted = (tried.get::<i32, _>("n"), tried.get::<i32, _>("last"));
            assert_eq!(counted, (now.attempts, now.attempts), "attempts are numbered without a gap");
            let delivered = i64::from(now.state == DeliveryState::Delivered);
            assert_eq!(tried.get::<i64, _>("taken"), delivered, "delivered by exactly one attempt, or by none");
            if now.state == DeliveryState::Pending && now.lease.is_none() {
                let waits = "SELECT EXISTS (SELECT FROM claygate.outbox WHERE refs @> ARRAY[$1])";
                let waits: bool = sqlx::query_scalar(waits).bind(id.0).fetch_one(&self.pool).await.unwrap();
                assert!(waits, "{operation:?} left a delivery that nobody will look at");
            }
            self.deliveries[place].standing = now;
        }
    }
}

/// Twenty-four lives of a delivery, each of up to thirty operations.
#[test]
fn no_sequence_of_operations_leaves_an_end_or_forgets_a_delivery() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let test = runtime.block_on(TestDatabase::create());
    let config = ProptestConfig { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..Default::default() };
    TestRunner::new(config)
        .run(&operations(), |operations| {
            runtime.block_on(async {
                let mut world = World::begin(&test).await;
                for (place, operation) in operations {
                    world.apply(place, operation).await;
                }
                // The next life begins alone: a rescue looks at every lease.
                for table in ["outbox", "attempts", "deliveries"] {
                    let gone = sqlx::AssertSqlSafe(format!("DELETE FROM claygate.{table}"));
                    sqlx::query(gone).execute(&world.pool).await.unwrap();
                }
            });
            Ok(())
        })
        .unwrap();
    runtime.block_on(async { drop(test) });
}
