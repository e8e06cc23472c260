//! Whether Postgres takes commits, as this process knows it.
//!
//! Whoever sees a commit fail says so; from then on nobody waits for Postgres: callbacks go straight to the spool and
//! one prober looks for it. It comes back for everyone at once.

use std::time::Duration;

use common::db::intake::IntakeConnection;
use common::db::{ConnectSettings, DbError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const PROBE_EVERY: Duration = Duration::from_millis(250);
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// The state of the database, shared by writers, drain and readiness.
#[derive(Debug)]
pub(crate) struct DatabaseHealth {
    up: watch::Sender<bool>,
}

impl DatabaseHealth {
    /// Down until the first probe.
    pub(crate) fn new() -> Self {
        Self { up: watch::Sender::new(false) }
    }

    /// Whether commits are worth trying.
    pub(crate) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// A commit failed: the prober takes over.
    pub(crate) fn went_down(&self, error: &DbError) {
        if self.up.send_replace(false) {
            tracing::warn!(error = %chain(error), "Postgres takes no commits; callbacks go to the spool");
        }
    }

    /// Waits until the database is up.
    pub(crate) async fn wait_until_up(&self) {
        self.wait_for(true).await;
    }

    async fn wait_for(&self, state: bool) {
        // The sender lives in `self`, so the channel cannot close.
        let mut states = self.up.subscribe();
        let _open = states.wait_for(|up| *up == state).await;
    }

    /// Tries the database once.
    pub(crate) async fn probe(&self, settings: &ConnectSettings) -> Result<(), DbError> {
        let probe = async {
            let mut connection = IntakeConnection::open(settings).await?;
            connection.probe().await?;
            connection.close().await;
            Ok(())
        };
        super::session::within(PROBE_LIMIT, probe).await?;
        if !self.up.send_replace(true) {
            tracing::info!("Postgres takes commits");
        }
        Ok(())
    }

    /// Looks for the database whenever it is away, until `shutdown`.
    pub(crate) async fn keep_probing(&self, settings: &ConnectSettings, shutdown: &CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wait_for(false) => {}
            }
            if let Err(error) = self.probe(settings).await {
                tracing::debug!(error = %chain(&error), "Postgres is still away");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(PROBE_EVERY) => {}
            }
        }
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
