//! What people use today, under the same load.

use std::path::Path;

use anyhow::Context;

use super::backlog::Backlog;
use super::drive::{load, plan};
use super::turns::Turn;
use super::{Measurement, Timing};
use crate::measure::Group;
use crate::rig::Rig;
use crate::rig::baseline::Store;
use crate::roles::load::Pace;

pub(super) async fn run(
    rig: &Rig,
    folder: &Path,
    timing: Timing,
    store: Store,
    pace: Pace,
) -> anyhow::Result<Measurement> {
    let baselines = rig.baselines.as_ref().context("there is no Node")?;
    let database = rig.postgres.create_empty().await?;
    let rabbitmq = match store {
        Store::PostgresRabbitMq => Some(rig.rabbitmq()?),
        Store::Memory | Store::Postgres => None,
    };
    let url = rabbitmq.map(|rabbitmq| rabbitmq.url());
    let (process, address) = baselines.start(store, database.url(), url.as_deref(), folder).await?;
    let mut groups = vec![Group::tree("express", process.pid())];
    if store != Store::Memory {
        groups.push(Group::tree("postgres", rig.postgres.pid()));
    }
    groups.extend(rabbitmq.map(|rabbitmq| Group::tree("rabbitmq", rabbitmq.pid())));
    let (_, measured) =
        load(folder, plan(vec![address], pace, timing), timing, groups, &mut Backlog::None, &mut Turn::alone()).await?;
    // The handlers have no stop of their own: being dropped, the process is killed.
    drop(process);
    if let Some(rabbitmq) = rabbitmq {
        rabbitmq.remove(&rabbitmq.prefix(), 0).await?;
    }
    rig.postgres.remove(database).await?;
    Ok(measured)
}
