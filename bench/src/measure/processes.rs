//! CPU time and memory of groups of processes, out of `/proc`.
//!
//! A group is a process and all its descendants; time of descendants that have ended is in their parents' books. What
//! the machine did beside our processes and its kernel's threads in the same time is foreign: a round with too much of
//! it says little.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::Context;

/// A process with its descendants, under the name that the table shows. Several groups may share a name.
#[derive(Clone, Debug)]
pub struct Group {
    /// The name.
    pub name: &'static str,
    /// The process.
    pub pid: u32,
    /// Whether its descendants belong to it.
    pub with_descendants: bool,
}

impl Group {
    /// `pid` and all its descendants.
    pub fn tree(name: &'static str, pid: u32) -> Self {
        Self { name, pid, with_descendants: true }
    }
}

/// What every process had used up at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    taken_at: Instant,
    processes: HashMap<u32, Process>,
    stolen: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    parent: u32,
    /// Its own CPU time and that of its children that have ended.
    used: Duration,
}

/// What was used between two samples, or between several pairs of them.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// The time between them.
    pub wall: Duration,
    /// CPU time by name.
    pub by_group: BTreeMap<String, Duration>,
    /// The part of the machine's CPU time that went to others, from 0 to 1.
    pub foreign: f64,
}

impl Usage {
    /// Adds what was used in another time.
    pub fn add(&mut self, other: &Self) {
        let (ours, theirs) = (self.wall.as_secs_f64(), other.wall.as_secs_f64());
        if ours + theirs > 0.0 {
            self.foreign = (self.foreign * ours + other.foreign * theirs) / (ours + theirs);
        }
        self.wall += other.wall;
        for (name, used) in &other.by_group {
            *self.by_group.entry(name.clone()).or_default() += *used;
        }
    }
}

impl Sample {
    /// Takes one.
    ///
    /// # Errors
    /// Where there is no `/proc`.
    pub fn take() -> anyhow::Result<Self> {
        let tick = Duration::from_secs(1) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100);
        let mut processes = HashMap::new();
        for entry in std::fs::read_dir("/proc").context("reading /proc (the bench needs Linux)")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // One that has ended in between is in its parent's books.
            let Ok(text) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            if let Some(process) = parse_stat(&text, tick) {
                processes.insert(pid, process);
            }
        }
        let stat = std::fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        let stolen: u32 =
            stat.lines().next().and_then(|line| line.split_whitespace().nth(8)?.parse().ok()).unwrap_or(0);
        Ok(Self { taken_at: Instant::now(), processes, stolen: tick * stolen })
    }

    /// What `groups` used from this sample to `later`, and what others did.
    pub fn until(&self, later: &Self, groups: &[Group]) -> Usage {
        let wall = later.taken_at - self.taken_at;
        let mut by_group: BTreeMap<String, Duration> = BTreeMap::new();
        for group in groups {
            let used = later.used(|pid| later.belongs(pid, group));
            let before = self.used(|pid| self.belongs(pid, group));
            *by_group.entry(group.name.to_owned()).or_default() += used.saturating_sub(before);
        }
        let ours = Group::tree("", std::process::id());
        let foreign = |sample: &Self| {
            let others = sample.used(|pid| !sample.belongs(pid, &ours) && !sample.belongs(pid, &KERNEL));
            others + sample.stolen
        };
        let capacity = wall.as_secs_f64() * std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64);
        let foreign = foreign(later).saturating_sub(foreign(self)).as_secs_f64() / capacity;
        Usage { wall, by_group, foreign }
    }

    /// The processes that belong to `group`.
    pub(crate) fn members(&self, group: &Group) -> Vec<u32> {
        self.processes.keys().copied().filter(|pid| self.belongs(*pid, group)).collect()
    }

    fn used(&self, counts: impl Fn(u32) -> bool) -> Duration {
        self.processes.iter().filter(|(pid, _)| counts(**pid)).map(|(_, process)| process.used).sum()
    }

    fn belongs(&self, mut pid: u32, group: &Group) -> bool {
        loop {
            if pid == group.pid {
                return true;
            }
            match self.processes.get(&pid) {
                Some(process) if group.with_descendants && process.parent != pid => pid = process.parent,
                _ => return false,
            }
        }
    }
}

