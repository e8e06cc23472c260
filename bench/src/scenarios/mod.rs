//! What is measured: the list of scenarios, and what one run of one gives.

mod alone;
mod backlog;
mod drive;
mod express;
mod gateway;
mod list;
mod rounds;
mod stored;
mod turns;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::measure::{Quantiles, Usage};
use crate::rig::baseline::Store;
use crate::rig::services::Shape;
use crate::rig::{Needs, Rig};
use crate::roles::load::{Pace, Proof};

pub use list::{all, loads, select};
pub use rounds::{FOREIGN_MAX, Round, run_rounds};
pub(crate) use stored::take_in;
use turns::Turn;

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What `--only` and `--json` call it.
    pub name: String,
    /// What it is.
    pub title: String,
    /// What it does.
    pub work: Work,
    /// The comparison that it is one side of; its neighbours in the list are the others. Sides are measured in turns of
    /// [`PIECE`].
    pub side_of: Option<String>,
}

/// What a scenario does.
#[derive(Clone, Debug)]
pub enum Work {
    /// A handler that checks the HMAC and answers.
    HttpLimit,
    /// The intake's statement without HTTP.
    PostgresAlone {
        /// Connections.
        clients: i16,
        /// Callbacks of one statement.
        rows: usize,
    },
    /// RabbitMQ without Postgres.
    BrokerAlone {
        /// Messages that are published and not confirmed.
        window: usize,
    },
    /// What people use today.
    Express {
        /// How far it goes.
        store: Store,
        /// The load.
        pace: Pace,
    },
    /// claygate.
    Claygate(Claygate),
}

/// A copied database is read from its files at first.
const STORED_WARM_UP: Duration = Duration::from_secs(15);
/// Longer than the time between two checkpoints, a minute or so under this load. After each checkpoint every page is logged
/// whole once, so a short run would tell where between two of them it fell.
const STORED_MIN: Duration = Duration::from_secs(100);
/// So few callbacks a second that the slowest hundredth of two seconds is a handful.
const FEW: f64 = 200.0;
const FEW_MIN: Duration = Duration::from_secs(20);
/// The same where the slowest hundredths of two of them are compared: with 40 s, single rounds of one program gave 0.7 to 1.4.
const FEW_COMPARED_MIN: Duration = Duration::from_secs(80);
/// The time of a turn, where two take turns: short beside what changes on a machine from minute to minute.
const PIECE: Duration = Duration::from_secs(5);

/// claygate in one of its forms, under one load.
#[derive(Clone, Debug)]
pub struct Claygate {
    /// The processes.
    pub shape: Shape,
    /// The queue between them.
    pub queue: Queue,
    /// Destinations of each callback.
    pub destinations: usize,
    /// The load.
    pub pace: Pace,
    /// Length of a body.
    pub body_bytes: usize,
    /// Every second callback repeats an earlier one.
    pub half_repeats: bool,
    /// How it is proven.
    pub proof: Proof,
    /// What is made hard for it.
    pub trouble: Option<Trouble>,
    /// `ingest.writers`, where it is not the default.
    pub writers: Option<usize>,
}

/// What carries ids from the outbox to the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// The outbox itself.
    Postgres,
    /// A broker.
    RabbitMq,
}

/// What is made hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The first destination takes requests and never answers.
    HungDestination,
    /// Every answer of a destination takes so long.
    SlowDestination(Duration),
    /// The destination answers everything with 500 for the first third of the measurement.
    FailingDestination,
    /// All that the warm-up sent was given up, and is sent again during the measurement.
    ReplayStorm,
    /// Every flush to disk takes this much longer.
    SlowDisk(Duration),
    /// Somebody holds a snapshot for the length of the run.
    HeldSnapshot,
    /// So many callbacks are stored already. What a scrape costs then is measured, too.
    Stored(u64),
}

/// How long one run is.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Before the measurement.
    pub warm_up: Duration,
    /// The load of the measurement; what it leaves to do is measured to its end.
    pub measured: Duration,
    /// In how many pieces of equal length.
    pub pieces: u32,
    /// Whether a flame graph of each process is drawn.
    pub profile: bool,
    /// How often memory is looked at.
    pub looks: u32,
}

impl Timing {
    /// The load of one piece.
    pub fn piece(&self) -> Duration {
        self.measured / self.pieces.max(1)
    }
}

