//! `--profile`: where the CPU time of each process of a run goes, sampled by `perf` and drawn as a flame graph.

mod flame;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::measure::{Group, Sample};

/// Samples per second and processor: no divisor of what timers do.
const FREQUENCY: &str = "199";
/// Bytes of stack that each sample keeps; release binaries have no frame pointers, so stacks are unwound later.
const CALL_GRAPH: &str = "dwarf,16384";

/// Whether `perf` is here and may sample.
///
/// # Errors
/// Says what to install or to allow.
pub async fn check() -> anyhow::Result<()> {
    let mut trial = Command::new("perf");
    trial.args(["record", "--event", "cpu-clock", "--output", "/dev/null", "--", "true"]);
    let tried = trial.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output().await;
    match tried {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => bail!(
            "perf may not sample here: {} (try `sudo sysctl kernel.perf_event_paranoid=1`)",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        Err(_) => bail!("--profile needs `perf`: install it (Debian: linux-perf, Fedora: perf)"),
    }
}

/// Running samplers, one for each group of processes.
pub struct Profiler {
    samplers: Vec<(String, Child, PathBuf)>,
    folder: PathBuf,
}

impl Profiler {
    /// Samples the processes that `groups` have now, until [`Profiler::finish`].
    ///
    /// # Errors
    /// When `perf` does not start.
    pub fn start(groups: &[Group], folder: &Path) -> anyhow::Result<Self> {
        let sample = Sample::take()?;
        let mut pids: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for group in groups {
            let members = sample.members(group);
            pids.entry(group.name).or_default().extend(members.iter().map(u32::to_string));
        }
        let mut samplers = Vec::new();
        for (name, pids) in pids {
            let data = folder.join(format!("{name}.perf"));
            let mut perf = Command::new("perf");
            perf.args(["record", "--quiet", "--event", "cpu-clock", "--freq", FREQUENCY, "--call-graph", CALL_GRAPH]);
            perf.arg("--output").arg(&data).arg("--pid").arg(pids.join(","));
            perf.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            samplers.push((name.to_owned(), perf.spawn().context("starting perf")?, data));
        }
        Ok(Self { samplers, folder: folder.to_owned() })
    }

    /// Ends the samplers and draws what they saw: `<name>.svg` in the folder.
    ///
    /// # Errors
    /// When `perf` fails.
    pub async fn finish(self) -> anyhow::Result<()> {
        for (name, mut sampler, data) in self.samplers {
            if let Some(pid) = sampler.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
                kill_process(pid, Signal::INT).context("stopping perf")?;
            }
            sampler.wait().await?;
            let mut script = Command::new("perf");
            script.args(["script", "--no-inline", "--fields", "comm,ip,sym", "--input"]).arg(&data);
            let output = script.stdin(Stdio::null()).stderr(Stdio::null()).output().await.context("reading samples")?;
            let stacks = flame::fold(&String::from_utf8_lossy(&output.stdout));
            let file = self.folder.join(format!("{name}.svg"));
            std::fs::write(&file, flame::draw(&name, &stacks))
                .with_context(|| format!("writing {}", file.display()))?;
            std::fs::remove_file(&data).with_context(|| format!("removing {}", data.display()))?;
        }
        Ok(())
    }
}
