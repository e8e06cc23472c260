//! The intake as a whole: built, then run until its token is cancelled. Holds no process-wide state, so that a process
//! can host it beside other parts.
//!
//! Stop, in this order: the listener answers what it has taken and closes; the writers commit what waits; the drain
//! ends after its current statement. What is left in the spool is reported, and drained by the next start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::{App, HttpServer, web};
use common::config::Config;
use common::db::Database;
use common::db::intake::Books;
use common::queue::Doorbell;
use common::telemetry::Probe;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::commit::clock::DatabaseClock;
use crate::commit::health::DatabaseHealth;
use crate::commit::mailbox::Mailbox;
use crate::commit::queue::Queue;
use crate::commit::writer::{Shared, Writer};
use crate::http::admission::Admission;
use crate::http::receive::{Gate, receive};
use crate::readiness::IntakeProbe;
use crate::rows::receive::RowGate;
use crate::sources::{ChangedPolicy, Sources};
use crate::spool::drain::Drain;
use crate::spool::{Spool, SpoolError, word};
use crate::{commit, telemetry};

/// How long an idle connection is kept open.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a closing connection may take.
const DISCONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The spool gets as long as a commit, but a disk may always take this long.
const SPOOL_LIMIT_MIN: Duration = Duration::from_secs(2);
const SPOOL_PROBE_EVERY: Duration = Duration::from_secs(1);

