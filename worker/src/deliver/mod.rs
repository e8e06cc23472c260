//! Delivering: from a due delivery to its recorded outcome, each destination on a lane of its own.
//!
//! A lane takes a slot, then a lease, then makes the attempt, and gives the slot back when the outcome is on its way to
//! the table (of a row for Clay: when it is there); so the slots bound requests, a queue of fixed length bounds
//! unwritten outcomes, and a destination that hangs fills its own slots only. A message is acknowledged as soon as each
//! of its deliveries is leased, ended or back in its queue.
//!
//! Safe to run twice on one delivery: the lease keeps others away, and what a straggler reports is recorded without
//! changing anything. A worker that dies leaves leases that run out; [`crate::rescue`] gives them back.

mod attempt;
mod breaker;
mod consume;
mod counter;
mod gate;
mod pace;
mod pools;
mod put_off;
mod recorder;
mod submit;
mod telemetry;
mod verdict;
mod watch;

pub(crate) use gate::Gate;
pub use telemetry::register_metrics;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::config::{Config, Destination, DestinationKind};
use common::crash::{self, Point};
use common::db::Database;
use common::queue::{Doorbell, Queue};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::counter::Counter;
use self::pace::Pace;
use self::pools::Pools;
use self::recorder::Recorder;
use crate::destinations::{PrepareError, Target};
use crate::health::Health;
use crate::lanes::{InLine, Lane, Lanes};

/// How long outcomes that are not written yet are kept after a stop, while the database is away.
const RECORD_PATIENCE: Duration = Duration::from_secs(10);

/// Everything that delivers, built and not running yet.
pub struct Deliverer {
    lanes: Arc<Lanes>,
    works: Vec<(Arc<LaneWork>, mpsc::UnboundedReceiver<InLine>)>,
    database: Database,
    recorders: TaskTracker,
    drain: Duration,
    cut: CancellationToken,
}

/// What the parts of one lane share.
struct LaneWork {
    name: String,
    lane: Arc<Lane>,
    target: Target,
    retries: Vec<Duration>,
    timeout: Duration,
    pace: Option<Pace>,
    /// Counts rows before they go into a table of Clay.
    counter: Option<Counter>,
    database: Database,
    doorbell: Doorbell,
    recorder: Recorder,
    attempts: TaskTracker,
    /// A stop has waited long enough: requests are cut off.
    cut: CancellationToken,
}

impl Deliverer {
    /// Prepares every destination of `config`.
    ///
    /// # Errors
    /// [`PrepareError`] names the destination and the setting that cannot be used.
    pub fn build(config: &Config, database: &Database, doorbell: &Doorbell) -> Result<Self, PrepareError> {
        let targets = config
            .destinations
            .iter()
            .map(|(name, destination)| Ok((name.clone(), Target::prepare(destination)?)))
            .collect::<Result<_, PrepareError>>()?;
        Ok(Self::with_targets(config, targets, database, doorbell))
    }

    /// As [`Deliverer::build`], with targets that were prepared elsewhere. A destination without one is left out.
    pub fn with_targets(
        config: &Config,
        mut targets: HashMap<String, Target>,
        database: &Database,
        doorbell: &Doorbell,
    ) -> Self {
        let (lanes, mut receivers) = Lanes::new(config);
        let recorders = TaskTracker::new();
        let recorder = Recorder::start(database.settings(), doorbell, &recorders);
        let cut = CancellationToken::new();
        let works = config
            .destinations
            .iter()
            .filter_map(|(name, destination)| {
                let (target, receiver) = (targets.remove(name)?, receivers.remove(name)?);
                let counter = match &target {
                    Target::Clay(clay) => Some(Counter::start(clay.pool().clone(), database.clone(), &recorders)),
                    Target::Log | Target::Http(_) => None,
                };
                let work = LaneWork {
                    counter,
                    lane: lanes.get(name)?,
                    pace: pace_of(destination, database),
                    name: name.clone(),
                    target,
                    retries: destination.retries.clone(),
                    timeout: destination.timeout,
                    database: database.clone(),
                    doorbell: doorbell.clone(),
                    recorder: recorder.clone(),
                    attempts: TaskTracker::new(),
                    cut: cut.clone(),
                };
                Some((Arc::new(work), receiver))
            })
            .collect();
        Self { lanes: Arc::new(lanes), works, database: database.clone(), recorders, drain: config.worker.drain, cut }
    }

    /// What routing hands deliveries to.
    pub fn lanes(&self) -> Arc<Lanes> {
        Arc::clone(&self.lanes)
    }

    /// Delivers until `shutdown`, then waits for what is under way as long as the configuration says, cuts off what is
    /// left, and writes every outcome before it returns. Each lane beats as `deliver.<destination>`.
    pub async fn run(self, queue: Arc<dyn Queue>, health: &Health, shutdown: CancellationToken) {
        let loops = TaskTracker::new();
        let mut tracked = Vec::new();
        let tables = self.works.iter().filter_map(|(work, _)| match &work.target {
            Target::Clay(clay) => Some(Arc::clone(clay)),
            Target::Log | Target::Http(_) => None,
        });
        let pools = Pools::new(tables.collect(), self.database.clone());
        loops.spawn(watch::run(Arc::clone(&self.lanes), pools, self.database, shutdown.clone()));
        for (work, receiver) in self.works {
            tracked.push(work.attempts.clone());
            let beat = health.watch(format!("deliver.{}", work.name));
            loops.spawn(consume::run(Arc::clone(&work), Arc::clone(&queue), beat, shutdown.clone()));
            loops.spawn(take_started(work, receiver, shutdown.clone()));
        }
        loops.close();
        shutdown.cancelled().await;
        self.lanes.close();
        crash::point(Point::WhileStopping);
        let drained = async {
            loops.wait().await;
            for attempts in &tracked {
                attempts.close();
                attempts.wait().await;
            }
        };
        tokio::pin!(drained);
        if tokio::time::timeout(self.drain, &mut drained).await.is_err() {
            tracing::warn!("requests that are still under way are cut off");
            self.cut.cancel();
            // What is cut off is recorded still, which a database that is away keeps from ending.
            let _unwritten = tokio::time::timeout(RECORD_PATIENCE, drained).await;
        }
        self.recorders.close();
        if tokio::time::timeout(RECORD_PATIENCE, self.recorders.wait()).await.is_err() {
            tracing::error!("outcomes could not be written; their deliveries will be attempted again");
        }
    }
}

/// The rate of a destination; Clay's is one of its workspace.
fn pace_of(destination: &Destination, database: &Database) -> Option<Pace> {
    let scope = match (&destination.kind, &destination.workspace) {
        (DestinationKind::Clay(_), Some(workspace)) => format!("clay:{workspace}"),
        _ => format!("destination:{}", destination.name),
    };
    destination.rate.map(|rate| Pace::new(scope, rate, database.clone()))
}

/// Starts what routing hands over, in order, as slots become free. At a stop, what has no slot yet is given back.
async fn take_started(work: Arc<LaneWork>, mut receiver: mpsc::UnboundedReceiver<InLine>, shutdown: CancellationToken) {
    loop {
        let next = tokio::select! {
            next = receiver.recv() => next,
            () = shutdown.cancelled() => receiver.try_recv().ok(),
        };
        let Some(next) = next else { return };
        work.start_in_line(next).await;
    }
}
