//! The worker as a whole: built, then run until its token is cancelled. Holds no process-wide state, so that a process
//! can host it beside other parts.
//!
//! Stop, in this order: routing ends its batches; deliveries under way end, for as long as `worker.drain` says; their
//! outcomes are written; the upkeep ends last, so that nothing that is still under way is taken for lost unseen.

use std::sync::Arc;
use std::time::Duration;

use common::config::Config;
use common::db::Database;
use common::db::sweep::SweepLimits;
use common::queue::{Doorbell, Queue};
use common::rules::{EVALUATION_DEADLINE, RuleProblem, RuleSet, RuleThreads};
use common::telemetry::Probe;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::dead_letters::DeadLetters;
use crate::deliver::Deliverer;
use crate::destinations::PrepareError;
use crate::health::Health;
use crate::released::Releaser;
use crate::rescue::Rescuer;
use crate::route::{self, Router};
use crate::sweep::Sweeper;
use crate::{duties, retention, telemetry};

/// How long a loop that panicked stays down. Its message comes again and is counted, so a poisonous one ends as dead.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Why the worker cannot start. Postgres being away is no reason.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The rules cannot be used.
    #[error("the rules cannot be used: {}", list(.0))]
    Rules(Vec<RuleProblem>),
    /// A destination cannot be used.
    #[error("a destination cannot be used")]
    Destination(#[from] PrepareError),
    /// No thread for the rules.
    #[error("the threads of the rules could not be started")]
    Threads(#[source] std::io::Error),
}

/// A part of the worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[error("a part of the worker ended on its own")]
pub struct RunError(#[source] Option<tokio::task::JoinError>);

/// The worker, built and not running yet.
pub struct Application {
    config: Arc<Config>,
    database: Database,
    queue: Arc<dyn Queue>,
    doorbell: Doorbell,
    health: Health,
    rules: Arc<RuleSet>,
    router: Router,
    deliverer: Deliverer,
    shutdown: CancellationToken,
}

impl Application {
    /// Compiles the rules and prepares the destinations. Nothing is asked of Postgres before
    /// [`Application::run_until_stopped`].
    ///
    /// # Errors
    /// [`StartError`]; never because Postgres is away.
    pub fn build(
        config: &Config,
        database: Database,
        queue: Arc<dyn Queue>,
        doorbell: Doorbell,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        telemetry::register(config);
        let config = Arc::new(config.clone());
        let rules = Arc::new(compile(&config)?);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads =
            RuleThreads::start(Arc::clone(&rules), threads, EVALUATION_DEADLINE).map_err(StartError::Threads)?;
        let deliverer = Deliverer::build(&config, &database, &doorbell)?;
        let router = Router::new(
            Arc::clone(&config),
            database.clone(),
            doorbell.clone(),
            deliverer.lanes(),
            Arc::clone(&rules),
            threads,
        );
        Ok(Self { config, database, queue, doorbell, health: Health::default(), rules, router, deliverer, shutdown })
    }

    /// What `/readyz` asks.
    pub fn probes(&self) -> Vec<Arc<dyn Probe>> {
        vec![Arc::new(self.health.clone())]
    }

    /// Routes, delivers and keeps things going until the token is cancelled, then ends what is under way.
    ///
    /// # Errors
    /// [`RunError`] when a part of it ended on its own. Nothing is lost by that: leases run out, messages come again.
    pub async fn run_until_stopped(self) -> Result<(), RunError> {
        let (stop_delivering, stop_upkeep) = (CancellationToken::new(), CancellationToken::new());
        let mut routing = JoinSet::new();
        self.spawn_routing(&mut routing);
        let mut upkeep = JoinSet::new();
        self.spawn_upkeep(&mut upkeep, &stop_upkeep);
        let Self { queue, health, deliverer, shutdown, .. } = self;
        let delivered = stop_delivering.clone();
        let mut delivering = tokio::spawn(async move { deliverer.run(queue, &health, delivered).await });

        let mut ended_early = None;
        let mut has_delivered = false;
        tokio::select! {
            () = shutdown.cancelled() => {}
            Some(ended) = routing.join_next() => ended_early = (!shutdown.is_cancelled()).then(|| ended.err()),
            Some(ended) = upkeep.join_next() => ended_early = Some(ended.err()),
            ended = &mut delivering => { has_delivered = true; ended_early = Some(ended.err()); }
        }
        shutdown.cancel();
        while routing.join_next().await.is_some() {}
        stop_delivering.cancel();
        if !has_delivered && let Err(error) = delivering.await {
            ended_early = ended_early.or(Some(Some(error)));
        }
        stop_upkeep.cancel();
        while upkeep.join_next().await.is_some() {}
        ended_early.map_or(Ok(()), |error| Err(RunError(error)))
    }

    /// The consumers of `callbacks` and `released`, and of what the back-end gave up.
    fn spawn_routing(&self, parts: &mut JoinSet<()>) {
        for number in 0..self.config.worker.concurrency {
            let name = format!("route.{number}");
            let (router, queue) = (self.router.clone(), Arc::clone(&self.queue));
            let (health, shutdown) = (self.health.clone(), self.shutdown.clone());
            parts.spawn(keep_running(name.clone(), self.shutdown.clone(), move || {
                route::consume::run(router.clone(), Arc::clone(&queue), health.watch(name.clone()), shutdown.clone())
            }));
        }
        let releaser = Releaser::new(&self.config, self.database.clone(), self.doorbell.clone());
        let (queue, health, shutdown) = (Arc::clone(&self.queue), self.health.clone(), self.shutdown.clone());
        parts.spawn(keep_running("released".to_owned(), self.shutdown.clone(), move || {
            releaser.clone().run(Arc::clone(&queue), health.watch("released"), shutdown.clone())
        }));
        if let Some(name) = self.queue.dead_letters() {
            let (router, database) = (self.router.clone(), self.database.clone());
            let dead = DeadLetters { router, database, doorbell: self.doorbell.clone() };
            let (queue, health, shutdown) = (Arc::clone(&self.queue), self.health.clone(), self.shutdown.clone());
            parts.spawn(keep_running("dead letters".to_owned(), self.shutdown.clone(), move || {
                let beat = health.watch("dead letters");
                dead.clone().run(Arc::clone(&queue), name.clone(), beat, shutdown.clone())
            }));
        }
    }

    /// The duties that run from time to time.
    fn spawn_upkeep(&self, parts: &mut JoinSet<()>, stop: &CancellationToken) {
        let rescuer = Rescuer::new(&self.config, self.database.clone(), self.doorbell.clone());
        let (health, token, every) = (self.health.clone(), stop.clone(), self.config.worker.rescue_every);
        parts.spawn(keep_running("rescue".to_owned(), stop.clone(), move || {
            rescuer.clone().run(health.watch_every("rescue", every), token.clone())
        }));
        let (config, database, doorbell) = (Arc::clone(&self.config), self.database.clone(), self.doorbell.clone());
        let (health, token, every) = (self.health.clone(), stop.clone(), self.config.worker.sweep_every);
        parts.spawn(keep_running("sweep".to_owned(), stop.clone(), move || {
            Sweeper::new(Arc::clone(&config), database.clone(), doorbell.clone(), SweepLimits::default())
                .run(health.watch_every("sweep", every), token.clone())
        }));
        let (database, rules) = (self.database.clone(), Arc::clone(&self.rules));
        let (health, token) = (self.health.clone(), stop.clone());
        parts.spawn(keep_running("rule sets".to_owned(), stop.clone(), move || {
            duties::announce_rules(database.clone(), Arc::clone(&rules), health.clone(), token.clone())
        }));
        let (database, token) = (self.database.clone(), stop.clone());
        parts.spawn(keep_running("partitions".to_owned(), stop.clone(), move || {
            duties::make_partitions(database.clone(), token.clone())
        }));
        if !self.config.retention.is_empty() {
            let (database, policy) = (self.database.clone(), self.config.retention);
            let (health, token) = (self.health.clone(), stop.clone());
            parts.spawn(keep_running("retention".to_owned(), stop.clone(), move || {
                retention::run(database.clone(), policy, health.clone(), token.clone())
            }));
        }
    }
}

fn compile(config: &Config) -> Result<RuleSet, StartError> {
    let destinations: Vec<String> = config.destinations.keys().cloned().collect();
    let sources: Vec<String> = config.sources.keys().cloned().collect();
    RuleSet::compile(&config.rules, &destinations, &sources).map_err(StartError::Rules)
}

fn list(problems: &[RuleProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Runs a part until it ends, and starts it again where it panics.
async fn keep_running<F>(name: String, shutdown: CancellationToken, mut part: impl FnMut() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while let Err(error) = tokio::spawn(part()).await {
        // The payload of a panic may quote a lead; it goes nowhere.
        tracing::error!(part = name, panicked = error.is_panic(), "a part of the worker broke; starting it again");
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(AFTER_PANIC) => {}
        }
    }
}
