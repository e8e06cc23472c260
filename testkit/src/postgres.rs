//! A freshly migrated database per test, cloned from a template on a throw-away server.
//!
//! The server is the one that `CLAYGATE_TEST_PG` names (`cargo xtask test` starts it for the whole run), else one that
//! this process starts when it first needs it and that dies with it. Nothing on it survives a power failure: whoever
//! tests crashes starts real processes with a cluster of their own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use common::db::{ConnectSettings, Database, migrate, schema_fingerprint};
use embedded::{Cluster, Home, Lock, Settings};
use sqlx::postgres::{PgPool, PgSslMode};
use sqlx::{AssertSqlSafe, Connection, Executor};

/// The variable that names a running server: `postgres://user:password@host:port/database`.
pub const SERVER_VARIABLE: &str = "CLAYGATE_TEST_PG";

/// The bytes of `template`: one process at a time makes it.
const TEMPLATE_LOCK: i64 = i64::from_be_bytes(*b"template");
const MAX_CONNECTIONS: u32 = 8;
const JUST_STARTING: Duration = Duration::from_secs(60);
const FOLDER_PREFIX: &str = "claygate-test-";

/// A database of one test. Dropped with it, which blocks, and waits for every connection of the server that is just being
/// authenticated: whoever opens one must not depend on the thread that drops this.
pub struct TestDatabase {
    settings: ConnectSettings,
    database: Database,
}

impl TestDatabase {
    /// A fresh database with the current schema.
    ///
    /// # Panics
    /// When there is no PostgreSQL, or it refuses: no test can go on then.
    pub async fn create() -> Self {
        let server = server_settings();
        let template = ensure_template(&server).await;
        Self::clone_of(&server, &template).await
    }

    /// A fresh database without any schema, for tests of the migrations.
    ///
    /// # Panics
    /// As [`TestDatabase::create`].
    pub async fn create_empty() -> Self {
        Self::clone_of(&server_settings(), "template0").await
    }

    /// A fresh database with the current schema on this server.
    pub(crate) async fn on(server: &ConnectSettings) -> Self {
        let test = Self::clone_of(server, "template0").await;
        migrate(&test.settings).await.expect("the migrations apply to an empty database");
        test
    }

    #[allow(clippy::expect_used)]
    async fn clone_of(server: &ConnectSettings, template: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_{}_{number}_{:08x}", std::process::id(), uuid::Uuid::new_v4().as_fields().0);
        let mut connection = server.connect_directly().await.expect("the test server is reachable");
        execute(&mut connection, format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        connection.close().await.expect("the connection closes");
        let settings = ConnectSettings { database: name, ..server.clone() };
        let database = Database::open(settings.clone());
        Self { settings, database }
    }

    /// How to connect.
    pub fn settings(&self) -> ConnectSettings {
        self.settings.clone()
    }

    /// A pool on it. Every call gives the same one.
    pub fn database(&self) -> Database {
        self.database.clone()
    }

    /// The same pool, for queries of the test itself.
    pub fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    /// The URL, password included, for processes that a test starts.
    pub fn url(&self) -> String {
        use secrecy::ExposeSecret;
        let ConnectSettings { host, port, user, password, database, .. } = &self.settings;
        let password = password.as_ref().map(|password| password.expose_secret()).unwrap_or_default();
        format!("postgres://{user}:{password}@{host}:{port}/{database}?sslmode=disable")
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let server = ConnectSettings { database: "postgres".to_owned(), ..self.settings.clone() };
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.settings.database);
        // The test's own runtime may be gone or blocked here. A failure costs disk space until the server goes.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                runtime.block_on(async {
                    if let Ok(mut connection) = server.connect_directly().await {
                        let _ = connection.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await;
                    }
                });
            }
        });
        let _ = dropping.join();
    }
}

