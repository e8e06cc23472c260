//! The limits: each part of the machine without the others.

use std::path::Path;

use super::backlog::Backlog;
use super::drive::{BODY_BYTES, Window, load, millis, plan};
use super::turns::Turn;
use super::{Measurement, Timing};
use crate::measure::Group;
use crate::rig::postgres::Expected;
use crate::rig::process::RoleProcess;
use crate::rig::{Rig, SECRET};
use crate::roles::load::Pace;
use crate::roles::{Role, broker, http_limit, postgres_writer};

pub(super) async fn http(folder: &Path, timing: Timing) -> anyhow::Result<Measurement> {
    let role = Role::HttpLimit(http_limit::Plan { secret: SECRET.to_owned() });
    let mut server = RoleProcess::start("http-limit", &role, folder)?;
    let listening: http_limit::Listening = server.hear().await?;
    let groups = vec![Group::tree("handler", server.pid())];
    let plan = plan(vec![listening.address], Pace::Closed { connections: 64 }, timing);
    let (_, measured) = load(folder, plan, timing, groups, &mut Backlog::None, &mut Turn::alone()).await?;
    server.end().await?;
    Ok(measured)
}

pub(super) async fn postgres(
    rig: &Rig,
    folder: &Path,
    timing: Timing,
    clients: i16,
    rows: usize,
) -> anyhow::Result<Measurement> {
    let mut database = rig.postgres.create().await?;
    let role = Role::PostgresWriter(postgres_writer::Plan {
        url: database.url().clone(),
        clients,
        rows,
        body_bytes: BODY_BYTES,
        warm_up_ms: millis(timing.warm_up),
        measured_ms: millis(timing.measured),
    });
    let mut writer = RoleProcess::start("postgres-writer", &role, folder)?;
    writer.hear::<bool>().await?;
    let window = Window::open(
        vec![Group::tree("writer", writer.pid()), Group::tree("postgres", rig.postgres.pid())],
        folder,
        timing,
    )?;
    writer.go().await?;
    let pss_mib = window.look_at_memory(timing).await?.pop().unwrap_or_default();
    let report: postgres_writer::Report = writer.hear().await?;
    let usage = window.close().await?;
    writer.end().await?;
    database.check_books(Expected { callbacks: report.stored, destinations: None, again: 0 }).await?;
    rig.postgres.remove(database).await?;
    let measured = Measurement::new(report.measured, report.seconds, report.latency, &usage);
    Ok(Measurement { pss_mib, ..measured })
}

pub(super) async fn broker(rig: &Rig, folder: &Path, timing: Timing, window: usize) -> anyhow::Result<Measurement> {
    let rabbitmq = rig.rabbitmq()?;
    let queue = rabbitmq.make_queue().await?;
    let role = Role::Broker(broker::Plan {
        url: rabbitmq.url(),
        queue: queue.clone(),
        window,
        warm_up_ms: millis(timing.warm_up),
        measured_ms: millis(timing.measured),
    });
    let mut client = RoleProcess::start("broker-client", &role, folder)?;
    client.hear::<bool>().await?;
    let window = Window::open(
        vec![Group::tree("client", client.pid()), Group::tree("rabbitmq", rabbitmq.pid())],
        folder,
        timing,
    )?;
    client.go().await?;
    let pss_mib = window.look_at_memory(timing).await?.pop().unwrap_or_default();
    let report: broker::Report = client.hear().await?;
    let usage = window.close().await?;
    client.end().await?;
    rabbitmq.remove(queue.trim_end_matches(".alone"), 0).await?;
    let measured = Measurement::new(report.messages, report.seconds, report.latency, &usage);
    Ok(Measurement { pss_mib, ..measured })
}
