//! The workspace: a server on loopback with the tables, and the rate that they share.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpServer, web};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::counts::Counts;
use crate::limit::{Bucket, Limit};
use crate::lock;
use crate::rows::Keep;
use crate::table::{State, Table, TableSettings};
use crate::webhook;

/// Bodies above this are not even read.
const BODY_BYTES_MAX: usize = 16 << 20;
/// The path of every webhook, up to its id.
const WEBHOOK_PATH: &str = "/v3/sources/webhook/pull-in-data-from-a-webhook-";

/// What a workspace is like. The default is Clay as it is documented.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The port on 127.0.0.1; 0: a free one.
    pub port: u16,
    /// The rate that all tables share; `None`: there is none.
    pub limit: Option<Limit>,
    /// Bytes of a row.
    pub row_bytes_max: usize,
    /// What is answered above them: 413, or 400 as the documentation says.
    pub too_large_status: u16,
    /// How long an answer takes.
    pub latency: Duration,
    /// What is kept of the rows.
    pub keep: Keep,
    /// Threads that serve.
    pub threads: usize,
    /// Another number gives rows another fate, and tables other URLs.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            port: 0,
            limit: Some(Limit::CLAY),
            row_bytes_max: 100_000,
            too_large_status: 413,
            latency: Duration::ZERO,
            keep: Keep::Rows,
            threads: 1,
            seed: 1,
        }
    }
}

/// A Clay workspace on 127.0.0.1. Ends when it is dropped.
pub struct FakeClay {
    address: SocketAddr,
    keep: Keep,
    seed: u64,
    client: reqwest::Client,
    workspace: Arc<Workspace>,
    server: ServerHandle,
}

/// What its requests share.
pub(crate) struct Workspace {
    tables: RwLock<HashMap<String, Arc<State>>>,
    bucket: Mutex<Bucket>,
    pub(crate) row_bytes_max: usize,
    pub(crate) too_large_status: u16,
    pub(crate) latency: Duration,
}

impl FakeClay {
    /// Starts to listen. Needs a tokio runtime, in which it runs.
    ///
    /// # Errors
    /// When the port cannot be had, or no client can be built.
    pub async fn start(settings: Settings) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, settings.port))?;
        let address = listener.local_addr()?;
        let workspace = Arc::new(Workspace {
            tables: RwLock::default(),
            bucket: Mutex::new(Bucket::new(settings.limit, Instant::now())),
            row_bytes_max: settings.row_bytes_max,
            too_large_status: settings.too_large_status,
            latency: settings.latency,
        });
        let shared = web::Data::from(Arc::clone(&workspace));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(shared.clone())
                .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
                .default_service(web::to(webhook::receive))
        })
        .workers(settings.threads.max(1))
        .shutdown_timeout(0)
        .disable_signals()
        .listen(listener)?
        .run();
        let handle = server.handle();
        tokio::spawn(server);
        let client = client().map_err(std::io::Error::other)?;
        Ok(Self { address, keep: settings.keep, seed: settings.seed, client, workspace, server: handle })
    }

    /// Adds a table. Its webhook's URL hangs on `name` and the seed alone, and on the port.
    pub fn add_table(&self, name: &str, settings: TableSettings) -> Table {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_be_bytes());
        hash.update(name);
        let id: [u8; 32] = hash.finalize().into();
        let id = Uuid::from_slice(id.get(..16).unwrap_or_default()).unwrap_or_default();
        let path = format!("{WEBHOOK_PATH}{id}");
        let url = format!("http://{}{path}", self.address);
        let table = Table::new(url, settings, self.keep, self.seed, &self.client);
        let mut tables = self.workspace.tables.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        tables.insert(path, Arc::clone(&table.state));
        table
    }

    /// Another rate from now on, with a full bucket; `None`: there is none.
    pub fn set_limit(&self, limit: Option<Limit>) {
        *lock(&self.workspace.bucket) = Bucket::new(limit, Instant::now());
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What all tables counted, in one.
    pub fn counts(&self) -> Counts {
        let tables = self.workspace.tables.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut sum = Counts::default();
        for table in tables.values() {
            table.count(|counts| sum.add(counts));
        }
        sum
    }
}

impl Drop for FakeClay {
    fn drop(&mut self) {
        // The command is sent at once; nobody has to wait for its end.
        drop(self.server.stop(false));
    }
}

impl Workspace {
    pub(crate) fn table(&self, path: &str) -> Option<Arc<State>> {
        self.tables.read().unwrap_or_else(std::sync::PoisonError::into_inner).get(path).cloned()
    }

    /// Whether a request keeps to the rate.
    pub(crate) fn pass(&self, now: Instant) -> bool {
        lock(&self.bucket).take(now)
    }
}

/// What the columns call with: no proxy, no redirects.
fn client() -> reqwest::Result<reqwest::Client> {
    // A second installation in one process is refused; the first stays.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()
}
