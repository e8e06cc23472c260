//! Whether Postgres takes commits, as this process knows it.
//!
//! Whoever sees a commit fail says so; from then on nobody waits for Postgres: callbacks go straight to the spool and
//! one prober looks for it. It comes back for everyone at once.
//!
//! A probe can succeed where commits fail. Every relapse therefore doubles the pause before the next probe, and the log
//! speaks of a return only once it has lasted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::db::intake::IntakeConnection;
use common::db::{ConnectSettings, DbError};
use common::telemetry::logs::chain;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const PROBE_EVERY: Duration = Duration::from_millis(250);
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// How long commits must have worked before the next failure is a new one.
const STEADY_AFTER: Duration = Duration::from_secs(5);
const RELAPSE_PAUSE_MAX: Duration = Duration::from_secs(15);

/// The state of the database, shared by writers, drain and readiness.
#[derive(Debug)]
pub(crate) struct DatabaseHealth {
    up: watch::Sender<bool>,
    /// The log has said that it is down, and not yet that it is back.
    announced: AtomicBool,
}

impl DatabaseHealth {
    /// Down until the first probe.
    pub(crate) fn new() -> Self {
        Self { up: watch::Sender::new(false), announced: AtomicBool::new(false) }
    }

    /// Whether commits are worth trying.
    pub(crate) fn is_up(&self) -> bool {
        *self.up.borrow()
    }

    /// A commit failed: the prober takes over.
    pub(crate) fn went_down(&self, error: &DbError) {
        if self.up.send_replace(false) {
            self.announce_down(error);
        }
    }

    /// Says once in the log that Postgres takes no commits.
    pub(crate) fn announce_down(&self, error: &DbError) {
        if self.announced.swap(true, Ordering::Relaxed) {
            tracing::debug!(error = %chain(error), "Postgres takes no commits again");
        } else {
            tracing::warn!(error = %chain(error), "Postgres takes no commits; callbacks go to the spool");
        }
    }

    fn announce_up(&self) {
        if self.announced.swap(false, Ordering::Relaxed) {
            tracing::info!("Postgres takes commits");
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
        self.up.send_replace(true);
        Ok(())
    }

    /// Looks for the database whenever it is away, until `shutdown`.
    pub(crate) async fn keep_probing(&self, settings: &ConnectSettings, shutdown: &CancellationToken) {
        let probing = async {
            let mut relapses = Relapses::default();
            loop {
                if self.is_up() && tokio::time::timeout(STEADY_AFTER, self.wait_for(false)).await.is_err() {
                    relapses = Relapses::default();
                    self.announce_up();
                }
                self.wait_for(false).await;
                tokio::time::sleep(relapses.next_pause()).await;
                while let Err(error) = self.probe(settings).await {
                    tracing::debug!(error = %chain(&error), "Postgres is still away");
                    tokio::time::sleep(PROBE_EVERY).await;
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = probing => {}
        }
    }
}

/// How long to wait before the probe after a failure: not at all after a steady time, then ever longer.
#[derive(Default)]
struct Relapses {
    pause: Duration,
}

impl Relapses {
    fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).clamp(PROBE_EVERY, RELAPSE_PAUSE_MAX);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_relapse_waits_longer_up_to_a_limit() {
        let mut relapses = Relapses::default();
        let pauses_ms: Vec<u128> = (0..9).map(|_| relapses.next_pause().as_millis()).collect();
        assert_eq!(pauses_ms, [0, 250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
    }

    #[test]
    fn an_outage_is_announced_once_however_often_it_flickers() {
        let health = DatabaseHealth::new();
        let announced = |health: &DatabaseHealth| health.announced.load(Ordering::Relaxed);
        for _ in 0..3 {
            health.up.send_replace(true);
            health.went_down(&DbError::timed_out(PROBE_LIMIT));
            assert!(announced(&health) && !health.is_up());
        }
        health.announce_up();
        assert!(!announced(&health), "the next one is a new one");
    }
}
