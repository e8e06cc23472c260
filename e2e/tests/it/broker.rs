//! A broker that a test breaks, and the installation that works over it.

use std::net::{Ipv4Addr, SocketAddr};

use testkit::proxy::Proxy;
use testkit::rabbitmq::OwnBroker;
use testkit::receiver::Receiver;
use testkit::wait::wait_for;

use crate::services::{Services, all_to};
use crate::site::LIMIT;

/// More than any process has to say within a second while its broker is in trouble.
pub(crate) const LINES_PER_SECOND: usize = 40;

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
