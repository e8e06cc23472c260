//! A broker that a test breaks, and the installation that works over it.

use std::net::{Ipv4Addr, SocketAddr};

use sqlx::{PgPool, Postgres, Transaction};
use testkit::proxy::Proxy;
use testkit::rabbitmq::OwnBroker;
use testkit::receiver::Receiver;
use testkit::wait::wait_for;
use uuid::Uuid;

use crate::services::{Services, all_to};
use crate::site::LIMIT;

/// What a queue of the broker holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    /// Messages that wait for a consumer.
    pub(crate) ready: usize,
    /// Messages that consumers hold.
    pub(crate) held: usize,
}

/// An installation over a broker of its own, where everything goes to one receiver.
pub(crate) struct Rig {
    pub(crate) broker: OwnBroker,
    pub(crate) receiver: Receiver,
    pub(crate) services: Services,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let (broker, receiver) = tokio::join!(OwnBroker::start(), Receiver::start());
        let config = all_to(&receiver);
        Self::over(broker, receiver, &config).await
    }

    /// The same with destinations and rules of the test's own.
    pub(crate) async fn over(broker: OwnBroker, receiver: Receiver, config: &str) -> Self {
        let services = Services::new(config).await.with_broker(&broker.url(), broker.prefix());
        Self { broker, receiver, services }
    }

    /// The same with a variable more for processes that start from now on.
    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        Self { services: self.services.with(name, value), ..self }
    }

    /// The same for a test whose books do not balance.
    pub(crate) fn without_books(self) -> Self {
        Self { services: self.services.without_books(), ..self }
    }

    /// Deletes a queue with all that is in it, as an operator might.
    pub(crate) async fn delete_queue(&self, queue: &str) {
        self.broker.ctl(&["delete_queue", &format!("{}.{queue}", self.broker.prefix())]).await;
    }

    /// A proxy before the broker, which only processes that are told so use.
    pub(crate) async fn proxy(&self) -> Proxy {
        Proxy::to(SocketAddr::from((Ipv4Addr::LOCALHOST, self.broker.port()))).await
    }

    /// What a queue holds now.
    pub(crate) async fn depth(&self, queue: &str) -> Depth {
        let columns = ["name", "messages_ready", "messages_unacknowledged"];
        let listed = self.broker.ctl(&[&["list_queues", "--quiet", "--no-table-headers"][..], &columns].concat()).await;
        let name = format!("{}.{queue}", self.broker.prefix());
        let mut found = listed.lines().filter_map(|line| {
            let mut columns = line.split('\t');
            (columns.next() == Some(&name))
                .then(|| columns.map(|n| n.parse().unwrap_or_default()).collect::<Vec<usize>>())
        });
        found.next().map_or_else(Depth::default, |counts| Depth { ready: counts[0], held: counts[1] })
    }

    /// Waits until a queue holds so much.
    pub(crate) async fn wait_for_depth(&self, queue: &str, is_so: impl Fn(Depth) -> bool) -> Depth {
        wait_for(&format!("the depth of {queue}"), LIMIT, async || {
            let depth = self.depth(queue).await;
            if is_so(depth) { Ok(depth) } else { Err(depth) }
        })
        .await
    }

    /// Nothing became a dead letter, here or there.
    pub(crate) async fn assert_nothing_dead(&self) {
        assert_eq!(self.depth("dead").await, Depth::default(), "dead letters in the broker");
        let dead: Vec<(String, i64)> = sqlx::query_as(
            "SELECT 'callbacks', count(*) FROM claygate.callbacks WHERE state = 'dead'
             UNION ALL SELECT 'deliveries', count(*) FROM claygate.deliveries WHERE state = 'dead'",
        )
        .fetch_all(self.services.database.pool())
        .await
        .unwrap();
        assert!(dead.iter().all(|(_, n)| *n == 0), "{dead:?}");
    }
}

/// A transaction that whoever routes a certain callback has to wait for.
pub(crate) struct Trap(Transaction<'static, Postgres>);

impl Trap {
    pub(crate) async fn set(pool: &PgPool, callback: Uuid) -> Self {
        let mut transaction = pool.begin().await.unwrap();
        // The same row as routing is about to write.
        sqlx::query(
            "INSERT INTO claygate.leads (callback_id, received_at, extra, warnings) VALUES ($1, now(), '{}', '{}')",
        )
        .bind(callback)
        .execute(&mut *transaction)
        .await
        .unwrap();
        Self(transaction)
    }

    /// The back-end of Postgres that waits, if one does.
    pub(crate) async fn prey(pool: &PgPool) -> Option<i32> {
        sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity
             WHERE datname = current_database() AND pg_blocking_pids(pid) <> '{}' ORDER BY query_start LIMIT 1",
        )
        .fetch_optional(pool)
        .await
        .unwrap()
    }

    /// Waits until somebody is caught.
    pub(crate) async fn wait_for_prey(&self, pool: &PgPool) -> i32 {
        wait_for("somebody to be stuck", LIMIT, async || Self::prey(pool).await.ok_or("nobody")).await
    }

    /// Lets everybody go on.
    pub(crate) async fn open(self) {
        self.0.rollback().await.unwrap();
    }
}
