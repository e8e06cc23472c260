//! The Postgres of the bench: a private cluster as `claygate up` makes it, fsync on, and a database for each run.
//!
//! The statements here are the bench's own, not the product's: it looks from outside whether the books balance.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use common::db::{ConnectSettings, Database, migrate};
use common::ids::DeliveryId;
use embedded::{Cluster, Home, Settings};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor, Row};
use tokio::sync::Mutex;
use url::Url;

use super::filling::filling;

const TEMPLATE: &str = "bench_template";
const MAX_CONNECTIONS: u32 = 200;
const POLL_EVERY: Duration = Duration::from_millis(20);

/// The running server.
pub struct Postgres {
    cluster: Cluster,
    admin: ConnectSettings,
    next: AtomicU32,
    /// How many callbacks the templates hold that were filled.
    filled: Mutex<BTreeSet<u64>>,
}

impl Postgres {
    /// Starts it in `folder`, and makes the template of all databases.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let folder = folder.to_owned();
        let start = move || {
            let mut settings = Settings::durable(Home::temporary(&folder)?, None);
            settings.max_connections = MAX_CONNECTIONS;
            Cluster::start(&settings)
        };
        let cluster = tokio::task::spawn_blocking(start).await??;
        let url = url_of(&cluster, "postgres")?;
        let admin = ConnectSettings::from_url(&url, None, 1)?;
        let postgres = Self { cluster, admin, next: AtomicU32::new(0), filled: Mutex::default() };
        postgres.run(&format!("CREATE DATABASE {TEMPLATE}")).await?;
        let template = ConnectSettings { database: TEMPLATE.to_owned(), ..postgres.admin.clone() };
        migrate(&template).await.context("making the schema")?;
        Ok(postgres)
    }

    /// The postmaster.
    pub fn pid(&self) -> u32 {
        self.cluster.pid()
    }

    /// The version, for the header.
    pub fn version(&self) -> u32 {
        self.cluster.installation().major
    }

    /// A database with claygate's schema. What earlier runs left to write is written first.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn create(&self) -> anyhow::Result<RunDatabase> {
        self.create_from(TEMPLATE).await
    }

    /// A database in which `callbacks` callbacks are stored already. They are made once, and then copied.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn create_filled(&self, callbacks: u64) -> anyhow::Result<RunDatabase> {
        let template = format!("bench_filled_{callbacks}");
        let mut filled = self.filled.lock().await;
        if filled.insert(callbacks) {
            eprintln!("bench: storing {callbacks} callbacks, once");
            self.run(&format!("CREATE DATABASE {template} TEMPLATE {TEMPLATE}")).await?;
            let settings = ConnectSettings { database: template.clone(), ..self.admin.clone() };
            let mut connection = settings.connect_directly().await?;
            for statement in filling(callbacks) {
                execute(&mut connection, &statement).await?;
            }
            connection.close().await?;
        }
        // Copying files is quicker than logging them page by page; older versions know no other way.
        let strategy = if self.version() < 15 { "" } else { " STRATEGY file_copy" };
        self.create_from(&format!("{template}{strategy}")).await
    }

    /// A database without any schema.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn create_empty(&self) -> anyhow::Result<RunDatabase> {
        self.create_from("template0").await
    }

    async fn create_from(&self, template: &str) -> anyhow::Result<RunDatabase> {
        let name = format!("run_{}", self.next.fetch_add(1, Ordering::Relaxed));
        self.run(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await?;
        self.run("CHECKPOINT").await?;
        let url = url_of(&self.cluster, &name)?;
        let settings = ConnectSettings { database: name.clone(), ..self.admin.clone() };
        let mut connection = settings.connect_directly().await?;
        let bytes_before = size(&mut connection).await?;
        Ok(RunDatabase { connection, name, url, settings, bytes_before })
    }

    /// Removes a database and whoever is still connected to it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn remove(&self, database: RunDatabase) -> anyhow::Result<()> {
        database.connection.close().await?;
        self.run(&format!("DROP DATABASE {} WITH (FORCE)", database.name)).await
    }

    /// Writes everything to the disk that is to be written, so that it does not happen while something is measured.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn checkpoint(&self) -> anyhow::Result<()> {
        self.run("CHECKPOINT").await
    }

    /// Stops it.
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn stop(self) -> anyhow::Result<()> {
        Ok(tokio::task::spawn_blocking(move || self.cluster.stop()).await??)
    }

    async fn run(&self, statement: &str) -> anyhow::Result<()> {
        let mut connection = self.admin.connect_directly().await?;
        execute(&mut connection, statement).await?;
        Ok(connection.close().await?)
    }
}

async fn size(connection: &mut PgConnection) -> anyhow::Result<u64> {
    let size = "SELECT pg_database_size(current_database())";
    let bytes: i64 = sqlx::query_scalar(size).fetch_one(connection).await?;
    Ok(bytes.unsigned_abs())
}

fn url_of(cluster: &Cluster, database: &str) -> anyhow::Result<Url> {
    let (user, password, port) = (embedded::USER, cluster.password(), cluster.port());
    Ok(Url::parse(&format!("postgres://{user}:{password}@127.0.0.1:{port}/{database}?sslmode=disable"))?)
}

async fn execute(connection: &mut PgConnection, statement: &str) -> anyhow::Result<()> {
    // Every part of every statement is this program's own.
    let statement = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()));
    connection.execute(statement).await.context("asking Postgres")?;
    Ok(())
}

/// The database of one run.
pub struct RunDatabase {
    connection: PgConnection,
    name: String,
    url: Url,
    settings: ConnectSettings,
    bytes_before: u64,
}

/// What has to be there when a run is over.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Different callbacks that were answered.
    pub callbacks: u64,
    /// Destinations of each; `None`: nobody routed them.
    pub destinations: Option<u64>,
    /// Deliveries that were made again.
    pub again: u64,
}