/// The parent of the kernel's threads; what they do, they do for whoever is at work.
const KERNEL: Group = Group { name: "kernel", pid: 2, with_descendants: true };

/// Reads the line of `/proc/<pid>/stat`. The name in it may hold anything, parentheses too.
fn parse_stat(text: &str, tick: Duration) -> Option<Process> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    Some(Process { parent: number(1)?, used: tick * ticks })
}

/// The proportional set size of each group now, in MiB.
///
/// # Errors
/// Where there is no `/proc`.
pub fn memory(groups: &[Group]) -> anyhow::Result<BTreeMap<String, f64>> {
    let sample = Sample::take()?;
    let mut by_group: BTreeMap<String, f64> = BTreeMap::new();
    for group in groups {
        for pid in sample.members(group) {
            // One that has just ended needs none.
            let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
            *by_group.entry(group.name.to_owned()).or_default() += pss_mib(&text).unwrap_or(0.0);
        }
    }
    Ok(by_group)
}

/// The most memory that a process ever had resident, in MB; 0 where it has ended.
pub(crate) fn peak_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kib_of(&status, "VmHWM:").unwrap_or(0.0) * 1024.0 / 1e6
}

fn kib_of(text: &str, field: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

fn pss_mib(smaps_rollup: &str) -> Option<f64> {
    Some(kib_of(smaps_rollup, "Pss:")? / 1024.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_name_holds() {
        let text = "42 (a (strange) name) S 7 1 1 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 5 6 7 8";
        let process = parse_stat(text, Duration::from_millis(10)).unwrap();
        assert_eq!(process, Process { parent: 7, used: Duration::from_millis(1270) });
    }

    #[test]
    fn a_group_is_a_process_and_its_descendants() {
        let process = |parent, ms| Process { parent, used: Duration::from_millis(ms) };
        let before = Sample {
            taken_at: Instant::now(),
            processes: HashMap::from([
                (1, process(0, 5)),
                (2, process(0, 0)),
                (10, process(1, 10)),
                (11, process(10, 20)),
            ]),
            stolen: Duration::ZERO,
        };
        // Process 11 has ended and is in the books of 10; 12 is new, 13 is somebody else's.
        let after = Sample {
            taken_at: before.taken_at + Duration::from_secs(1),
            processes: HashMap::from([
                (1, process(0, 5)),
                (2, process(0, 500)),
                (10, process(1, 45)),
                (12, process(10, 7)),
                (13, process(1, 100)),
            ]),
            stolen: Duration::ZERO,
        };
        let usage = before.until(&after, &[Group::tree("ours", 10)]);
        assert_eq!(usage.by_group["ours"], Duration::from_millis(22));
        let cores = std::thread::available_parallelism().unwrap().get() as f64;
        let expected = 0.122 / cores;
        assert!((usage.foreign - expected).abs() < 1e-9, "{} is not {expected}", usage.foreign);
    }

    #[test]
    fn usage_adds_up_and_what_is_foreign_counts_by_time() {
        let usage = |seconds, foreign| Usage {
            wall: Duration::from_secs(seconds),
            by_group: BTreeMap::from([("ingest".to_owned(), Duration::from_secs(seconds))]),
            foreign,
        };
        let mut all = Usage::default();
        all.add(&usage(1, 0.4));
        all.add(&usage(3, 0.0));
        assert_eq!((all.wall, all.by_group["ingest"]), (Duration::from_secs(4), Duration::from_secs(4)));
        assert!((all.foreign - 0.1).abs() < 1e-9, "{}", all.foreign);
    }

    #[test]
    fn own_memory_is_found() {
        let memory = memory(&[Group::tree("self", std::process::id())]).unwrap();
        assert!(memory["self"] > 0.5, "{memory:?}");
    }
}