/// Why the intake cannot start. Postgres being away is no reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The spool cannot be used.
    #[error("the spool cannot be opened")]
    Spool(#[from] SpoolError),
    /// The listener could not be opened.
    #[error("the public listener cannot use {listen}; choose another address with ingest.listen")]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Why the intake ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The listener broke.
    #[error("the public listener ended")]
    Listener(#[source] std::io::Error),
    /// A part of it panicked.
    #[error("a part of the intake ended")]
    Part(#[source] tokio::task::JoinError),
}

/// The intake, listening but not yet answering.
pub struct Application {
    shared: Arc<Shared>,
    database: Database,
    server: Server,
    port: u16,
    writers: i16,
    shutdown: CancellationToken,
}

impl Application {
    /// Opens the spool and the listener, and looks once for Postgres (for at most two seconds). Nothing is answered
    /// before [`Application::run_until_stopped`].
    ///
    /// # Errors
    /// [`StartError`]; never because Postgres is away.
    pub async fn build(
        config: &Config,
        database: Database,
        doorbell: Doorbell,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        telemetry::register(config);
        let commit_timeout = config.ingest.limits.commit_timeout;
        let shared = Arc::new(Shared {
            queue: Queue::default(),
            health: DatabaseHealth::new(),
            clock: DatabaseClock::default(),
            spool: Spool::open(&config.spool.dir, config.spool.max_bytes, commit_timeout.max(SPOOL_LIMIT_MIN))?,
            settings: database.settings().clone(),
            commit_timeout,
            policy: Box::new(ChangedPolicy::new(config)),
            doorbell,
            partition_missing: Notify::new(),
        });
        if let Err(error) = shared.health.probe(&shared.settings).await {
            shared.health.announce_down(&error);
        }
        let (server, port) = listen(config, &shared, &shutdown)?;
        // The configuration allows far fewer.
        let writers = i16::try_from(config.ingest.writers).unwrap_or(i16::MAX);
        Ok(Self { shared, database, server, port, writers, shutdown })
    }

    /// The public port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What `/readyz` asks.
    pub fn probes(&self) -> Vec<Arc<dyn Probe>> {
        vec![Arc::new(IntakeProbe(Arc::clone(&self.shared)))]
    }

    /// Answers until the token is cancelled, then until everything that was taken is answered.
    ///
    /// # Errors
    /// [`RunError`] when a part of it ended on its own. What was answered with 2xx is durable in any case.
    pub async fn run_until_stopped(self) -> Result<(), RunError> {
        let Self { shared, database, server, writers, shutdown, .. } = self;
        let handle = server.handle();
        let mut parts = JoinSet::new();
        for number in 0..writers {
            parts.spawn(Writer::new(Arc::clone(&shared), books(&shared, number)).run());
        }
        parts.spawn(Drain::new(Arc::clone(&shared), books(&shared, writers)).run(shutdown.clone()));
        parts.spawn(watch(Arc::clone(&shared), shutdown.clone()));
        parts.spawn(keep_partitions(Arc::clone(&shared), shutdown.clone()));
        parts.spawn(keep_speaking(Arc::clone(&shared), database.clone(), shutdown.clone()));

        let mut server = std::pin::pin!(server);
        let mut served = None;
        let broken = tokio::select! {
            () = shutdown.cancelled() => None,
            ended = &mut server => { served = Some(ended); None }
            Some(ended) = parts.join_next() => ended.err(),
        };
        if served.is_none() {
            // Answers what it has taken; the writers are still there.
            let stop = handle.stop(true);
            served = Some(tokio::join!(server, stop).0);
        }
        shutdown.cancel();
        shared.queue.close();
        let mut broken = broken;
        while let Some(ended) = parts.join_next().await {
            broken = broken.or(ended.err());
        }
        report(&shared);
        word::say_last(&shared, &database).await;
        if let Some(error) = broken {
            return Err(RunError::Part(error));
        }
        served.unwrap_or(Ok(())).map_err(RunError::Listener)
    }
}

fn books(shared: &Shared, writer: i16) -> Books {
    Books { instance: shared.spool.instance(), writer }
}

/// Looks for Postgres while it is away, and for the disk while it is failing.
async fn watch(shared: Arc<Shared>, shutdown: CancellationToken) {
    let probe_disk = async {
        loop {
            tokio::time::sleep(SPOOL_PROBE_EVERY).await;
            shared.spool.probe().await;
        }
    };
    tokio::select! {
        () = shared.health.keep_probing(&shared.settings, &shutdown) => {}
        () = probe_disk => {}
    }
}

async fn keep_partitions(shared: Arc<Shared>, shutdown: CancellationToken) {
    commit::partitions::keep(&shared, &shutdown).await;
}

async fn keep_speaking(shared: Arc<Shared>, database: Database, shutdown: CancellationToken) {
    word::keep_saying(&shared, &database, &shutdown).await;
}

fn report(shared: &Shared) {
    match shared.spool.entries() {
        0 => tracing::info!("the intake has stopped; its spool is empty"),
        left => tracing::warn!(entries = left, "the intake has stopped; its spool is drained by the next start"),
    }
}

fn listen(config: &Config, shared: &Arc<Shared>, shutdown: &CancellationToken) -> Result<(Server, u16), StartError> {
    let ingest = &config.ingest;
    let gate = web::Data::new(Gate {
        sources: Sources::new(config),
        admission: Admission::new(ingest.limits.in_flight, ingest.limits.in_flight_bytes),
        headers_max: ingest.limits.headers,
        body_timeout: ingest.limits.body_timeout,
        shared: Arc::clone(shared),
        rows: RowGate::new(config, shared, shutdown),
    });
    let bind = |source| StartError::Bind { listen: ingest.listen, source };
    let commit_timeout = ingest.limits.commit_timeout;
    let longest = ingest.limits.body_timeout + commit_timeout + commit_timeout.max(SPOOL_LIMIT_MIN);
    // Called on each thread that answers.
    let app = move || {
        let mailbox = Arc::new(Mailbox::default());
        actix_web::rt::spawn(Arc::clone(&mailbox).hand_on());
        App::new().app_data(gate.clone()).app_data(web::Data::from(mailbox)).default_service(web::to(receive))
    };
    let server = HttpServer::new(app)
        .workers(ingest.threads)
        .keep_alive(KEEP_ALIVE)
        .client_request_timeout(ingest.limits.header_timeout)
        .client_disconnect_timeout(DISCONNECT_LIMIT)
        .shutdown_timeout(longest.as_secs())
        .disable_signals()
        .bind(ingest.listen)
        .map_err(bind)?;
    let port = server.addrs().first().map_or(0, SocketAddr::port);
    Ok((server.run(), port))
}
