//! What can go wrong, as values.

use std::fmt;
use std::time::Duration;

use super::rig::LEASE;

/// A process of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Ingest,
    Worker,
    Postgres,
    Broker,
}

/// Two parts that talk to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    IngestPostgres,
    WorkerPostgres,
    IngestBroker,
    WorkerBroker,
    WorkerDestination,
}

/// How a destination behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Hangs,
    Resets,
    Fails,
    NeverEnds,
    SendsABomb,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL, and a start again.
    Kill(Part),
    /// SIGSTOP, and SIGCONT after a while.
    Stop(Part),
    /// Every connection is reset, once.
    Cut(Link),
    /// Everything arrives later for a while.
    Delay(Link),
    /// Every connection ends towards the server, then the new ones towards the client.
    HalfClose(Link),
    /// Every process is stopped in an orderly way and started again, one after the other.
    RollingRestart,
    /// The disk under one intake's spool is full while Postgres is away from the intakes.
    DiskFull,
    /// Postgres takes no writes for a while.
    ReadOnly,
    /// The broker blocks whoever publishes for a while.
    MemoryAlarm,
    /// The clock of one process goes ahead by an hour, and back.
    Clock(Part),
    /// The destination misbehaves for a while.
    Destination(Manner),
}

/// Processes that die or stand still.
pub(super) const PROCESSES: [Fault; 9] = [
    Fault::Kill(Part::Ingest),
    Fault::Kill(Part::Worker),
    Fault::Kill(Part::Postgres),
    Fault::Kill(Part::Broker),
    Fault::Stop(Part::Ingest),
    Fault::Stop(Part::Worker),
    Fault::Stop(Part::Postgres),
    Fault::Stop(Part::Broker),
    Fault::RollingRestart,
];

/// Connections that fail, between every pair.
pub(super) const NETWORK: [Fault; 15] = [
    Fault::Cut(Link::IngestPostgres),
    Fault::Cut(Link::WorkerPostgres),
    Fault::Cut(Link::IngestBroker),
    Fault::Cut(Link::WorkerBroker),
    Fault::Cut(Link::WorkerDestination),
    Fault::Delay(Link::IngestPostgres),
    Fault::Delay(Link::WorkerPostgres),
    Fault::Delay(Link::IngestBroker),
    Fault::Delay(Link::WorkerBroker),
    Fault::Delay(Link::WorkerDestination),
    Fault::HalfClose(Link::IngestPostgres),
    Fault::HalfClose(Link::WorkerPostgres),
    Fault::HalfClose(Link::IngestBroker),
    Fault::HalfClose(Link::WorkerBroker),
    Fault::HalfClose(Link::WorkerDestination),
];

/// What is around the processes.
pub(super) const SURROUNDINGS: [Fault; 10] = [
    Fault::DiskFull,
    Fault::ReadOnly,
    Fault::MemoryAlarm,
    Fault::Clock(Part::Ingest),
    Fault::Clock(Part::Worker),
    Fault::Destination(Manner::Hangs),
    Fault::Destination(Manner::Resets),
    Fault::Destination(Manner::Fails),
    Fault::Destination(Manner::NeverEnds),
    Fault::Destination(Manner::SendsABomb),
];

impl Fault {
    /// How often a delivery that its destination took may come there again: only what stands between the destination's
    /// answer and our record can cause that, and only by dying, or by standing still for so long that a lease runs out. A
    /// worker that stands still for longer than a request may take reads the answers that came meanwhile.
    pub(super) fn repeats_max(self, hold: Duration) -> usize {
        match self {
            Self::Kill(Part::Worker | Part::Postgres) | Self::Cut(Link::WorkerDestination) => 1,
            // Once in each direction.
            Self::HalfClose(Link::WorkerDestination) => 2,
            Self::Stop(Part::Worker | Part::Postgres) | Self::ReadOnly => usize::from(hold >= LEASE),
            _ => 0,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Kill(part) => format!("kill -9 of {}", part.as_str()),
            Self::Stop(part) => format!("stop of {}", part.as_str()),
            Self::Cut(link) => format!("{} cut", link.as_str()),
            Self::Delay(link) => format!("{} delayed", link.as_str()),
            Self::HalfClose(link) => format!("{} half closed", link.as_str()),
            Self::RollingRestart => "rolling restart".to_owned(),
            Self::DiskFull => "disk full under the spool".to_owned(),
            Self::ReadOnly => "Postgres read-only".to_owned(),
            Self::MemoryAlarm => "RabbitMQ memory alarm".to_owned(),
            Self::Clock(part) => format!("clock of {} stepped", part.as_str()),
            Self::Destination(manner) => format!("destination {}", manner.as_str()),
        };
        f.pad(&name)
    }
}

impl Part {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "an ingest",
            Self::Worker => "a worker",
            Self::Postgres => "Postgres",
            Self::Broker => "RabbitMQ",
        }
    }
}

impl Link {
    fn as_str(self) -> &'static str {
        match self {
            Self::IngestPostgres => "ingest-Postgres",
            Self::WorkerPostgres => "worker-Postgres",
            Self::IngestBroker => "ingest-RabbitMQ",
            Self::WorkerBroker => "worker-RabbitMQ",
            Self::WorkerDestination => "worker-destination",
        }
    }
}

impl Manner {
    fn as_str(self) -> &'static str {
        match self {
            Self::Hangs => "hangs",
            Self::Resets => "resets",
            Self::Fails => "answers 500",
            Self::NeverEnds => "answers without end",
            Self::SendsABomb => "answers a gzip bomb",
        }
    }
}
