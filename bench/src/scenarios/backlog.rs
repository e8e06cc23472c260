//! What is left to do when the load is over, and how one knows that it is done.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use super::{Claygate, Trouble};
use crate::measure::{Group, Quantiles};
use crate::rig::postgres::RunDatabase;
use crate::rig::process::RoleProcess;
use crate::rig::services::get;
use crate::roles::load::Report;
use crate::roles::{Role, destination};

/// How long a backlog may take to be worked off.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
/// How long what has arrived may take to be recorded.
const RECORD_LIMIT: Duration = Duration::from_secs(10);
const POLL_EVERY: Duration = Duration::from_millis(20);

/// What an answer leaves to do.
pub(super) enum Backlog<'a> {
    /// Nothing: it is the end.
    None,
    /// Publishing.
    Published(&'a mut RunDatabase),
    /// Everything up to the recorded outcomes.
    Delivered(&'a mut RunDatabase, &'a Destinations),
}

impl Backlog<'_> {
    /// Waits until nothing of callbacks 0 to `callbacks` - 1 is left.
    pub(super) async fn wait_until_empty(&mut self, callbacks: u64) -> anyhow::Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Published(database) => database.wait_until_published(DRAIN_LIMIT).await,
            Self::Delivered(database, destinations) => {
                let arrived = async {
                    while !destinations.have_all(&destinations.report().await?, callbacks) {
                        tokio::time::sleep(POLL_EVERY).await;
                    }
                    anyhow::Ok(())
                };
                // If something never arrives, the database knows why.
                if let Ok(arrived) = tokio::time::timeout(DRAIN_LIMIT, arrived).await {
                    arrived?;
                }
                database.wait_until_delivered(destinations.hung, RECORD_LIMIT).await
            }
        }
    }

    /// Latencies before this do not count.
    pub(super) async fn mark(&self) -> anyhow::Result<()> {
        match self {
            Self::Delivered(_, destinations) => get(destinations.address, destination::MARK).await.map(drop),
            _ => Ok(()),
        }
    }

    /// From the moment that callbacks were to be sent at to their arrival.
    pub(super) async fn latency(&self) -> anyhow::Result<Option<Quantiles>> {
        match self {
            Self::Delivered(_, destinations) => Ok(Some(destinations.report().await?.latency)),
            _ => Ok(None),
        }
    }
}

/// The destinations of a run.
pub(super) struct Destinations {
    process: RoleProcess,
    pub(super) address: SocketAddr,
    pub(super) count: usize,
    pub(super) hung: Option<usize>,
}

impl Destinations {
    pub(super) async fn start(claygate: &Claygate, folder: &Path) -> anyhow::Result<Self> {
        let (count, hung) = (claygate.destinations, (claygate.trouble == Some(Trouble::HungDestination)).then_some(0));
        let role = Role::Destination(destination::Plan { destinations: count, hung, delay_ms: 0 });
        let mut process = RoleProcess::start("destination", &role, folder)?;
        let listening: destination::Listening = process.hear().await?;
        Ok(Self { process, address: listening.address, count, hung })
    }

    pub(super) fn group(&self) -> Group {
        Group::tree("destination", self.process.pid())
    }

    pub(super) async fn end(self) -> anyhow::Result<()> {
        self.process.end().await
    }

    async fn report(&self) -> anyhow::Result<destination::Report> {
        let (_, body) = get(self.address, destination::REPORT).await?;
        Ok(serde_json::from_str(&body)?)
    }

    fn healthy(&self) -> impl Iterator<Item = usize> {
        let hung = self.hung;
        (0..self.count).filter(move |number| Some(*number) != hung)
    }

    /// Whether each has seen callbacks 0 to `callbacks` - 1.
    fn have_all(&self, report: &destination::Report, callbacks: u64) -> bool {
        self.healthy().all(|number| report.callbacks.get(number).is_some_and(|seen| *seen >= callbacks))
    }

    /// Whether what was answered is what arrived and what is recorded: each callback once at each destination.
    pub(super) async fn compare(&self, sent: &Report, database: &mut RunDatabase) -> anyhow::Result<()> {
        let (seen, sent) = (self.report().await?, sent.callbacks);
        ensure!(seen.numbers_below == sent, "numbers up to {} arrived, {sent} were sent", seen.numbers_below);
        for number in self.healthy() {
            let of = |counts: &[u64]| counts.get(number).copied().unwrap_or_default();
            let (callbacks, requests) = (of(&seen.callbacks), of(&seen.requests));
            ensure!(callbacks == sent, "destination {number} saw {callbacks} of {sent} callbacks");
            ensure!(requests == callbacks, "destination {number} got {} callbacks again", requests - callbacks);
        }
        let (delivered, attempts) = database.delivered().await?;
        let expected = sent * self.healthy().count() as u64;
        ensure!(delivered == expected, "{delivered} deliveries are recorded as delivered instead of {expected}");
        ensure!(attempts >= expected, "{attempts} attempts are recorded instead of {expected}");
        Ok(())
    }
}
