//! Death between any two steps: a process ends itself at each named point, another takes over, and everything that was
//! answered arrives: once, or once more under the same key where the destination's answer was not written yet.

use std::net::SocketAddr;
use std::time::Duration;

use common::crash::Point;
use futures_util::FutureExt as _;
use rustix::process::Signal;
use testkit::postgres::TestDatabase;
use testkit::proxy::Proxy;
use testkit::rabbitmq::TestBroker;
use testkit::receiver::{Answer, Receiver};

use crate::books;
use crate::parts::at_once;
use crate::sender::Sender;
use crate::services::{Role, Services, all_to};

const LEADS: usize = 40;
/// Not the first passage: something is finished already, and something under way. What passes may carry many leads at
/// once, so that no number of leads is sure to pass as often: they keep coming until the process has died.
const PASSAGES: u32 = 3;
/// Nine installations run at once.
const EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Copy)]
enum Queue {
    Postgres,
    RabbitMq,
}

/// An installation whose leases are short.
struct Rig {
    receiver: Receiver,
    services: Services,
}

impl Rig {
    async fn over(database: TestDatabase, queue: Queue) -> Self {
        let receiver = Receiver::start().await;
        receiver.answer_with(Answer::status(200).after(Duration::from_millis(20)));
        // A lease is as long as the longest request, and a margin.
        let config = all_to(&receiver).replacen("kind = \"http\"", "kind = \"http\"\ntimeout = \"3s\"", 1);
        let services = Services::over(database, &config);
        let services = match queue {
            Queue::Postgres => services,
            Queue::RabbitMq => {
                let broker = TestBroker::shared().await;
                services.with_broker(broker.url(), broker.prefix())
            }
        };
        Self { receiver, services }
    }

    /// Whatever was answered arrived, and nothing more often than `again` times more.
    async fn assert_nothing_lost(&self, answered: &[String], again: usize) {
        books::assert_all_delivered(&self.services.database.database(), answered).await;
        books::assert_sent(&self.receiver, answered.len(), again);
        self.services.assert_logs_bounded();
    }
}

/// An intake dies at `point`, and its successor takes the rest.
async fn an_intake_dies(point: Point, queue: Queue) {
    let rig = Rig::over(TestDatabase::create().await, queue).await;
    let doomed = rig.services.spawn_doomed(Role::Ingest, "ingest", point, PASSAGES).wait_until_ready().await;
    let worker = rig.services.worker("worker").await;
    let sender = rig.services.sender([&doomed]);
    let stream = sender.spawn_stream_every(EVERY);
    doomed.wait_for_crash().await;
    let successor = rig.services.ingest("ingest").await;
    sender.follow([successor.port()]);
    rig.assert_nothing_lost(&stream.stop().await, 0).await;
    successor.terminate().await;
    worker.terminate().await;
}

/// A worker dies at `point`, beside another one, or before it comes.
async fn a_worker_dies(point: Point, queue: Queue, again: usize) {
    let rig = Rig::over(TestDatabase::create().await, queue).await;
    let intake = rig.services.ingest("ingest").await;
    let doomed = rig.services.spawn_doomed(Role::Worker, "worker-1", point, PASSAGES).wait_until_ready().await;
    let stream = rig.services.sender([&intake]).spawn_stream_every(EVERY);
    doomed.wait_for_crash().await;
    let successor = rig.services.worker("worker-2").await;
    rig.assert_nothing_lost(&stream.stop().await, again).await;
    successor.terminate().await;
    intake.terminate().await;
}

/// A worker dies while it stops.
async fn a_stopping_worker_dies() {
    let rig = Rig::over(TestDatabase::create().await, Queue::Postgres).await;
    rig.receiver.answer_with(Answer::status(200).after(Duration::from_millis(300)));
    let intake = rig.services.ingest("ingest").await;
    let doomed = rig.services.spawn_doomed(Role::Worker, "worker-1", Point::WhileStopping, 1).wait_until_ready().await;
    let load = rig.services.sender([&intake]).spawn_load(LEADS);
    rig.receiver.wait_for_requests(5).await;
    doomed.signal(Signal::TERM);
    doomed.wait_for_crash().await;
    let successor = rig.services.worker("worker-2").await;
    rig.assert_nothing_lost(&load.await.unwrap(), 1).await;
    successor.terminate().await;
}