/// Makes the template of this schema where the server has none, and names it.
#[allow(clippy::expect_used)]
async fn ensure_template(server: &ConnectSettings) -> String {
    static MADE: OnceLock<String> = OnceLock::new();
    if let Some(name) = MADE.get() {
        return name.clone();
    }
    let name = format!("template_{}", schema_fingerprint());
    let mut connection = server.connect_directly().await.expect("the test server is reachable");
    sqlx::query("SELECT pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut connection).await.expect("a lock");
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut connection)
        .await
        .expect("the catalogue is readable");
    if !exists {
        // Under another name until it is whole: a killed run must not leave half a template.
        let making = format!("{name}_making");
        execute(&mut connection, format!("DROP DATABASE IF EXISTS {making} WITH (FORCE)")).await;
        execute(&mut connection, format!("CREATE DATABASE {making} TEMPLATE template0")).await;
        let settings = ConnectSettings { database: making.clone(), ..server.clone() };
        migrate(&settings).await.expect("the migrations apply to an empty database");
        execute(&mut connection, format!("ALTER DATABASE {making} RENAME TO {name}")).await;
    }
    connection.close().await.expect("the connection closes");
    MADE.get_or_init(|| name).clone()
}

/// Runs a statement made of names that this module chose.
#[allow(clippy::panic)]
async fn execute(connection: &mut sqlx::PgConnection, statement: String) {
    if let Err(error) = connection.execute(sqlx::raw_sql(AssertSqlSafe(statement.clone()))).await {
        panic!("{statement}: {error}");
    }
}

/// The server of this run.
#[allow(clippy::expect_used)]
fn server_settings() -> ConnectSettings {
    static SETTINGS: OnceLock<ConnectSettings> = OnceLock::new();
    SETTINGS
        .get_or_init(|| match std::env::var(SERVER_VARIABLE) {
            Ok(url) if !url.is_empty() => {
                let url = url.parse().expect("CLAYGATE_TEST_PG is a URL");
                ConnectSettings::from_url(&url, None, MAX_CONNECTIONS).expect("CLAYGATE_TEST_PG names a server")
            }
            _ => start_server(),
        })
        .clone()
}

/// How to reach a server as its superuser.
pub(crate) fn connect_settings(cluster: &Cluster, max_connections: u32) -> ConnectSettings {
    ConnectSettings {
        host: "127.0.0.1".to_owned(),
        port: cluster.port(),
        user: embedded::USER.to_owned(),
        password: Some(cluster.password().to_owned().into()),
        database: "postgres".to_owned(),
        ssl_mode: PgSslMode::Disable,
        ssl_root_cert: None,
        max_connections,
    }
}

/// Starts a server that lives as long as this process.
#[allow(clippy::expect_used)]
fn start_server() -> ConnectSettings {
    static SERVER: Mutex<Option<(Cluster, Lock)>> = Mutex::new(None);
    remove_leftovers(&std::env::temp_dir());
    let dir = std::env::temp_dir().join(format!("{FOLDER_PREFIX}{}", uuid::Uuid::new_v4().simple()));
    let home = Home::temporary(&dir).expect("a folder for the test server");
    let lock = Lock::take(&dir, "a test").expect("the folder is ours");
    let cluster = Cluster::start(&Settings::throw_away(home)).expect("PostgreSQL starts");
    let settings = connect_settings(&cluster, MAX_CONNECTIONS);
    // A static is never dropped: the parent-death signal stops the server.
    *SERVER.lock().unwrap_or_else(PoisonError::into_inner) = Some((cluster, lock));
    settings
}

/// Removes the folders of servers whose processes are gone.
fn remove_leftovers(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let path: PathBuf = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX) && is_old(&path.join("lock"));
        // A server that is still shutting down owns its folder until the file is gone.
        if ours && !Lock::is_held(&path) && !path.join("cluster/postmaster.pid").exists() {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// Whether `file` is there, and not of a process that is just starting.
fn is_old(file: &Path) -> bool {
    let age = std::fs::metadata(file).and_then(|meta| meta.modified()).map(|time| time.elapsed().unwrap_or_default());
    age.is_ok_and(|age| age > JUST_STARTING)
}
