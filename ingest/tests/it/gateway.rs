//! A running intake on a database and a spool folder of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::config::{Config, Environment, Role};
use common::db::{ConnectSettings, Database};
use common::queue::Doorbell;
use common::telemetry::{Probe, Verdict};
use ingest::{Application, RunError, StartError};
use reqwest::RequestBuilder;
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Executor};
use tempfile::TempDir;
use testkit::postgres::TestDatabase;
use testkit::wait::wait_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const PATH: &str = "/api/clay/enriched";
pub(crate) const SECRET: &str = "a-static-secret-of-the-column";
/// A source as Clay's columns use it.
pub(crate) const CLAY: &str = r#"
[sources.clay]
path = "/api/clay/enriched"
verify = { kind = "token", header = "X-Clay-Signature", secrets = ["a-static-secret-of-the-column"] }
"#;

/// A database and a spool folder, which outlive the gateways that run on them.
pub(crate) struct Site {
    pub(crate) database: Arc<TestDatabase>,
    pub(crate) spool: TempDir,
    pub(crate) spool_bytes: &'static str,
}

/// A running intake.
pub(crate) struct Gateway {
    pub(crate) port: u16,
    client: reqwest::Client,
    probes: Vec<Arc<dyn Probe>>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), RunError>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) json: Value,
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::on(TestDatabase::create().await)
    }

    pub(crate) fn on(database: TestDatabase) -> Self {
        Self { database: Arc::new(database), spool: tempfile::tempdir().unwrap(), spool_bytes: "64MiB" }
    }

    /// A site with a gateway on it.
    pub(crate) async fn with(toml: &str) -> (Self, Gateway) {
        let site = Self::new().await;
        let gateway = site.start(toml).await;
        (site, gateway)
    }

    pub(crate) fn config(&self, toml: &str) -> Config {
        let (url, spool, bytes) = (self.database.url(), self.spool.path().display(), self.spool_bytes);
        // A busy machine is no outage: only the tests of outages give commits little time.
        let ingest = if toml.contains("[ingest]") {
            ""
        } else {
            "[ingest]\nlisten = \"127.0.0.1:0\"\nthreads = 1\n[ingest.limits]\ncommit_timeout = \"60s\"\n"
        };
        let toml =
            format!("[database]\nurl = \"{url}\"\n[spool]\ndir = \"{spool}\"\nmax_bytes = \"{bytes}\"\n{ingest}{toml}");
        Config::from_toml(Role::Ingest, &toml, &Environment::default()).unwrap()
    }

    /// The same database with a spool folder of its own.
    pub(crate) fn replica(&self) -> Self {
        Self { database: Arc::clone(&self.database), spool: tempfile::tempdir().unwrap(), ..*self }
    }

    pub(crate) async fn build(&self, toml: &str, stop: &CancellationToken) -> Result<Application, StartError> {
        let database = Database::open(self.database.settings());
        Application::build(&self.config(toml), database, Doorbell::new(), stop.clone()).await
    }

    pub(crate) async fn start(&self, toml: &str) -> Gateway {
        let stop = CancellationToken::new();
        let application = self.build(toml, &stop).await.unwrap();
        let (port, probes) = (application.port(), application.probes());
        let running = tokio::spawn(application.run_until_stopped());
        Gateway { port, client: testkit::http::client(), probes, stop, running }
    }

    /// A connection of the test's own, so that an outage leaves none broken behind.
    pub(crate) async fn connect(&self) -> PgConnection {
        self.database.settings().connect_directly().await.unwrap()
    }

    pub(crate) async fn execute(&self, sql: impl Into<String>) {
        self.connect().await.execute(sqlx::raw_sql(AssertSqlSafe(sql.into()))).await.unwrap();
    }

    pub(crate) async fn rows(&self, sql: impl Into<String>) -> Vec<PgRow> {
        sqlx::query(AssertSqlSafe(sql.into())).fetch_all(&mut self.connect().await).await.unwrap()
    }

    /// The only value of `sql`.
    pub(crate) async fn value<T>(&self, sql: impl Into<String>) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.into())).fetch_one(&mut self.connect().await).await.unwrap()
    }

    pub(crate) async fn count(&self, table: &str) -> i64 {
        self.value(format!("SELECT count(*) FROM claygate.{table}")).await
    }

    /// Nobody can connect any more, and who was connected is not.
    pub(crate) async fn take_postgres_away(&self) {
        self.alter("ALLOW_CONNECTIONS false").await;
        self.cut_connections().await;
    }

    pub(crate) async fn bring_postgres_back(&self) {
        self.alter("ALLOW_CONNECTIONS true").await;
    }

    /// Changes this database from outside.
    pub(crate) async fn alter(&self, change: &str) {
        self.execute_outside(format!("ALTER DATABASE {} {change}", self.database.settings().database)).await;
    }

    pub(crate) async fn cut_connections(&self) {
        let name = self.database.settings().database;
        let cut = format!("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}'");
        self.execute_outside(cut).await;
    }

    async fn execute_outside(&self, sql: String) {
        let server = ConnectSettings { database: "postgres".to_owned(), ..self.database.settings() };
        let mut server = server.connect_directly().await.unwrap();
        server.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.unwrap();
        server.close().await.unwrap();
    }

    /// The spool's files with this extension, oldest first.
    pub(crate) fn spool_files(&self, extension: &str) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.spool.path()).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<PathBuf> =
            files.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
        files.sort();
        files
    }
}