/// What one run of one scenario gave.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measurement {
    /// What was counted.
    pub events: u64,
    /// In what time, the work that was left behind included.
    pub seconds: f64,
    /// Events per second.
    pub per_second: f64,
    /// From the request to its answer, in milliseconds.
    pub latency_ms: Quantiles,
    /// From the moment a callback was to be sent at to its arrival at a destination, in milliseconds.
    pub end_to_end_ms: Option<Quantiles>,
    /// What a callback took on Postgres's disk, indexes and dead rows included, in bytes.
    pub stored_bytes: Option<f64>,
    /// Answers of `/metrics` per second, one after the other.
    pub scrapes_per_second: Option<f64>,
    /// CPU µs per event, by process.
    pub cpu_us: BTreeMap<String, f64>,
    /// Proportional set size near the end of the load, in MiB, by process.
    pub pss_mib: BTreeMap<String, f64>,
    /// The same at equal distances from the beginning of the load on.
    pub pss_mib_over_time: Vec<BTreeMap<String, f64>>,
    /// What was answered, held against what destinations took.
    pub accounts: Option<Accounts>,
    /// The part of the machine that others used, from 0 to 1.
    pub foreign: f64,
}

/// What was answered, held against what destinations took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// Callbacks that were answered with 200, for each destination that takes any.
    pub owed: u64,
    /// Of them, those that it took.
    pub taken: u64,
    /// Requests that it took beyond the first of each callback.
    pub repeated: u64,
    /// Requests that it refused.
    pub refused: u64,
}

impl Measurement {
    /// Of `events`, which took `seconds`.
    fn new(events: u64, seconds: f64, latency_ms: Quantiles, usage: &Usage) -> Self {
        let cost = |used: &Duration| used.as_secs_f64() * 1e6 / events.max(1) as f64;
        Self {
            events,
            seconds,
            per_second: events as f64 / seconds,
            latency_ms,
            end_to_end_ms: None,
            stored_bytes: None,
            scrapes_per_second: None,
            cpu_us: usage.by_group.iter().map(|(name, used)| (name.clone(), cost(used))).collect(),
            pss_mib: BTreeMap::new(),
            pss_mib_over_time: Vec::new(),
            accounts: None,
            foreign: usage.foreign,
        }
    }

    /// CPU µs per event over all processes.
    pub fn cpu_us_total(&self) -> f64 {
        self.cpu_us.values().sum()
    }

    /// The same without load, destinations and orchestrator.
    pub fn cpu_us_of_product(&self) -> f64 {
        let others = ["load", "destination", "bench"];
        self.cpu_us.iter().filter(|(name, _)| !others.contains(&name.as_str())).map(|(_, used)| used).sum()
    }
}

impl Scenario {
    /// What it needs beside Postgres.
    pub fn needs(&self) -> Needs {
        let node = matches!(self.work, Work::Express { .. });
        let rabbitmq = match &self.work {
            Work::BrokerAlone { .. } | Work::Express { store: Store::PostgresRabbitMq, .. } => true,
            Work::Claygate(claygate) => claygate.queue == Queue::RabbitMq,
            _ => false,
        };
        Needs { rabbitmq, node }
    }

    /// Runs it once.
    ///
    /// # Errors
    /// When something does not start, an answer is missing, or the books do not balance.
    async fn run(&self, rig: &Rig, timing: Timing, mut turn: Turn) -> anyhow::Result<Measurement> {
        turn.pass().await;
        let folder = rig.run_folder(&self.name)?;
        let timing = self.in_pieces(self.long_enough(timing));
        match &self.work {
            Work::HttpLimit => alone::http(&folder, timing).await,
            Work::PostgresAlone { clients, rows } => alone::postgres(rig, &folder, timing, *clients, *rows).await,
            Work::BrokerAlone { window } => alone::broker(rig, &folder, timing, *window).await,
            Work::Express { store, pace } => express::run(rig, &folder, timing, *store, *pace).await,
            Work::Claygate(claygate) => gateway::run(rig, &folder, timing, claygate, turn).await,
        }
    }

    /// How long the load of one run is.
    fn load_time(&self, timing: Timing) -> Duration {
        let timing = self.long_enough(timing);
        timing.warm_up + timing.measured
    }

    /// The timing, made longer where short runs tell of something else than of what the row is about.
    fn long_enough(&self, timing: Timing) -> Timing {
        let Work::Claygate(claygate) = &self.work else { return timing };
        if let Some(Trouble::Stored(_)) = claygate.trouble {
            let (warm_up, measured) = (timing.warm_up.max(STORED_WARM_UP), timing.measured.max(STORED_MIN));
            return Timing { warm_up, measured, ..timing };
        }
        match claygate.pace {
            Pace::Open { per_second, .. } if per_second <= FEW => {
                let least = if self.side_of.is_some() { FEW_COMPARED_MIN } else { FEW_MIN };
                Timing { measured: timing.measured.max(least), ..timing }
            }
            _ => timing,
        }
    }

    /// In pieces, where it takes turns with others. A profile is of one piece.
    fn in_pieces(&self, timing: Timing) -> Timing {
        if self.side_of.is_none() || timing.profile {
            return timing;
        }
        let pieces = timing.measured.div_duration_f64(PIECE).round().max(1.0);
        Timing { pieces: pieces as u32, ..timing }
    }
}
