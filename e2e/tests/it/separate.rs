//! Intakes and workers as processes of their own, with Postgres as the queue: together, apart, and one after the other.

use std::net::SocketAddr;
use std::time::Duration;

use testkit::postgres::TestDatabase;
use testkit::proxy::Proxy;
use testkit::receiver::{Answer, Receiver};

use crate::books;
use crate::service::Service;
use crate::services::{Role, Services, all_to};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_intakes_and_two_workers_are_one_gateway() {
    const LEADS: usize = 60;
    let receiver = Receiver::start().await;
    let services = Services::new(&all_to(&receiver)).await;
    let intakes = [services.ingest("ingest-1").await, services.ingest("ingest-2").await];
    let workers = [services.worker("worker-1").await, services.worker("worker-2").await];
    let sender = services.sender(&intakes);
    let answered = sender.spawn_load(LEADS).await.unwrap();
    books::assert_all_delivered(&services.database.database(), &answered).await;
    books::assert_sent(&receiver, LEADS, 0);
    sender.assert_undisturbed();

    let mut taken = 0.0;
    for intake in &intakes {
        let page = intake.metrics().await;
        let accepted = page.value("claygate_callbacks_total", &[("result", "accepted")]).unwrap();
        assert!(accepted > 0.0, "{page}");
        taken += accepted;
    }
    assert_eq!(taken, LEADS as f64);
    let mut delivered = 0.0;
    for worker in &workers {
        let page = worker.metrics().await;
        delivered += page.value("claygate_deliveries_total", &[("outcome", "delivered")]).unwrap();
    }
    assert_eq!(delivered, LEADS as f64);
    for service in intakes.into_iter().chain(workers) {
        service.terminate().await;
    }
    services.assert_logs_bounded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_loses_nothing_and_sends_nothing_twice() {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(200).after(Duration::from_millis(20)));
    let services = Services::new(&all_to(&receiver)).await.through_claygate();
    let mut intakes = [services.ingest("ingest-1").await, services.ingest("ingest-2").await];
    let mut workers = [services.worker("worker-1").await, services.worker("worker-2").await];
    let sender = services.sender(&intakes);
    let stream = sender.spawn_stream();
    sender.wait_for_answers(20).await;
    for number in [0, 1] {
        // As a load balancer does it: first no more requests, then the stop.
        sender.follow([intakes[1 - number].port()]);
        sender.wait_for_answers(sender.answered() + 10).await;
        let successor = services.ingest(&format!("ingest-{}", number + 3)).await;
        std::mem::replace(&mut intakes[number], successor).terminate().await;
        sender.follow(intakes.iter().map(Service::port));
        let successor = services.worker(&format!("worker-{}", number + 3)).await;
        std::mem::replace(&mut workers[number], successor).terminate().await;
    }
    sender.wait_for_answers(sender.answered() + 20).await;
    let answered = stream.stop().await;
    books::assert_all_delivered(&services.database.database(), &answered).await;
    books::assert_sent(&receiver, answered.len(), 0);
    sender.assert_undisturbed();
    services.assert_logs_bounded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_intake_needs_no_worker_and_a_worker_finds_what_waits() {
    const LEADS: usize = 20;
    let receiver = Receiver::start().await;
    let services = Services::new(&all_to(&receiver)).await;
    let intake = services.ingest("ingest").await;
    let sender = services.sender([&intake]);
    let answered = sender.spawn_load(LEADS).await.unwrap();
    sender.assert_undisturbed();
    let waiting = [("received".to_owned(), "-".to_owned(), i64::try_from(LEADS).unwrap())];
    assert_eq!(books::states(&services.database.database()).await, waiting);
    assert!(intake.readiness().await.ready);

    let worker = services.worker("worker").await;
    books::assert_all_delivered(&services.database.database(), &answered).await;
    books::assert_sent(&receiver, LEADS, 0);
    intake.terminate().await;
    worker.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_starts_without_postgres_says_so_and_heals() {
    const LEADS: usize = 20;
    let receiver = Receiver::start().await;
    let database = TestDatabase::create().await;
    let settings = database.settings();
    let proxy = Proxy::to(SocketAddr::new(settings.host.parse().unwrap(), settings.port)).await;
    let url = database.url();
    let services = Services::over(database, &all_to(&receiver));
    let intake = services.ingest("ingest").await;
    let sender = services.sender([&intake]);
    let answered = sender.spawn_load(LEADS).await.unwrap();

    let services = services.with("CLAYGATE_DATABASE__URL", &proxy.url(&url));
    proxy.refuse().await;
    let worker = services.spawn(Role::Worker, "worker").wait_until_started().await;
    let refused = worker.wait_for_readiness(false).await;
    assert!(!refused.report.is_null(), "{refused:?}");
    proxy.accept().await;
    worker.wait_for_readiness(true).await;
    books::assert_all_delivered(&services.database.database(), &answered).await;

    // And again while it runs: connections that are gone and a server that is, then one that says nothing.
    let mut all = answered;
    for silent in [false, true] {
        if silent {
            proxy.black_hole();
        } else {
            proxy.refuse().await;
            proxy.cut().await;
        }
        let told = worker.wait_for_readiness(false).await;
        assert!(told.report["checks"].is_array(), "it still answers: {told:?}");
        all.extend(sender.spawn_load(LEADS).await.unwrap());
        proxy.heal().await;
        worker.wait_for_readiness(true).await;
    }
    books::assert_all_delivered(&services.database.database(), &all).await;
    books::assert_sent(&receiver, all.len(), 0);
    sender.assert_undisturbed();
    services.assert_logs_bounded();
}
