//! The parts of one process, and the order in which they stop.

use std::sync::Arc;

use common::config::Config;
use common::db::{ConnectSettings, Database};
use common::queue::rabbitmq::Relay;
use common::queue::{self, BacklogWatch, Doorbell};
use common::telemetry::Probe;
use common::telemetry::metrics::MetricsHandle;
use console::AdminServer;
use tokio_util::sync::CancellationToken;

/// Built parts, listening but not yet answering.
pub(crate) struct Parts {
    database: Database,
    doorbell: Doorbell,
    backlog: BacklogWatch,
    relay: Option<Relay>,
    intake: ingest::Application,
    worker: worker::Application,
    admin: AdminServer,
    /// Ends the intake; cancelled first.
    intake_stop: CancellationToken,
    /// Ends the worker; cancelled when the intake has ended.
    worker_stop: CancellationToken,
    /// Ends what the others lean on; cancelled last.
    stop: CancellationToken,
}

impl Parts {
    /// Builds every part.
    pub(crate) async fn build(
        config: &Config,
        settings: &ConnectSettings,
        metrics: MetricsHandle,
    ) -> anyhow::Result<Self> {
        let [stop, intake_stop, worker_stop] = std::array::from_fn(|_| CancellationToken::new());
        let database = Database::open(settings.clone());
        let doorbell = Doorbell::new();
        let backlog = BacklogWatch::new();
        let queue = queue::open(config, &database, &doorbell);
        let relay = queue.relay(queue::queues_of(config));
        let worker =
            worker::Application::build(config, database.clone(), queue, doorbell.clone(), worker_stop.clone())?;
        let intake =
            ingest::Application::build(config, database.clone(), doorbell.clone(), intake_stop.clone()).await?;
        let mut probes = intake.probes();
        probes.extend(worker.probes());
        probes.push(Arc::new(backlog.clone()) as Arc<dyn Probe>);
        let admin = AdminServer::bind(config, probes, metrics)?;
        Ok(Self { database, doorbell, backlog, relay, intake, worker, admin, intake_stop, worker_stop, stop })
    }

    /// The public port.
    pub(crate) fn port(&self) -> u16 {
        self.intake.port()
    }

    /// The admin port.
    pub(super) fn admin_port(&self) -> u16 {
        self.admin.port()
    }

    /// Runs until `shutdown`, or until a part ends before that.
    pub(crate) async fn run_until(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let Self { database, doorbell, backlog, relay, intake, worker, admin, intake_stop, worker_stop, stop } = self;
        // Cancelled by whichever part ends first.
        let ended = CancellationToken::new();
        let taking_in = tokio::spawn(tell(intake.run_until_stopped(), ended.clone()));
        let working = tokio::spawn(tell(worker.run_until_stopped(), ended.clone()));
        let served = tokio::spawn(tell(admin.run_until(stop.clone()), ended.clone()));
        let bell = tokio::spawn(doorbell.run(database.clone(), stop.clone()));
        let watch = tokio::spawn(backlog.run(database.clone(), stop.clone()));
        let relay = relay.map(|relay| tokio::spawn(relay.run(stop.clone())));

        tokio::select! {
            () = shutdown.cancelled() => {}
            () = ended.cancelled() => {}
        }
        intake_stop.cancel();
        let taken_in = taking_in.await;
        worker_stop.cancel();
        let worked = working.await;
        stop.cancel();
        let served = served.await;
        bell.await?;
        watch.await?;
        if let Some(relay) = relay {
            relay.await?;
        }
        database.close().await;
        taken_in??;
        worked??;
        Ok(served??)
    }
}

/// Cancels `ended` when `part` ends, or panics.
async fn tell<T>(part: impl Future<Output = T>, ended: CancellationToken) -> T {
    let _told = ended.drop_guard();
    part.await
}
