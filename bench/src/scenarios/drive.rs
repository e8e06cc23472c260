//! What every run with callbacks has in common: the load, the window of the measurement, and the backlog at its end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use super::backlog::Backlog;
use super::turns::Turn;
use super::{Measurement, Timing};
use crate::measure::{Group, Sample, Usage, memory};
use crate::profile::Profiler;
use crate::rig::SECRET;
use crate::rig::process::RoleProcess;
use crate::roles::Role;
use crate::roles::load::{Pace, Plan, Proof, Report, Warm};

/// When memory is looked at last: near the end of the load.
const MEMORY_AT: f64 = 0.9;
/// Length of a body, where nothing else is asked for.
pub(super) const BODY_BYTES: usize = 600;

/// The plan of a load that sends signed bodies of the usual length.
pub(super) fn plan(addresses: Vec<SocketAddr>, pace: Pace, timing: Timing) -> Plan {
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
        piece_ms: millis(timing.piece()),
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The time and memory of some processes, from a moment on.
pub(super) struct Window {
    groups: Vec<Group>,
    before: Sample,
    profiler: Option<Profiler>,
}

impl Window {
    /// Begins now. The orchestrator counts, too. Flame graphs, where they are asked for, go to `folder`.
    pub(super) fn open(mut groups: Vec<Group>, folder: &Path, timing: Timing) -> anyhow::Result<Self> {
        let profiler = if timing.profile { Some(Profiler::start(&groups, folder)?) } else { None };
        groups.push(Group { name: "bench", pid: std::process::id(), with_descendants: false });
        Ok(Self { groups, before: Sample::take()?, profiler })
    }

    /// Waits until a piece of the load of `timing` is nearly over, and looks at the memory then; and before, where it is to be
    /// looked at more often.
    pub(super) async fn look_at_memory(&self, timing: Timing) -> anyhow::Result<Vec<BTreeMap<String, f64>>> {
        let mut looks = Vec::new();
        for _ in 0..timing.looks {
            tokio::time::sleep(timing.piece().mul_f64(MEMORY_AT) / timing.looks).await;
            looks.push(memory(&self.groups)?);
        }
        Ok(looks)
    }

    /// Ends now.
    pub(super) async fn close(self) -> anyhow::Result<Usage> {
        let after = Sample::take()?;
        if let Some(profiler) = self.profiler {
            profiler.finish().await?;
        }
        Ok(self.before.until(&after, &self.groups))
    }
}

/// Sends the load of `plan`, piece by piece in `turn` with others, and measures what each piece costs `groups` until nothing of
/// it is left.
pub(super) async fn load(
    folder: &Path,
    plan: Plan,
    timing: Timing,
    mut groups: Vec<Group>,
    backlog: &mut Backlog<'_>,
    turn: &mut Turn,
) -> anyhow::Result<(Report, Measurement)> {
    turn.pass().await;
    let mut process = RoleProcess::start("load", &Role::Load(plan), folder)?;
    let warm: Warm = process.hear().await?;
    backlog.wait_until_empty(warm.callbacks).await.context("after the warm-up")?;
    backlog.mark(timing.measured).await?;

    groups.push(Group::tree("load", process.pid()));
    let (mut usage, mut pss_mib_over_time, mut last) = (Usage::default(), Vec::new(), None);
    for _ in 0..timing.pieces {
        turn.pass().await;
        let window = Window::open(groups.clone(), folder, timing)?;
        process.go().await?;
        pss_mib_over_time.append(&mut window.look_at_memory(timing).await?);
        let report: Report = process.hear().await?;
        backlog.wait_until_empty(report.callbacks).await?;
        usage.add(&window.close().await?);
        last = Some(report);
    }
    process.end().await?;
    turn.pass().await;
    let report = last.context("nothing was to be measured")?;

    if !report.failures.is_empty() {
        bail!("not every callback was taken: {:?}", report.failures);
    }
    let wall = usage.wall.as_secs_f64();
    // Where callbacks go on, different ones are counted, since repeats do not; else every answer is.
    let (events, seconds) = match backlog {
        Backlog::None => (report.answers, report.seconds),
        Backlog::Published(_) => (report.answers, wall),
        Backlog::Delivered(..) => (report.fresh, wall),
    };
    let measured = Measurement::new(events, seconds, report.latency, &usage);
    let end_to_end_ms = backlog.latency().await?;
    let pss_mib = pss_mib_over_time.last().cloned().unwrap_or_default();
    Ok((report, Measurement { pss_mib, pss_mib_over_time, end_to_end_ms, ..measured }))
}
