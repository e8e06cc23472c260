//! Where and on what it was measured.

use std::fmt;
use std::process::Command;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::rig::Rig;
use crate::scenarios::Timing;

/// The head of a report.
#[derive(Clone, Default, Debug, Serialize)]
pub struct Header {
    /// Processor, cores and memory.
    pub machine: String,
    /// Versions of what took part.
    pub versions: String,
    /// The commit, and whether files differ from it.
    pub commit: String,
    /// When, RFC 3339.
    pub at: String,
    /// How often each scenario had its turn.
    pub rounds: u32,
    /// Seconds of load of one run.
    pub seconds: f64,
}

impl Header {
    /// Of this machine and `rig`.
    ///
    /// # Errors
    /// When the time cannot be written.
    pub fn of(rig: &Rig, rounds: u32, timing: Timing) -> anyhow::Result<Self> {
        let mut versions = vec![format!("Postgres {}", rig.postgres.version())];
        versions.extend(rig.rabbitmq.as_ref().map(|rabbitmq| format!("RabbitMQ {}", rabbitmq.version())));
        versions.extend(rig.baselines.as_ref().map(|baselines| format!("Node {}", baselines.node)));
        versions.extend(first_line("rustc", &["--version"]));
        Ok(Self {
            machine: machine(),
            versions: versions.join(", "),
            commit: commit(),
            at: OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?,
            rounds,
            seconds: timing.measured.as_secs_f64(),
        })
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { machine, versions, commit, at, rounds, seconds } = self;
        writeln!(f, "Machine: {machine}, shared by everything that was measured, load and destinations included.")?;
        writeln!(f, "Versions: {versions}. Commit {commit}, {at}.")?;
        writeln!(f, "Medians of {rounds} rounds (least to most), {seconds:.0} s of load each, and what it left to do.")
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processor = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "processor unknown".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = field(&read("/proc/meminfo"), "MemTotal").and_then(|total| {
        let kib: f64 = total.split_whitespace().next()?.parse().ok()?;
        Some(format!("{:.0} GiB", kib / f64::from(1 << 20)))
    });
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} × {processor}, {}, Linux {}", memory.unwrap_or_default(), kernel.trim())
}

fn commit() -> String {
    let Some(commit) = first_line("git", &["rev-parse", "--short=10", "HEAD"]) else { return "unknown".to_owned() };
    let changed = first_line("git", &["status", "--porcelain", "--untracked-files=no"]).is_some();
    if changed { format!("{commit} with changes") } else { commit }
}

/// The first line that a program prints, if it prints one.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().filter(|_| output.status.success()).map(str::to_owned)
}
