//! A running deliverer over a database and a configuration of the test's own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::config::{Config, Environment, Role};
use common::db::{Database, outbox};
use common::ids::{CallbackId, DeliveryId};
use common::queue::postgres::{PostgresQueue, PostgresQueueSettings};
use common::queue::{Doorbell, Queue, QueueName};
use sqlx::Row;
use testkit::postgres::TestDatabase;
use testkit::wait::wait_for;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use worker::deliver::Deliverer;
use worker::destinations::Target;
use worker::health::Health;
use worker::lanes::Lanes;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The configuration of an HTTP destination, with `more` of its keys.
pub(crate) fn http(name: &str, url: &str, more: &str) -> String {
    format!(
        "[destinations.{name}]\nkind = \"http\"\nurl = \"{url}\"\nallow_private = true\nretries = [\"60s\", \"300s\"]\n\
         timeout = \"5s\"\nconnect_timeout = \"1s\"\n{more}\n"
    )
}

pub(crate) struct Rig {
    pub(crate) test: Arc<TestDatabase>,
    pub(crate) doorbell: Doorbell,
    pub(crate) lanes: Arc<Lanes>,
    shutdown: CancellationToken,
    running: Option<JoinHandle<()>>,
}

/// A delivery as the table has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeliveryRow {
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) attempts: i32,
    pub(crate) failures: i32,
    pub(crate) leased: bool,
    pub(crate) wait_s: Option<f64>,
    pub(crate) captured: Option<serde_json::Value>,
}

/// An attempt as the table has it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttemptRow {
    pub(crate) number: i32,
    pub(crate) class: String,
    pub(crate) status: Option<i16>,
    pub(crate) error: Option<String>,
    pub(crate) response: Option<Vec<u8>>,
    pub(crate) owned: bool,
}

pub(crate) fn config(destinations: &str) -> Config {
    let environment = Environment::default();
    let text = format!(
        "[sources.clay]\npath = \"/clay\"\nverify = {{ kind = \"none\" }}\n[worker]\ndrain = \"1s\"\n{destinations}\n"
    );
    Config::from_toml(Role::Up, &text, &environment).unwrap()
}

fn prepare(config: &Config) -> HashMap<String, Target> {
    config.destinations.iter().map(|(name, one)| (name.clone(), Target::prepare(one).unwrap())).collect()
}

impl Rig {
    /// Delivers to what `destinations` describes, as TOML.
    pub(crate) async fn start(destinations: &str) -> Self {
        Self::over(TestDatabase::create().await, destinations)
    }

    pub(crate) fn over(test: TestDatabase, destinations: &str) -> Self {
        let config = config(destinations);
        let targets = prepare(&config);
        Self::with_targets(test, &config, targets)
    }

    /// Another worker over the same database.
    pub(crate) fn beside(&self, destinations: &str) -> Self {
        let config = config(destinations);
        let targets = prepare(&config);
        Self::running_over(Arc::clone(&self.test), &config, targets)
    }

    pub(crate) fn with_targets(test: TestDatabase, config: &Config, targets: HashMap<String, Target>) -> Self {
        Self::running_over(Arc::new(test), config, targets)
    }

    fn running_over(test: Arc<TestDatabase>, config: &Config, targets: HashMap<String, Target>) -> Self {
        let database = test.database();
        let doorbell = Doorbell::new();
        let queue: Arc<dyn Queue> =
            Arc::new(PostgresQueue::new(database.clone(), doorbell.clone(), PostgresQueueSettings::default()));
        let deliverer = Deliverer::with_targets(config, targets, &database, &doorbell);
        let lanes = deliverer.lanes();
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let running = tokio::spawn(async move { deliverer.run(queue, &Health::default(), token).await });
        Self { test, doorbell, lanes, shutdown, running: Some(running) }
    }

    pub(crate) fn database(&self) -> Database {
        self.test.database()
    }

    /// A delivery of a lead of its own, put into its queue.
    pub(crate) async fn deliver(&self, destination: &str) -> DeliveryId {
        let id = self.insert(destination).await;
        self.enqueue(destination, &[id]).await;
        id
    }

