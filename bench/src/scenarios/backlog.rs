//! What is left to do when the load is over, and how one knows that it is done.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use common::db::replay;
use tokio::task::JoinSet;

use super::drive::millis;
use super::{Accounts, Claygate, Trouble};
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
/// Replays that are under way at once in a storm.
const REPLAYS_AT_ONCE: u32 = 4;

/// What an answer leaves to do.
pub(super) enum Backlog<'a> {
    /// Nothing: it is the end.
    None,
    /// Publishing.
    Published(&'a mut RunDatabase),
    /// Everything up to the recorded outcomes.
    Delivered(&'a mut RunDatabase, &'a mut Destinations),
}

impl Backlog<'_> {
    /// Waits until nothing of callbacks 0 to `callbacks` - 1 is left.
    pub(super) async fn wait_until_empty(&mut self, callbacks: u64) -> anyhow::Result<()> {
        match self {
            Self::None => Ok(()),
            Self::Published(database) => database.wait_until_published(DRAIN_LIMIT).await,
            Self::Delivered(database, destinations) => {
                while let Some(done) = destinations.trials.join_next().await {
                    done??;
                }
                let arrived = async {
                    while !destinations.refuses_all && !destinations.have_all(&destinations.report().await?, callbacks)
                    {
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

    /// The measurement of `length` begins: latencies before this do not count, and the trouble starts.
    pub(super) async fn mark(&mut self, length: Duration) -> anyhow::Result<()> {
        let Self::Delivered(database, destinations) = self else { return Ok(()) };
        let address = destinations.address;
        get(address, destination::MARK).await?;
        match destinations.trouble {
            Some(Trouble::ReplayStorm) => {
                get(address, destination::TAKE_ALL).await?;
                destinations.refuses_all = false;
                destinations.trials = storm(database).await?;
            }
            Some(Trouble::FailingDestination) => {
                get(address, destination::FAIL).await?;
                destinations.trials.spawn(async move {
                    tokio::time::sleep(length / 3).await;
                    get(address, destination::TAKE_ALL).await.map(drop)
                });
            }
            _ => {}
        }
        Ok(())
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
    trouble: Option<Trouble>,
    /// Until the measurement begins.
    refuses_all: bool,
    /// What makes trouble during the measurement.
    trials: JoinSet<anyhow::Result<()>>,
}

impl Destinations {
    pub(super) async fn start(claygate: &Claygate, folder: &Path) -> anyhow::Result<Self> {
        let count = claygate.destinations;
        let mut plan = destination::Plan { destinations: count, hung: None, delay_ms: 0, refuse: None };
        match claygate.trouble {
            Some(Trouble::HungDestination) => plan.hung = Some(0),
            Some(Trouble::SlowDestination(delay)) => plan.delay_ms = millis(delay),
            Some(Trouble::ReplayStorm) => plan.refuse = Some(400),
            Some(Trouble::FailingDestination | Trouble::SlowDisk(_) | Trouble::HeldSnapshot | Trouble::Stored(_))
            | None => {}
        }
        let (hung, refuses_all, trouble) = (plan.hung, plan.refuse.is_some(), claygate.trouble);
        let role = Role::Destination(plan);
        let mut process = RoleProcess::start("destination", &role, folder)?;
        let listening: destination::Listening = process.hear().await?;
        let (address, trials) = (listening.address, JoinSet::new());
        Ok(Self { process, address, count, hung, trouble, refuses_all, trials })
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
    pub(super) async fn compare(&self, sent: &Report, database: &mut RunDatabase) -> anyhow::Result<Accounts> {
        let (seen, sent) = (self.report().await?, sent.callbacks);
        ensure!(seen.numbers_below == sent, "numbers up to {} arrived, {sent} were sent", seen.numbers_below);
        let mut accounts = Accounts { refused: seen.refused, ..Accounts::default() };
        for number in self.healthy() {
            let of = |counts: &[u64]| counts.get(number).copied().unwrap_or_default();
            let (callbacks, requests) = (of(&seen.callbacks), of(&seen.requests));
            ensure!(callbacks == sent, "destination {number} saw {callbacks} of {sent} callbacks");
            ensure!(requests == callbacks, "destination {number} got {} callbacks again", requests - callbacks);
            accounts.owed += sent;
            accounts.taken += callbacks;
            accounts.repeated += requests - callbacks;
        }
        let (delivered, attempts) = database.delivered().await?;
        let expected = sent * self.healthy().count() as u64;
        ensure!(delivered == expected, "{delivered} deliveries are recorded as delivered instead of {expected}");
        ensure!(attempts >= expected, "{attempts} attempts are recorded instead of {expected}");
        Ok(accounts)
    }
}

/// Sends everything again that was given up, a few at once, as an operator with a loop in a shell would.
async fn storm(run: &mut RunDatabase) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let dead = run.dead().await?;
    let database = run.pool(REPLAYS_AT_ONCE);
    let mut replaying = JoinSet::new();
    for share in dead.chunks(dead.len().div_ceil(REPLAYS_AT_ONCE as usize).max(1)) {
        let (database, share) = (database.clone(), share.to_vec());
        replaying.spawn(async move {
            for id in share {
                replay::replay_delivery(&database, id, None).await?;
            }
            Ok(())
        });
    }
    Ok(replaying)
}
