//! Two intakes and two workers over a Postgres and a broker of their own, with a proxy between every pair, and a load.

use std::net::SocketAddr;
use std::time::Duration;

use testkit::own_postgres::OwnPostgres;
use testkit::proxy::Proxy;
use testkit::rabbitmq::OwnBroker;
use testkit::receiver::{Answer, Receiver};

use super::fault::{Link, Part};
use super::promise::Ledger;
use super::resources::Usage;
use crate::sender::Sender;
use crate::service::Service;
use crate::services::{Role, SECRET, Services};

/// What claygate makes of a destination's time-out of two seconds, which is shorter than every stop.
pub(super) const LEASE: Duration = Duration::from_secs(2 + 20);
/// Long enough for several requests to be under way at any moment.
const ANSWER_AFTER: Duration = Duration::from_millis(20);
/// Before anything goes wrong: caches, pools and buffers are what they will be.
const WARM_UP: usize = 150;

/// The fault proxies.
pub(super) struct Links {
    ingest_postgres: Proxy,
    worker_postgres: Proxy,
    ingest_broker: Proxy,
    worker_broker: Proxy,
    worker_destination: Proxy,
}

/// An installation under load. What needs the servers stands before them.
pub(super) struct Rig {
    pub(super) intakes: Vec<Service>,
    pub(super) workers: Vec<Service>,
    pub(super) sender: Sender,
    pub(super) services: Services,
    pub(super) receiver: Receiver,
    pub(super) links: Links,
    pub(super) broker: OwnBroker,
    pub(super) postgres: OwnPostgres,
    pub(super) ledger: Ledger,
    pub(super) baseline: Usage,
}

impl Rig {
    /// Starts everything, and measures it after a quiet load.
    pub(super) async fn start() -> Self {
        let (postgres, broker, receiver) = tokio::join!(OwnPostgres::start(), OwnBroker::start(), Receiver::start());
        let database = postgres.database().await;
        let settings = database.settings();
        let to_postgres = SocketAddr::new(settings.host.parse().unwrap(), settings.port);
        let to_broker = SocketAddr::from(([127, 0, 0, 1], broker.port()));
        let links = Links {
            ingest_postgres: Proxy::to(to_postgres).await,
            worker_postgres: Proxy::to(to_postgres).await,
            ingest_broker: Proxy::to(to_broker).await,
            worker_broker: Proxy::to(to_broker).await,
            worker_destination: Proxy::to(receiver.address()).await,
        };
        let url = links.worker_destination.url(&receiver.url("/leads"));
        let url_of_database = database.url();
        let services = Services::over(database, &config(&url))
            .with_broker(&broker.url(), broker.prefix())
            // A stop of three seconds reaches the spool.
            .with("CLAYGATE_INGEST__LIMITS__COMMIT_TIMEOUT", "2s")
            .with_for(Role::Ingest, "CLAYGATE_DATABASE__URL", &links.ingest_postgres.url(&url_of_database))
            .with_for(Role::Worker, "CLAYGATE_DATABASE__URL", &links.worker_postgres.url(&url_of_database))
            .with_for(Role::Ingest, "CLAYGATE_QUEUE__URL", &links.ingest_broker.url(&broker.url()))
            .with_for(Role::Worker, "CLAYGATE_QUEUE__URL", &links.worker_broker.url(&broker.url()));
        let intakes = vec![services.ingest("ingest-1").await, services.ingest("ingest-2").await];
        let workers = vec![services.worker("worker-1").await, services.worker("worker-2").await];
        let sender = Sender::to(intakes.iter().map(Service::port), SECRET);
        let (ledger, baseline) = (Ledger::default(), Usage::default());
        let mut rig = Self { intakes, workers, sender, services, receiver, links, broker, postgres, ledger, baseline };
        rig.behave();
        let load = rig.sender.spawn_stream();
        rig.sender.wait_for_answers(WARM_UP).await;
        let answered = load.stop().await;
        rig.assert_kept("nothing", answered, 0).await;
        rig.baseline = rig.usage();
        rig
    }

    /// Stops every process in an orderly way.
    pub(super) async fn end(self) {
        for service in self.intakes.into_iter().chain(self.workers) {
            service.terminate().await;
        }
    }

    /// The destination does what it should.
    pub(super) fn behave(&self) {
        self.receiver.answer_with(Answer::status(200).after(ANSWER_AFTER));
    }

    /// Leads go to the intakes that run now.
    pub(super) fn follow(&self) {
        self.sender.follow(self.intakes.iter().map(Service::port));
    }

    /// What it takes, at most for a process of each kind.
    pub(super) fn usage(&self) -> Usage {
        let connections = self.links.ingest_postgres.open() + self.links.worker_postgres.open();
        Usage::of(&self.intakes, &self.workers, connections)
    }

    /// The processes of a part.
    pub(super) fn processes(&mut self, part: Part) -> (Role, &mut Vec<Service>) {
        match part {
            Part::Worker => (Role::Worker, &mut self.workers),
            _ => (Role::Ingest, &mut self.intakes),
        }
    }
}

impl Links {
    pub(super) fn get(&self, link: Link) -> &Proxy {
        match link {
            Link::IngestPostgres => &self.ingest_postgres,
            Link::WorkerPostgres => &self.worker_postgres,
            Link::IngestBroker => &self.ingest_broker,
            Link::WorkerBroker => &self.worker_broker,
            Link::WorkerDestination => &self.worker_destination,
        }
    }
}

/// Everything goes to one destination, which is tried again for longer than any fault lasts.
fn config(url: &str) -> String {
    let retries = ["\"2s\""; 30].join(", ");
    format!(
        "[destinations.out]\nkind = \"http\"\nurl = \"{url}\"\nallow_private = true\ntimeout = \"2s\"\n\
         retries = [\"1s\", {retries}]\nbreaker = {{ open = \"1s\", open_max = \"2s\" }}\n\
         [[rules]]\nname = \"all\"\nwhen = \"true\"\nto = [\"out\"]\n"
    )
}