impl RunDatabase {
    /// Where it is, password included.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The same, for connections of one's own.
    pub fn settings(&self) -> &ConnectSettings {
        &self.settings
    }

    /// Emulates a disk whose every flush takes this much longer.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn slow_down_commits(&mut self, by: Duration) -> anyhow::Result<()> {
        for (name, value) in [("commit_delay", by.as_micros()), ("commit_siblings", 0)] {
            execute(&mut self.connection, &format!("ALTER DATABASE {} SET {name} = {value}", self.name)).await?;
        }
        Ok(())
    }

    /// A transaction that keeps its snapshot until it is dropped, as an analyst's long query does.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn hold_snapshot(&self) -> anyhow::Result<PgConnection> {
        let mut connection = self.settings.connect_directly().await?;
        execute(&mut connection, "SET idle_in_transaction_session_timeout = 0").await?;
        execute(&mut connection, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM claygate.outbox").await?;
        Ok(connection)
    }

    /// Waits until nothing is queued any more, at most `limit`.
    ///
    /// # Errors
    /// When it takes longer.
    pub async fn wait_until_published(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.wait_for("SELECT NOT EXISTS (SELECT FROM claygate.outbox)", limit, "the outbox is not empty").await
    }

    /// Waits until nothing is queued, nothing is pending at a destination other than `hung`, and every callback is
    /// routed; at most `limit`.
    ///
    /// # Errors
    /// When it takes longer.
    pub async fn wait_until_delivered(&mut self, hung: Option<usize>, limit: Duration) -> anyhow::Result<()> {
        let except = hung.map(|number| format!("'d{number}'")).unwrap_or_else(|| "''".to_owned());
        let ended = format!(
            "SELECT NOT EXISTS (SELECT FROM claygate.deliveries WHERE state = 'pending' AND destination <> {except})
                AND NOT EXISTS (SELECT FROM claygate.outbox WHERE queue <> 'deliver.' || {except})"
        );
        self.wait_for(&ended, limit, "deliveries are still pending").await?;
        let routed = "SELECT NOT EXISTS (SELECT FROM claygate.callbacks WHERE state = 'received')";
        self.wait_for(routed, limit, "callbacks are not routed yet").await
    }

    async fn wait_for(&mut self, question: &str, limit: Duration, problem: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let row = self.connection.fetch_one(sqlx::raw_sql(AssertSqlSafe(question.to_owned()))).await?;
            if row.try_get(0)? {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{problem} after {limit:?}: {}", self.describe().await?);
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    }

    /// Whether everything that belongs to what was answered is there, once.
    ///
    /// # Errors
    /// Names what is missing or too much.
    pub async fn check_books(&mut self, expected: Expected) -> anyhow::Result<()> {
        let routed = expected.destinations.map_or(0, |_| expected.callbacks);
        let deliveries = expected.destinations.unwrap_or(0) * expected.callbacks + expected.again;
        for (what, query, expected) in [
            ("callbacks", "SELECT count(*) FROM claygate.callbacks", expected.callbacks),
            ("bodies", "SELECT count(*) FROM claygate.callback_bodies", expected.callbacks),
            (
                "counted callbacks",
                "SELECT COALESCE(sum(n), 0)::int8 FROM claygate.intake_counts WHERE result = 'new'",
                expected.callbacks,
            ),
            ("leads", "SELECT count(*) FROM claygate.leads", routed),
            ("decisions", "SELECT count(*) FROM claygate.decisions", routed),
            ("deliveries", "SELECT count(*) FROM claygate.deliveries", deliveries),
        ] {
            let found = self.count(query).await?;
            ensure!(found == expected, "{found} {what} in the database instead of {expected}");
        }
        Ok(())
    }

    /// Deliveries in state `delivered`, and attempts.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn delivered(&mut self) -> anyhow::Result<(u64, u64)> {
        let delivered = self.count("SELECT count(*) FROM claygate.deliveries WHERE state = 'delivered'").await?;
        Ok((delivered, self.count("SELECT count(*) FROM claygate.attempts").await?))
    }

    /// Deliveries that were given up.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn dead(&mut self) -> anyhow::Result<Vec<DeliveryId>> {
        let query = sqlx::query_scalar("SELECT id FROM claygate.deliveries WHERE state = 'dead' ORDER BY id");
        Ok(query.fetch_all(&mut self.connection).await?)
    }

    /// A pool of connections, as claygate's commands have one.
    pub fn pool(&self, connections: u32) -> Database {
        Database::open(ConnectSettings { max_connections: connections, ..self.settings.clone() })
    }

    /// How much larger its files are than when it was made, in bytes.
    ///
    /// # Errors
    /// When Postgres fails.
    pub async fn grown_by(&mut self) -> anyhow::Result<u64> {
        Ok(size(&mut self.connection).await?.saturating_sub(self.bytes_before))
    }

    async fn count(&mut self, query: &'static str) -> anyhow::Result<u64> {
        let count: i64 = sqlx::query_scalar(query).fetch_one(&mut self.connection).await?;
        Ok(count.unsigned_abs())
    }

    async fn describe(&mut self) -> anyhow::Result<String> {
        let states = "SELECT format('callbacks %s: %s', state, count(*)) FROM claygate.callbacks GROUP BY state
            UNION ALL SELECT format('deliveries %s: %s', state, count(*)) FROM claygate.deliveries GROUP BY state
            UNION ALL SELECT format('outbox %s: %s', queue, count(*)) FROM claygate.outbox GROUP BY queue";
        let rows: Vec<String> = sqlx::query_scalar(states).fetch_all(&mut self.connection).await?;
        Ok(rows.join(", "))
    }
}
