//! A router over a database and a configuration of the test's own, driven step by step.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use common::config::{Config, Environment, Role};
use common::db::{Database, rescue};
use common::ids::{CallbackId, DeliveryId};
use common::queue::Doorbell;
use common::rules::{EVALUATION_DEADLINE, RuleSet, RuleThreads};
use serde_json::Value;
use sqlx::Row;
use testkit::postgres::TestDatabase;
use tokio::sync::mpsc;
use uuid::Uuid;
use worker::lanes::{InLine, Lanes};
use worker::route::Router;

/// One source without verification, and one destination `log` for everything.
pub(crate) const ALL_TO_LOG: &str = "[destinations.log]\nkind = \"log\"\n\
     [[rules]]\nname = \"all\"\nwhen = \"true\"\nto = [\"log\"]\n";

/// The same, and nobody is sent there twice in 30 days.
pub(crate) const ONCE_TO_LOG: &str = "[destinations.log]\nkind = \"log\"\nonce_per = \"30d\"\n\
     [[rules]]\nname = \"all\"\nwhen = \"true\"\nto = [\"log\"]\n";

pub(crate) struct RouteRig {
    pub(crate) test: TestDatabase,
    pub(crate) config: Arc<Config>,
    pub(crate) doorbell: Doorbell,
    pub(crate) router: Router,
    pub(crate) rules: Arc<RuleSet>,
    started: HashMap<String, mpsc::UnboundedReceiver<InLine>>,
}

/// A delivery as the table has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Made {
    pub(crate) id: DeliveryId,
    pub(crate) destination: String,
    pub(crate) replay: i32,
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) blocked_by: Option<Uuid>,
    pub(crate) leased: bool,
}

pub(crate) fn config(text: &str) -> Config {
    let environment = Environment::default();
    let text = format!("[sources.clay]\npath = \"/clay\"\nverify = {{ kind = \"none\" }}\n{text}");
    Config::from_toml(Role::Up, &text, &environment).unwrap()
}

pub(crate) fn compile(config: &Config) -> RuleSet {
    let destinations: Vec<String> = config.destinations.keys().cloned().collect();
    RuleSet::compile(&config.rules, &destinations, &["clay".to_owned()]).unwrap()
}

impl RouteRig {
    pub(crate) async fn new(text: &str) -> Self {
        Self::over(TestDatabase::create().await, config(text))
    }

    pub(crate) fn over(test: TestDatabase, config: Config) -> Self {
        let config = Arc::new(config);
        let doorbell = Doorbell::new();
        let rules = Arc::new(compile(&config));
        let threads = RuleThreads::start(Arc::clone(&rules), 1, EVALUATION_DEADLINE).unwrap();
        let (lanes, started) = Lanes::new(&config);
        let router = Router::new(
            Arc::clone(&config),
            test.database(),
            doorbell.clone(),
            Arc::new(lanes),
            Arc::clone(&rules),
            threads,
        );
        Self { test, config, doorbell, router, rules, started }
    }

    /// Another worker on the same database, with rules of its own.
    pub(crate) fn and(self, text: &str) -> (Elder, Self) {
        let Self { test, router, .. } = self;
        (Elder { router }, Self::over(test, config(text)))
    }

    pub(crate) fn database(&self) -> Database {
        self.test.database()
    }

    /// A stored callback that waits for its routing, in no queue.
    pub(crate) async fn callback(&self, body: &Value) -> CallbackId {
        self.callback_of_bytes(body.to_string().as_bytes()).await
    }

    pub(crate) async fn callback_of_bytes(&self, body: &[u8]) -> CallbackId {
        let id = CallbackId::new();
        let key: Vec<u8> = [*id.0.as_bytes(), *id.0.as_bytes()].concat();
        sqlx::query(
            "WITH stored AS (
                 INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at)
                 VALUES ($1, 'clay', $2, 'pointer', $2, now()) RETURNING id, received_at
             )
             INSERT INTO claygate.callback_bodies (callback_id, received_at, body, headers)
             SELECT id, received_at, $3, '[]' FROM stored",
        )
        .bind(id.0)
        .bind(key)
        .bind(body)
        .execute(self.test.pool())
        .await
        .unwrap();
        id
    }

    /// State and reason of a callback.
    pub(crate) async fn state(&self, id: CallbackId) -> (String, Option<String>) {
        sqlx::query_as("SELECT state, reason FROM claygate.callbacks WHERE id = $1")
            .bind(id.0)
            .fetch_one(self.test.pool())
            .await
            .unwrap()
    }

    /// The deliveries of a callback, by destination and replay.
    pub(crate) async fn deliveries(&self, id: CallbackId) -> Vec<Made> {
        sqlx::query(
            "SELECT id, destination, replay, state, reason, blocked_by, lease_token IS NOT NULL AS leased
             FROM claygate.deliveries WHERE callback_id = $1 ORDER BY destination, replay",
        )
        .bind(id.0)
        .fetch_all(self.test.pool())
        .await
        .unwrap()
        .iter()
        .map(|row| Made {
            id: DeliveryId(row.get("id")),
            destination: row.get("destination"),
            replay: row.get("replay"),
            state: row.get("state"),
            reason: row.get("reason"),
            blocked_by: row.get("blocked_by"),
            leased: row.get("leased"),
        })
        .collect()
    }

    /// Each rule's result in the latest decision of a callback.
    pub(crate) async fn trace(&self, id: CallbackId) -> Value {
        sqlx::query_scalar("SELECT trace FROM claygate.decisions WHERE callback_id = $1 ORDER BY routing DESC LIMIT 1")
            .bind(id.0)
            .fetch_one(self.test.pool())
            .await
            .unwrap()
    }

    /// How many ids wait in each queue.
    pub(crate) async fn queued(&self) -> BTreeMap<String, i64> {
        sqlx::query_as::<_, (String, i64)>(
            "SELECT queue, sum(cardinality(refs))::bigint FROM claygate.outbox WHERE due_at <= now() GROUP BY queue",
        )
        .fetch_all(self.test.pool())
        .await
        .unwrap()
        .into_iter()
        .collect()
    }

    /// What was handed to a lane since the last look.
    pub(crate) fn take_started(&mut self, destination: &str) -> Vec<DeliveryId> {
        let receiver = self.started.get_mut(destination).unwrap();
        std::iter::from_fn(|| receiver.try_recv().ok()).map(|started| started.delivery.id).collect()
    }

    /// Ends a delivery as dead, the way its recorder does: its cool-down is given back.
    pub(crate) async fn kill(&self, id: DeliveryId) {
        sqlx::query(
            "WITH ended AS (
                 UPDATE claygate.deliveries SET state = 'dead', reason = 'terminal', ended_at = now(),
                     next_attempt_at = NULL, lease_until = NULL, lease_token = NULL WHERE id = $1 RETURNING id
             )
             DELETE FROM claygate.cooldowns USING ended WHERE delivery_id = ended.id",
        )
        .bind(id.0)
        .execute(self.test.pool())
        .await
        .unwrap();
    }

    /// Runs a statement of the test's own.
    pub(crate) async fn execute(&self, statement: &'static str) -> u64 {
        sqlx::query(statement).execute(self.test.pool()).await.unwrap().rows_affected()
    }

    /// Gives every lease back that anybody holds.
    pub(crate) async fn free_leases(&self) {
        rescue::release_everything(&self.database(), 5).await.unwrap();
    }
}

/// The first worker of [`RouteRig::and`].
pub(crate) struct Elder {
    pub(crate) router: Router,
}
