//! One run of one scenario: start what is measured, warm it up, work off what that left, measure, compare the books.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::{Claygate, Measurement, Timing, Trouble};
use crate::measure::{Group, Sample, memory};
use crate::rig::baseline::Store;
use crate::rig::postgres::{Expected, RunDatabase};
use crate::rig::process::RoleProcess;
use crate::rig::services::{Services, Setup, Shape, get};
use crate::rig::{Rig, SECRET};
use crate::roles::load::{Pace, Plan, Proof, Report, Warm};
use crate::roles::{Role, destination, http_limit, postgres_writer};

/// How long a backlog may take to be worked off.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// When memory is looked at: near the end of the load.
const MEMORY_AT: f64 = 0.9;
const BODY_BYTES: usize = 600;

/// The plan of a load that sends signed bodies of the usual length.
fn plan(addresses: Vec<SocketAddr>, pace: Pace, timing: Timing) -> Plan {
    Plan {
        addresses,
        path: "/hmac".to_owned(),
        secret: SECRET.to_owned(),
        proof: Proof::Hmac,
        body_bytes: BODY_BYTES,
        half_repeats: false,
        stamped: false,
        pace,
        warm_up_ms: millis(timing.warm_up),
        measured_ms: millis(timing.measured),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn bench_group() -> Group {
    Group { name: "bench", pid: std::process::id(), with_descendants: false }
}

pub(super) async fn http_limit(rig: &Rig, name: &str, timing: Timing) -> anyhow::Result<Measurement> {
    let folder = rig.run_folder(name)?;
    let role = Role::HttpLimit(http_limit::Plan { secret: SECRET.to_owned() });
    let mut server = RoleProcess::start("http-limit", &role, &folder)?;
    let listening: http_limit::Listening = server.hear().await?;
    let groups = [Group::tree("handler", server.pid())];
    let plan = plan(vec![listening.address], Pace::Closed { connections: 64 }, timing);
    let (_, measured) = load(&folder, plan, &groups, Backlog::None).await?;
    server.end().await?;
    Ok(measured)
}

pub(super) async fn express(
    rig: &Rig,
    name: &str,
    timing: Timing,
    store: Store,
    pace: Pace,
) -> anyhow::Result<Measurement> {
    let folder = rig.run_folder(name)?;
    let baselines = rig.baselines.as_ref().context("there is no Node")?;
    let database = rig.postgres.create_empty().await?;
    let (process, address) = baselines.start(store, database.url(), &folder).await?;
    let mut groups = vec![Group::tree("express", process.pid())];
    if store == Store::Postgres {
        groups.push(Group::tree("postgres", rig.postgres.pid()));
    }
    let (_, measured) = load(&folder, plan(vec![address], pace, timing), &groups, Backlog::None).await?;
    // It has no way to stop in order: SIGTERM ends it, and a dropped process is killed.
    drop(process);
    rig.postgres.remove(database).await?;
    Ok(measured)
}

pub(super) async fn postgres_alone(
    rig: &Rig,
    name: &str,
    timing: Timing,
    clients: i16,
    rows: usize,
) -> anyhow::Result<Measurement> {
    let folder = rig.run_folder(name)?;
    let mut database = rig.postgres.create().await?;
    let role = Role::PostgresWriter(postgres_writer::Plan {
        url: database.url().clone(),
        clients,
        rows,
        body_bytes: BODY_BYTES,
        warm_up_ms: millis(timing.warm_up),
        measured_ms: millis(timing.measured),
    });
    let mut writer = RoleProcess::start("postgres-writer", &role, &folder)?;
    writer.hear::<bool>().await?;
    let groups = [Group::tree("writer", writer.pid()), Group::tree("postgres", rig.postgres.pid()), bench_group()];
    let before = Sample::take()?;
    writer.go().await?;
    tokio::time::sleep(timing.measured.mul_f64(MEMORY_AT)).await;
    let pss_mib = memory(&groups)?;
    let report: postgres_writer::Report = writer.hear().await?;
    let usage = before.until(&Sample::take()?, &groups);
    writer.end().await?;
    database.check_books(Expected { callbacks: report.stored, destinations: None }).await?;
    rig.postgres.remove(database).await?;
    let measured = Measurement::new(report.measured, report.seconds, report.latency, &usage);
    Ok(Measurement { pss_mib, ..measured })
}

pub(super) async fn claygate(
    rig: &Rig,
    name: &str,
    timing: Timing,
    claygate: &Claygate,
) -> anyhow::Result<Measurement> {
    let folder = rig.run_folder(name)?;
    let mut database = rig.postgres.create().await?;
    if let Some(Trouble::SlowDisk(flush)) = claygate.trouble {
        database.slow_down_commits(flush).await?;
    }
    let delivers = !matches!(claygate.shape, Shape::Ingest { .. });
    let destinations = match delivers {
        true => Some(Destinations::start(claygate, &folder).await?),
        false => None,
    };
    let setup = Setup {
        shape: claygate.shape,
        database: database.url().clone(),
        destinations: destinations.as_ref().map(|started| (started.address, started.count)),
        writers: claygate.writers,
    };
    let services = Services::start(rig, &setup, &folder).await?;
    let snapshot = match claygate.trouble {
        Some(Trouble::HeldSnapshot) => Some(database.hold_snapshot().await?),
        _ => None,
    };
    let mut groups = services.groups();
    groups.push(Group::tree("postgres", rig.postgres.pid()));
    groups.extend(destinations.as_ref().map(|started| Group::tree("destination", started.process.pid())));
    let backlog = match &destinations {
        Some(destinations) => Backlog::Delivered { database: &mut database, destinations },
        None => Backlog::None,
    };
    let load_plan = Plan {
        path: if claygate.proof == Proof::Token { "/token" } else { "/hmac" }.to_owned(),
        proof: claygate.proof,
        body_bytes: claygate.body_bytes,
        half_repeats: claygate.half_repeats,
        stamped: delivers,
        ..plan(services.intakes.clone(), claygate.pace, timing)
    };
    let (report, measured) = load(&folder, load_plan, &groups, backlog).await?;
    drop(snapshot);
    services.stop().await.context("stopping claygate")?;
    let count = destinations.as_ref().map(|started| started.count as u64);
    let expected = Expected { callbacks: report.callbacks, destinations: count };
    database.check_books(expected).await?;
    if let Some(destinations) = destinations {
        destinations.compare(&report, &mut database).await?;
        destinations.process.end().await?;
    }
    rig.postgres.remove(database).await?;
    Ok(measured)
}

/// The destinations of a run.
struct Destinations {
    process: RoleProcess,
    address: SocketAddr,
    count: usize,
    hung: Option<usize>,
}

impl Destinations {
    async fn start(claygate: &Claygate, folder: &Path) -> anyhow::Result<Self> {
        let (count, hung) = (claygate.destinations, (claygate.trouble == Some(Trouble::HungDestination)).then_some(0));
        let role = Role::Destination(destination::Plan { destinations: count, hung, delay_ms: 0 });
        let mut process = RoleProcess::start("destination", &role, folder)?;
        let listening: destination::Listening = process.hear().await?;
        Ok(Self { process, address: listening.address, count, hung })
    }

    async fn report(&self) -> anyhow::Result<destination::Report> {
        let (_, body) = get(self.address, destination::REPORT).await?;
        Ok(serde_json::from_str(&body)?)
    }

    /// Latencies before this do not count.
    async fn mark(&self) -> anyhow::Result<()> {
        get(self.address, destination::MARK).await.map(drop)
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
    async fn compare(&self, sent: &Report, database: &mut RunDatabase) -> anyhow::Result<()> {
        let seen = self.report().await?;
        ensure!(
            seen.numbers_below == sent.callbacks,
            "numbers up to {} arrived, {} were sent",
            seen.numbers_below,
            sent.callbacks
        );
        for number in self.healthy() {
            let of = |counts: &[u64]| counts.get(number).copied().unwrap_or_default();
            let (callbacks, requests) = (of(&seen.callbacks), of(&seen.requests));
            ensure!(
                callbacks == sent.callbacks,
                "destination {number} saw {callbacks} of {} callbacks",
                sent.callbacks
            );
            ensure!(requests == callbacks, "destination {number} got {} callbacks twice", requests - callbacks);
        }
        let (delivered, attempts) = database.delivered().await?;
        let expected = sent.callbacks * self.healthy().count() as u64;
        ensure!(delivered == expected, "{delivered} deliveries are recorded as delivered instead of {expected}");
        ensure!(attempts >= expected, "{attempts} attempts are recorded instead of {expected}");
        Ok(())
    }
}

/// What is left to do when the load is over.
enum Backlog<'a> {
    /// Nothing: an answer is the end of it.
    None,
    /// Everything up to the recorded outcomes.
    Delivered { database: &'a mut RunDatabase, destinations: &'a Destinations },
}

impl Backlog<'_> {
    /// Waits until nothing of callbacks 0 to `callbacks` - 1 is left.
    async fn wait_until_empty(&mut self, callbacks: u64) -> anyhow::Result<()> {
        let Self::Delivered { database, destinations } = self else { return Ok(()) };
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
        database.wait_until_delivered(destinations.hung, Duration::from_secs(10)).await
    }
}

/// Sends the load of `plan` and measures what it costs `groups` until nothing of it is left.
async fn load(
    folder: &Path,
    plan: Plan,
    groups: &[Group],
    mut backlog: Backlog<'_>,
) -> anyhow::Result<(Report, Measurement)> {
    let measured_for = Duration::from_millis(plan.measured_ms);
    let mut process = RoleProcess::start("load", &Role::Load(plan), folder)?;
    let warm: Warm = process.hear().await?;
    backlog.wait_until_empty(warm.callbacks).await.context("after the warm-up")?;
    if let Backlog::Delivered { destinations, .. } = &backlog {
        destinations.mark().await?;
    }
    let mut groups = groups.to_vec();
    groups.extend([Group::tree("load", process.pid()), bench_group()]);

    let before = Sample::take()?;
    process.go().await?;
    tokio::time::sleep(measured_for.mul_f64(MEMORY_AT)).await;
    let pss_mib = memory(&groups)?;
    let report: Report = process.hear().await?;
    backlog.wait_until_empty(report.callbacks).await?;
    let usage = before.until(&Sample::take()?, &groups);
    process.end().await?;

    if !report.failures.is_empty() {
        bail!("not every callback was taken: {:?}", report.failures);
    }
    let measured = match &backlog {
        Backlog::None => Measurement::new(report.answers, report.seconds, report.latency, &usage),
        Backlog::Delivered { destinations, .. } => {
            let seconds = usage.wall.as_secs_f64();
            let end_to_end_ms = Some(destinations.report().await?.latency);
            let measured = Measurement::new(report.fresh, seconds, report.latency, &usage);
            Measurement { end_to_end_ms, ..measured }
        }
    };
    Ok((report, Measurement { pss_mib, ..measured }))
}
