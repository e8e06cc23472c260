//! What processes hold, as the kernel counts it.

use std::fmt;

use crate::service::Service;

const MIB: u64 = 1024 * 1024;
/// A process under load breathes; what grows with every fault, or is held after one, is far more than this.
const MEMORY_SLACK_BYTES: u64 = 48 * MIB;
const FILES_SLACK: usize = 24;
/// Pools open connections as they need them, up to a few per process.
const CONNECTIONS_SLACK: usize = 10;

/// Of two kinds of processes, the one that holds most; and the connections to Postgres of all of them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    ingest: Held,
    worker: Held,
    connections: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    resident_bytes: u64,
    files: usize,
}

impl Usage {
    pub(super) fn of(intakes: &[Service], workers: &[Service], connections: usize) -> Self {
        Self { ingest: Held::most(intakes), worker: Held::most(workers), connections }
    }

    pub(super) fn is_measured(&self) -> bool {
        self.connections > 0
    }

    /// Whether it is near `baseline` again.
    pub(super) fn is_near(&self, baseline: &Self) -> bool {
        self.ingest.is_near(&baseline.ingest)
            && self.worker.is_near(&baseline.worker)
            && self.connections <= baseline.connections + CONNECTIONS_SLACK
    }
}

impl Held {
    fn most(services: &[Service]) -> Self {
        let held = services.iter().map(|service| Self::by(service.pid()));
        held.fold(Self::default(), |most, held| Self {
            resident_bytes: most.resident_bytes.max(held.resident_bytes),
            files: most.files.max(held.files),
        })
    }

    fn by(pid: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = resident.split_whitespace().next().unwrap().parse().unwrap();
        Self { resident_bytes: kib * 1024, files: std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() }
    }

    fn is_near(&self, baseline: &Self) -> bool {
        self.resident_bytes <= baseline.resident_bytes * 3 / 2 + MEMORY_SLACK_BYTES
            && self.files <= baseline.files + FILES_SLACK
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ingest, worker, connections } = self;
        write!(f, "ingest {ingest}, worker {worker}, {connections} connections to Postgres")
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB and {} files", self.resident_bytes / MIB, self.files)
    }
}
