//! One run: a file of rows through `claygate send` and the workers into the fake, with kills on the way or without.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fake_clay::Counts;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::site::{Setup, Site};
use crate::measure::{Group, Sample};
use crate::rig::Rig;

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often the fake and the table of deliveries are asked.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Without any progress for so long, something hangs; longer than a lease that a killed worker leaves behind.
const IDLE_LIMIT: Duration = Duration::from_secs(180);
/// Parts of the way, in hundredths, at which `send` is killed, and at which a worker is.
const SEND_KILLED_AT: [u64; 2] = [10, 50];
const WORKER_KILLED_AT: [u64; 3] = [15, 40, 70];

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) rows: u64,
    pub(super) setup: Setup,
    pub(super) kills: bool,
}

/// What came of it.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Outcome {
    pub(super) name: &'static str,
    pub(super) rows: u64,
    /// Rows per second and burst that the workspace allows.
    pub(super) limit: Option<(u32, u32)>,
    pub(super) concurrency: u32,
    pub(super) stored_per_second: f64,
    pub(super) delivered_per_second: f64,
    /// Of the last three quarters of the rows: without the burst at the beginning, with the end.
    pub(super) steady_per_second: f64,
    pub(super) send_kills: u64,
    pub(super) worker_kills: u64,
    pub(super) send_peak_mb: f64,
    pub(super) worker_peak_mb: f64,
    pub(super) fake: Counts,
    pub(super) books: Books,
    /// The part of the machine that others used, from 0 to 1.
    pub(super) foreign: f64,
}

/// What claygate says.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, sqlx::FromRow)]
pub(super) struct Books {
    pub(super) rows: i64,
    pub(super) delivered: i64,
    /// Deliveries that ended otherwise, or not.
    pub(super) others: i64,
    /// Submissions that it counted.
    pub(super) used: i64,
}

/// Runs it.
///
/// # Errors
/// When something does not start, ends by itself, or hangs. What a promise says is judged elsewhere.
pub(super) async fn run(rig: &Rig, folder: &Path, file: &Path, plan: Plan) -> anyhow::Result<Outcome> {
    let database = rig.postgres.create().await?;
    let mut connection = database.settings().connect_directly().await?;
    let mut site = Site::start(rig, folder, database.url(), plan.setup).await?;
    let before = Sample::take()?;
    let started = Instant::now();
    site.start_send(file)?;
    let mut driven = Driven { site, connection: &mut connection, plan, send_kills: 0, worker_kills: 0 };
    let (stored_in, delivered_in) = driven.drive(file, started).await?;
    let foreign = before.until(&Sample::take()?, &[Group::tree("bench", std::process::id())]).foreign;
    let Driven { mut site, send_kills, worker_kills, .. } = driven;
    let fake = site.counts().await?;
    let rows = plan.rows as f64;
    let outcome = Outcome {
        name: plan.name,
        rows: plan.rows,
        limit: plan.setup.limit,
        concurrency: plan.setup.concurrency,
        stored_per_second: rows / stored_in.as_secs_f64(),
        delivered_per_second: rows / delivered_in.as_secs_f64(),
        steady_per_second: steady(&mut connection).await?,
        send_kills,
        worker_kills,
        send_peak_mb: site.send_peak_mb,
        worker_peak_mb: site.worker_peak_mb,
        fake,
        books: read_books(&mut connection).await?,
        foreign,
    };
    site.stop().await?;
    connection.close().await?;
    rig.postgres.remove(database).await?;
    Ok(outcome)
}

struct Driven<'rig, 'run> {
    site: Site<'rig>,
    connection: &'run mut PgConnection,
    plan: Plan,
    send_kills: u64,
    worker_kills: u64,
}

impl Driven<'_, '_> {
    /// Until every row was stored and none waits. With how long each took.
    async fn drive(&mut self, file: &Path, started: Instant) -> anyhow::Result<(Duration, Duration)> {
        let mut stored_in = None;
        let (mut asked_at, mut progress) = (Instant::now(), (0, Instant::now()));
        loop {
            if self.site.look()? && stored_in.is_none() {
                stored_in = Some(started.elapsed());
            }
            if self.plan.kills && stored_in.is_none() {
                self.kill_send_in_time(file).await?;
            }
            if asked_at.elapsed() >= ASK_EVERY {
                asked_at = Instant::now();
                let accepted = self.site.counts().await?.accepted;
                if accepted > progress.0 {
                    progress = (accepted, Instant::now());
                }
                ensure!(progress.1.elapsed() < IDLE_LIMIT, "no row came for {IDLE_LIMIT:?}, after {accepted}");
                if self.plan.kills {
                    self.kill_worker_in_time(accepted).await?;
                }
                if let Some(stored_in) = stored_in
                    && !is_pending(self.connection).await?
                {
                    return Ok((stored_in, started.elapsed()));
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn kill_send_in_time(&mut self, file: &Path) -> anyhow::Result<()> {
        let Some(part) = SEND_KILLED_AT.get(usize::try_from(self.send_kills)?) else { return Ok(()) };
        let accepted: Option<i64> = sqlx::query_scalar("SELECT max(accepted) FROM claygate.row_batches")
            .fetch_one(&mut *self.connection)
            .await?;
        if accepted.unwrap_or_default().unsigned_abs() * 100 >= self.plan.rows * part
            && self.site.kill_send(file).await?
        {
            self.send_kills += 1;
        }
        Ok(())
    }

    async fn kill_worker_in_time(&mut self, accepted: u64) -> anyhow::Result<()> {
        let Some(part) = WORKER_KILLED_AT.get(usize::try_from(self.worker_kills)?) else { return Ok(()) };
        if accepted * 100 >= self.plan.rows * part {
            let number = usize::try_from(self.worker_kills)? % self.plan.setup.workers.max(1);
            self.site.kill_worker(number).await?;
            self.worker_kills += 1;
        }
        Ok(())
    }
}

async fn is_pending(connection: &mut PgConnection) -> anyhow::Result<bool> {
    Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM claygate.deliveries WHERE state = 'pending')")
        .fetch_one(connection)
        .await?)
}

async fn steady(connection: &mut PgConnection) -> anyhow::Result<f64> {
    let rate: Option<f64> = sqlx::query_scalar(
        "SELECT (count(*) * 0.75 / NULLIF(extract(epoch FROM max(sent_at)
             - percentile_disc(0.25) WITHIN GROUP (ORDER BY sent_at)), 0))::float8
         FROM claygate.rows WHERE sent_at IS NOT NULL",
    )
    .fetch_one(connection)
    .await
    .context("reading when rows were sent")?;
    Ok(rate.unwrap_or_default())
}

async fn read_books(connection: &mut PgConnection) -> anyhow::Result<Books> {
    sqlx::query_as(
        "SELECT (SELECT count(*) FROM claygate.rows) AS rows,
             (SELECT count(*) FROM claygate.deliveries WHERE state = 'delivered') AS delivered,
             (SELECT count(*) FROM claygate.deliveries WHERE state <> 'delivered') AS others,
             (SELECT COALESCE(sum(used), 0)::bigint FROM claygate.clay_webhooks) AS used",
    )
    .fetch_one(connection)
    .await
    .context("reading claygate's own counts")
}
