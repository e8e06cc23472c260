//! claygate under load, in one of its forms.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::backlog::{Backlog, Destinations};
use super::drive::{load, plan};
use super::turns::Turn;
use super::{Claygate, Measurement, Queue, Timing, Trouble};
use crate::measure::Group;
use crate::rig::Rig;
use crate::rig::postgres::Expected;
use crate::rig::services::{Services, Setup, Shape};
use crate::roles::load::{Connection, Plan, Proof};

/// How long `/metrics` is asked.
const SCRAPE_FOR: Duration = Duration::from_secs(1);

/// Starts it, loads it, and holds what was answered against what is stored, published and delivered.
pub(super) async fn run(
    rig: &Rig,
    folder: &Path,
    timing: Timing,
    claygate: &Claygate,
    mut turn: Turn,
) -> anyhow::Result<Measurement> {
    let (mut database, stored) = match claygate.trouble {
        Some(Trouble::Stored(callbacks)) => (rig.postgres.create_filled(callbacks).await?, callbacks),
        _ => (rig.postgres.create().await?, 0),
    };
    if let Some(Trouble::SlowDisk(flush)) = claygate.trouble {
        database.slow_down_commits(flush).await?;
    }
    let delivers = !matches!(claygate.shape, Shape::Ingest { .. });
    let mut destinations = match delivers {
        true => Some(Destinations::start(claygate, folder).await?),
        false => None,
    };
    let broker = match claygate.queue {
        Queue::Postgres => None,
        Queue::RabbitMq => Some((rig.rabbitmq()?.url(), rig.rabbitmq()?.prefix())),
    };
    let setup = Setup {
        shape: claygate.shape,
        database: database.url().clone(),
        destinations: destinations.as_ref().map(|started| (started.address, started.count)),
        broker: broker.clone(),
        writers: claygate.writers,
        impatient: claygate.trouble == Some(Trouble::FailingDestination),
    };
    let services = Services::start(rig, &setup, folder).await?;
    let snapshot = match claygate.trouble {
        Some(Trouble::HeldSnapshot) => Some(database.hold_snapshot().await?),
        _ => None,
    };
    let mut groups = services.groups();
    groups.push(Group::tree("postgres", rig.postgres.pid()));
    groups.extend(destinations.as_ref().map(Destinations::group));
    if broker.is_some() {
        groups.push(Group::tree("rabbitmq", rig.rabbitmq()?.pid()));
    }
    let load_plan = Plan {
        path: if claygate.proof == Proof::Token { "/token" } else { "/hmac" }.to_owned(),
        proof: claygate.proof,
        body_bytes: claygate.body_bytes,
        half_repeats: claygate.half_repeats,
        stamped: delivers,
        ..plan(services.intakes.clone(), claygate.pace, timing)
    };
    let mut backlog = match (&mut destinations, claygate.queue) {
        (Some(destinations), _) => Backlog::Delivered(&mut database, destinations),
        (None, Queue::RabbitMq) => Backlog::Published(&mut database),
        (None, Queue::Postgres) => Backlog::None,
    };
    let (report, mut measured) = load(folder, load_plan, timing, groups, &mut backlog, &mut turn).await?;

    if stored > 0 {
        measured.scrapes_per_second = Some(scrape(services.admin).await?);
    }
    drop(snapshot);
    services.stop().await.context("stopping claygate")?;
    let count = destinations.as_ref().map(|started| started.count as u64);
    measured.stored_bytes = Some(database.grown_by().await? as f64 / report.callbacks.max(1) as f64);
    let again = if claygate.trouble == Some(Trouble::ReplayStorm) { report.callbacks - report.fresh } else { 0 };
    database.check_books(Expected { callbacks: stored + report.callbacks, destinations: count, again }).await?;
    if let Some((_, prefix)) = &broker {
        let rabbitmq = rig.rabbitmq()?;
        match &destinations {
            Some(destinations) => rabbitmq.check_empty(prefix, destinations.count, destinations.hung).await?,
            None => {
                let published = rabbitmq.take_published(prefix).await?;
                let expected = report.callbacks;
                ensure!(published == expected, "{published} ids were published instead of {expected}");
            }
        }
        rabbitmq.remove(prefix, claygate.destinations).await?;
    }
    if let Some(destinations) = destinations {
        measured.accounts = Some(destinations.compare(&report, &mut database).await?);
        destinations.end().await?;
    }
    rig.postgres.remove(database).await?;
    Ok(measured)
}

/// Answers of `/metrics` per second, on one connection.
pub(super) async fn scrape(admin: Option<SocketAddr>) -> anyhow::Result<f64> {
    let admin = admin.context("nobody to ask")?;
    let mut connection = Connection::open(admin).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\n\r\n");
    let (started, mut scrapes) = (Instant::now(), 0);
    while started.elapsed() < SCRAPE_FOR {
        let answer = connection.exchange(request.as_bytes()).await?;
        ensure!(answer.status == 200, "/metrics answered {}", answer.status);
        scrapes += 1;
    }
    Ok(f64::from(scrapes) / started.elapsed().as_secs_f64())
}
