//! The broker goes away, dies, says nothing, or is short of memory: callbacks are taken as if nothing had happened, and
//! delivered once when it is back.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use testkit::proxy::{Direction, Proxy};
use testkit::receiver::Answer;

use crate::books;
use crate::broker::Rig;
use crate::service::Service;
use crate::services::Role;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_closed_under_load_lose_nothing_and_send_nothing_twice() {
    let rig = Rig::start().await;
    let intake = rig.services.ingest("ingest").await;
    let workers = [rig.services.worker("worker-1").await, rig.services.worker("worker-2").await];
    let (sender, vigil) = (rig.services.sender([&intake]), intake.watch());
    let stream = sender.spawn_stream();
    sender.wait_for_answers(30).await;
    for _ in 0..3 {
        rig.broker.ctl(&["close_all_connections", "a test"]).await;
        sender.wait_for_answers(sender.answered() + 30).await;
    }
    // One of them stands still for a moment, with whatever it holds.
    workers[0].signal(Signal::STOP);
    sender.wait_for_answers(sender.answered() + 30).await;
    workers[0].signal(Signal::CONT);
    let answered = stream.stop().await;
    books::assert_all_delivered(&rig.services.database.database(), &answered).await;
    books::assert_sent(&rig.receiver, answered.len(), 0);
    for worker in &workers {
        worker.wait_for_readiness(true).await;
        assert!(worker.log.count("connected to RabbitMQ") > 2, "it was cut off and came back");
    }
    vigil.assert_undisturbed().await;
    sender.assert_undisturbed();
    rig.assert_nothing_dead().await;
    rig.services.assert_logs_bounded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_dies_or_freezes_disturbs_no_intake() {
    let rig = Rig::start().await;
    let intakes = [rig.services.ingest("ingest-1").await];
    let worker = rig.services.worker("worker-1").await;
    let (sender, vigil) = (rig.services.sender(&intakes), intakes[0].watch());
    let stream = sender.spawn_stream();
    rig.receiver.wait_for_requests(10).await;

    rig.broker.stop().await;
    let told = worker.wait_for_readiness(false).await;
    assert!(told.report["checks"].is_array(), "it still answers: {told:?}");
    // Whoever starts now comes up all the same: an intake takes callbacks, a worker waits for what it needs.
    let late = (rig.services.ingest("ingest-2").await, rig.services.spawn(Role::Worker, "worker-2"));
    sender.follow(intakes.iter().chain([&late.0]).map(Service::port));
    sender.wait_for_answers(sender.answered() + 30).await;
    rig.broker.start_again().await;
    let late_worker = late.1.wait_until_ready().await;

    rig.receiver.wait_for_requests(rig.receiver.requests().len() + 10).await;
    rig.broker.kill().await;
    sender.wait_for_answers(sender.answered() + 30).await;
    rig.broker.start_again().await;

    rig.receiver.wait_for_requests(rig.receiver.requests().len() + 10).await;
    rig.broker.pause().await;
    sender.wait_for_answers(sender.answered() + 100).await;
    rig.broker.resume().await;

    let answered = stream.stop().await;
    books::assert_all_delivered(&rig.services.database.database(), &answered).await;
    books::assert_sent(&rig.receiver, answered.len(), 0);
    worker.wait_for_readiness(true).await;
    late_worker.wait_for_readiness(true).await;
    vigil.assert_undisturbed().await;
    sender.assert_undisturbed();
    rig.assert_nothing_dead().await;
    rig.services.assert_logs_bounded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_short_of_memory_blocks_neither_intake_nor_acknowledgements() {
    const BEFORE: usize = 60;
    let rig = Rig::start().await;
    // Everything is taken, and nothing of it can be finished yet.
    rig.receiver.answer_with(Answer::status(200).after(Duration::from_millis(400)));
    let intake = rig.services.ingest("ingest").await;
    let sender = rig.services.sender([&intake]);
    let mut answered = sender.spawn_load(BEFORE).await.unwrap();
    rig.wait_for_depth("callbacks", |depth| depth.ready > 0).await;

    rig.broker.ctl(&["set_vm_memory_high_watermark", "0.0001"]).await;
    let vigil = intake.watch();
    let worker = rig.services.worker("worker").await;
    // What was in the broker is taken out of it and acknowledged.
    rig.wait_for_depth("callbacks", |depth| depth.ready + depth.held == 0).await;
    let routed = rig.receiver.wait_for_requests(1).await;
    assert!(!routed.is_empty());
    answered.extend(sender.spawn_load(20).await.unwrap());
    assert_eq!(rig.depth("callbacks").await.ready, 0, "nothing is published while the broker wants nothing");
    vigil.assert_undisturbed().await;

    rig.broker.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
    rig.receiver.answer_with(Answer::status(200));
    books::assert_all_delivered(&rig.services.database.database(), &answered).await;
    books::assert_sent(&rig.receiver, answered.len(), 0);
    worker.wait_for_readiness(true).await;
    sender.assert_undisturbed();
    rig.services.assert_logs_bounded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_hears_nothing_any_more_says_so_and_heals_without_a_restart() {
    const RED_WITHIN: Duration = Duration::from_secs(15);
    let rig = Rig::start().await;
    let proxy = rig.proxy().await;
    let intake = rig.services.ingest("ingest").await;
    let Rig { broker, receiver, services } = rig;
    let services = services.with_broker(&proxy.url(&broker.url()), broker.prefix());
    let worker = services.worker("worker").await;
    let (sender, vigil) = (services.sender([&intake]), intake.watch());
    let stream = sender.spawn_stream();
    receiver.wait_for_requests(10).await;

    for silence in [Proxy::black_hole, |proxy: &Proxy| proxy.black_hole_towards(Direction::ToClient)] {
        silence(&proxy);
        let begun = Instant::now();
        worker.wait_for_readiness(false).await;
        assert!(begun.elapsed() < RED_WITHIN, "red after {:?}", begun.elapsed());
        proxy.heal().await;
        worker.wait_for_readiness(true).await;
        receiver.wait_for_requests(receiver.requests().len() + 10).await;
    }
    let answered = stream.stop().await;
    books::assert_all_delivered(&services.database.database(), &answered).await;
    books::assert_sent(&receiver, answered.len(), 0);
    assert_eq!(worker.log.count("started"), 1);
    vigil.assert_undisturbed().await;
    sender.assert_undisturbed();
    services.assert_logs_bounded();
}