impl Gateway {
    /// A request to the column's source, with its secret.
    pub(crate) fn request(&self) -> RequestBuilder {
        self.request_to(PATH).header("X-Clay-Signature", SECRET)
    }

    /// A request without a credential.
    pub(crate) fn request_to(&self, path: &str) -> RequestBuilder {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        self.client.post(url).header("Content-Type", "application/json")
    }

    /// Posts a body to the column's source.
    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> Answer {
        Answer::of(self.request().body(body)).await
    }

    /// Sends bytes on a connection of their own.
    pub(crate) async fn connect(&self, bytes: impl AsRef<[u8]>) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(bytes.as_ref()).await.unwrap();
        stream
    }

    /// What the readiness probe says.
    pub(crate) fn verdict(&self) -> Verdict {
        self.probes[0].check()
    }

    pub(crate) async fn wait_until_drained(&self) {
        self.wait_for_verdict("the spool to be drained", |verdict| verdict == &Verdict::ready()).await;
    }

    pub(crate) async fn wait_for_verdict(&self, what: &str, wanted: impl Fn(&Verdict) -> bool) {
        wait_for(what, LIMIT, async || {
            let verdict = self.verdict();
            if wanted(&verdict) { Ok(()) } else { Err(verdict) }
        })
        .await;
    }

    /// Asks it to stop.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Stops it, without a look at the books.
    pub(crate) async fn halt(self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, self.running).await.expect("it stops").unwrap().unwrap();
    }

    /// Stops it; the books have to balance.
    pub(crate) async fn stop(self, site: &Site) {
        self.halt().await;
        crate::books::assert_balanced(site).await;
    }
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response = tokio::time::timeout(LIMIT, request.send()).await.expect("an answer in time").unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let path = response.url().path().to_owned();
        let body = response.bytes().await.unwrap();
        let answer = Self { status, headers, json: serde_json::from_slice(&body).unwrap_or(Value::Null) };
        crate::openapi::assert_documented(&path, &answer);
        answer
    }

    pub(crate) fn text(&self, member: &str) -> &str {
        self.json[member].as_str().unwrap_or_else(|| panic!("{member} of {self:?}"))
    }

    pub(crate) fn id(&self) -> &str {
        self.text("id")
    }

    /// The status word of a callback that was taken.
    pub(crate) fn status_word(&self) -> &str {
        assert_eq!(self.status, 200, "{self:?}");
        self.text("status")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("{name} of {self:?}")).to_str().unwrap()
    }
}

/// Everything that comes until the other side closes.
pub(crate) async fn read_to_end(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut bytes)).await.expect("the connection is closed");
    // A reset after the answer closes it as well.
    let _length_or_reset = read;
    String::from_utf8_lossy(&bytes).into_owned()
}
