//! The throw-away PostgreSQL and RabbitMQ that one command's processes share.

use anyhow::{Context, anyhow};
use embedded::rabbitmq::{self, Broker};
use embedded::{Cluster, Home, Lock, Settings};

const PURPOSE: &str = "cargo xtask test";
const POSTGRES_VARIABLE: &str = "CLAYGATE_TEST_PG";
const RABBITMQ_VARIABLE: &str = "CLAYGATE_TEST_AMQP";

/// Both servers. Dropped, they stop, and everything of theirs is removed.
pub(crate) struct Servers {
    postgres: Postgres,
    rabbitmq: Broker,
}

impl Servers {
    /// Starts both at once: each needs seconds.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let (postgres, rabbitmq) = std::thread::scope(|scope| {
            let rabbitmq = scope.spawn(|| Broker::start(&rabbitmq::Settings::throw_away(PURPOSE)));
            (Postgres::start(), rabbitmq.join())
        });
        let rabbitmq = rabbitmq.map_err(|_| anyhow!("starting RabbitMQ panicked"))?;
        Ok(Self { postgres: postgres?, rabbitmq: rabbitmq? })
    }

    /// The variables that tell tests where the servers are.
    pub(crate) fn variables(&self) -> [(&'static str, String); 2] {
        [(POSTGRES_VARIABLE, self.postgres.url()), (RABBITMQ_VARIABLE, self.rabbitmq.url())]
    }

    /// Stops both; there is nothing to save.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        self.rabbitmq.kill()?;
        self.postgres.cluster.stop().context("stopping the test server")
    }
}

struct Postgres {
    cluster: Cluster,
    /// Others take the folder for a dead run's without it.
    _lock: Lock,
    _folder: tempfile::TempDir,
}

impl Postgres {
    fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("claygate-test-").tempdir().context("making a folder")?;
        let home = Home::temporary(folder.path())?;
        let lock = Lock::take(folder.path(), PURPOSE)?;
        let cluster = Cluster::start(&Settings::throw_away(home))?;
        Ok(Self { cluster, _lock: lock, _folder: folder })
    }

    fn url(&self) -> String {
        let (password, port) = (self.cluster.password(), self.cluster.port());
        format!("postgres://{}:{password}@127.0.0.1:{port}/postgres?sslmode=disable", embedded::USER)
    }
}