    /// A delivery of a lead of its own, pending and in no queue.
    pub(crate) async fn insert(&self, destination: &str) -> DeliveryId {
        let (callback, id) = (CallbackId::new(), DeliveryId::new());
        let key: Vec<u8> = [*callback.0.as_bytes(), *callback.0.as_bytes()].concat();
        let pool = self.test.pool();
        sqlx::query(
            "INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, state)
             VALUES ($1, 'clay', $2, 'pointer', $2, now(), 'routed')",
        )
        .bind(callback.0)
        .bind(&key)
        .execute(pool)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO claygate.leads (callback_id, received_at, email, first_name, icp_score, extra, warnings)
             VALUES ($1, now(), 'ada@example.com', 'Ada', 85, '{}', '{}')",
        )
        .bind(callback.0)
        .execute(pool)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO claygate.deliveries (id, callback_id, destination, rule, person, next_attempt_at)
             VALUES ($1, $2, $3, 'hot', $4, now())",
        )
        .bind(id.0)
        .bind(callback.0)
        .bind(destination)
        .bind(&key)
        .execute(pool)
        .await
        .unwrap();
        id
    }

    pub(crate) async fn enqueue(&self, destination: &str, ids: &[DeliveryId]) {
        let refs: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let queue = QueueName::deliver(destination);
        let mut connection = self.test.pool().acquire().await.unwrap();
        outbox::push(&mut connection, &queue, &refs, None).await.unwrap();
        drop(connection);
        self.doorbell.ring(&queue);
    }

    pub(crate) async fn row(&self, id: DeliveryId) -> DeliveryRow {
        let row = sqlx::query(
            "SELECT state, reason, attempts, failures, lease_token IS NOT NULL AS leased, captured,
                 EXTRACT(EPOCH FROM next_attempt_at - now())::float8 AS wait_s
             FROM claygate.deliveries WHERE id = $1",
        )
        .bind(id.0)
        .fetch_one(self.test.pool())
        .await
        .unwrap();
        DeliveryRow {
            state: row.get("state"),
            reason: row.get("reason"),
            attempts: row.get("attempts"),
            failures: row.get("failures"),
            leased: row.get("leased"),
            wait_s: row.get("wait_s"),
            captured: row.get("captured"),
        }
    }

    /// Waits until `check` holds for a delivery.
    pub(crate) async fn wait(&self, id: DeliveryId, what: &str, check: impl Fn(&DeliveryRow) -> bool) -> DeliveryRow {
        wait_for(what, PATIENCE, async || {
            let row = self.row(id).await;
            if check(&row) { Ok(row) } else { Err(row) }
        })
        .await
    }

    /// Waits until a delivery has ended, and says how.
    pub(crate) async fn end(&self, id: DeliveryId) -> (String, Option<String>) {
        let row = self.wait(id, "the delivery to end", |row| row.state != "pending").await;
        (row.state, row.reason)
    }

    /// Waits until a delivery has had `n` attempts and is not under way.
    pub(crate) async fn tried(&self, id: DeliveryId, n: i32) -> DeliveryRow {
        self.wait(id, "an attempt", |row| row.attempts >= n && !row.leased).await
    }

    pub(crate) async fn attempts(&self, id: DeliveryId) -> Vec<AttemptRow> {
        sqlx::query(
            "SELECT number, class, status, error, response, owned FROM claygate.attempts WHERE delivery_id = $1
             ORDER BY number",
        )
        .bind(id.0)
        .fetch_all(self.test.pool())
        .await
        .unwrap()
        .iter()
        .map(|row| AttemptRow {
            number: row.get("number"),
            class: row.get("class"),
            status: row.get("status"),
            error: row.get("error"),
            response: row.get("response"),
            owned: row.get("owned"),
        })
        .collect()
    }

    /// Entries of a queue: how many ids, and in how many seconds the first is due.
    pub(crate) async fn queued(&self, queue: &QueueName) -> (i64, Option<f64>) {
        sqlx::query_as(
            "SELECT COALESCE(sum(cardinality(refs)), 0)::bigint, EXTRACT(EPOCH FROM min(due_at) - now())::float8
             FROM claygate.outbox WHERE queue = $1",
        )
        .bind(queue.as_str())
        .fetch_one(self.test.pool())
        .await
        .unwrap()
    }

    /// Makes a pending delivery and its entry due at once.
    pub(crate) async fn hurry(&self, id: DeliveryId, destination: &str) {
        let pool = self.test.pool();
        sqlx::query("UPDATE claygate.deliveries SET next_attempt_at = now() WHERE id = $1 AND state = 'pending'")
            .bind(id.0)
            .execute(pool)
            .await
            .unwrap();
        sqlx::query("UPDATE claygate.outbox SET due_at = now() WHERE $1 = ANY(refs)")
            .bind(id.0)
            .execute(pool)
            .await
            .unwrap();
        self.doorbell.ring(&QueueName::deliver(destination));
    }

    /// Stops, and waits until it has stopped.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.cancel();
        if let Some(running) = self.running.take() {
            tokio::time::timeout(PATIENCE, running).await.expect("it stops").unwrap();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