/// An intake without Postgres, whose spool fills.
struct Spooling {
    rig: Rig,
    proxy: Proxy,
}

impl Spooling {
    async fn start() -> Self {
        let database = TestDatabase::create().await;
        let settings = database.settings();
        let proxy = Proxy::to(SocketAddr::new(settings.host.parse().unwrap(), settings.port)).await;
        let url = proxy.url(&database.url());
        let Rig { receiver, services } = Rig::over(database, Queue::Postgres).await;
        Self { rig: Rig { receiver, services: services.with("CLAYGATE_DATABASE__URL", &url) }, proxy }
    }

    async fn take_postgres_away(&self) {
        self.proxy.refuse().await;
        self.proxy.cut().await;
    }

    /// Starts a successor and a worker, and waits until everything has come.
    async fn finish(&self, sender: &Sender, answered: impl Future<Output = Vec<String>>) {
        let successor = self.rig.services.ingest("ingest").await;
        sender.follow([successor.port()]);
        let answered = answered.await;
        self.proxy.heal().await;
        let worker = self.rig.services.worker("worker").await;
        self.rig.assert_nothing_lost(&answered, 0).await;
        successor.terminate().await;
        worker.terminate().await;
    }
}

async fn an_intake_dies_after_spooling() {
    let spooling = Spooling::start().await;
    let services = &spooling.rig.services;
    let doomed = services.spawn_doomed(Role::Ingest, "ingest", Point::AfterSpool, PASSAGES).wait_until_ready().await;
    spooling.take_postgres_away().await;
    let sender = services.sender([&doomed]);
    let stream = sender.spawn_stream_every(EVERY);
    doomed.wait_for_crash().await;
    spooling.finish(&sender, stream.stop()).await;
}

async fn an_intake_dies_while_it_drains() {
    let spooling = Spooling::start().await;
    let services = &spooling.rig.services;
    let doomed = services.spawn_doomed(Role::Ingest, "ingest", Point::WhileDraining, 1).wait_until_ready().await;
    spooling.take_postgres_away().await;
    let sender = services.sender([&doomed]);
    let load = sender.spawn_load(LEADS);
    sender.wait_for_answers(LEADS).await;
    spooling.proxy.heal().await;
    doomed.wait_for_crash().await;
    spooling.finish(&sender, async { load.await.unwrap() }).await;
}

#[test]
fn an_intake_that_dies_between_any_two_steps_loses_nothing() {
    at_once([
        an_intake_dies(Point::AfterVerify, Queue::Postgres).boxed(),
        an_intake_dies(Point::AfterCommit, Queue::Postgres).boxed(),
        an_intake_dies(Point::AfterPublish, Queue::RabbitMq).boxed(),
        an_intake_dies_after_spooling().boxed(),
        an_intake_dies_while_it_drains().boxed(),
    ]);
}

#[test]
fn a_worker_that_dies_between_any_two_steps_loses_nothing_and_repeats_only_what_was_not_written() {
    at_once([
        a_worker_dies(Point::AfterClaim, Queue::Postgres, 1).boxed(),
        a_worker_dies(Point::AfterClaim, Queue::RabbitMq, 1).boxed(),
        a_worker_dies(Point::AfterRoute, Queue::Postgres, 1).boxed(),
        a_worker_dies(Point::AfterRoute, Queue::RabbitMq, 1).boxed(),
        a_worker_dies(Point::AfterLease, Queue::Postgres, 1).boxed(),
        a_worker_dies(Point::AfterSend, Queue::Postgres, 1).boxed(),
        a_worker_dies(Point::AfterSend, Queue::RabbitMq, 1).boxed(),
        a_worker_dies(Point::AfterRecord, Queue::Postgres, 1).boxed(),
        a_stopping_worker_dies().boxed(),
    ]);
}
