//! The intake and `/metrics` on a database that somebody else made, and keeps.

use std::path::Path;

use url::Url;

use super::backlog::Backlog;
use super::drive::{load, plan};
use super::gateway::scrape;
use super::turns::Turn;
use super::{Measurement, Timing};
use crate::measure::Group;
use crate::rig::Rig;
use crate::rig::services::{Services, Setup, Shape};
use crate::roles::load::Pace;

const CONNECTIONS: usize = 64;

/// Sends callbacks to an intake on `database`. With how many different ones were answered; nobody routes them.
pub(crate) async fn take_in(
    rig: &Rig,
    folder: &Path,
    timing: Timing,
    database: &Url,
) -> anyhow::Result<(u64, Measurement)> {
    let setup = Setup {
        shape: Shape::Ingest { ingests: 1 },
        database: database.clone(),
        destinations: None,
        broker: None,
        writers: None,
        impatient: false,
    };
    let services = Services::start(rig, &setup, folder).await?;
    let mut groups = services.groups();
    groups.push(Group::tree("postgres", rig.postgres.pid()));
    let plan = plan(services.intakes.clone(), Pace::Closed { connections: CONNECTIONS }, timing);
    let (report, measured) = load(folder, plan, timing, groups, &mut Backlog::None, &mut Turn::alone()).await?;
    let scrapes_per_second = Some(scrape(services.admin).await?);
    services.stop().await?;
    Ok((report.callbacks, Measurement { scrapes_per_second, ..measured }))
}
