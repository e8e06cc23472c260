//! Single queues and channels fail while the broker as a whole is well.

use sqlx::PgPool;
use testkit::wait::{wait_for, wait_until};

use crate::books;
use crate::broker::{Depth, Rig, Trap};
use crate::service::Service;
use crate::site::LIMIT;

/// How many messages a process has published with this result.
async fn published(service: &Service, result: &str) -> f64 {
    let page = service.metrics().await;
    page.value("claygate_published_messages_total", &[("result", result)])
        .unwrap_or_else(|| panic!("no {result} in\n{page}"))
}

async fn wait_until_published(pool: &PgPool) {
    wait_for("the outbox to be empty", LIMIT, async || {
        let n: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.outbox").fetch_one(pool).await.unwrap();
        if n == 0 { Ok(()) } else { Err(n) }
    })
    .await;
}

/// The channels that hold messages.
async fn holding_channels(rig: &Rig) -> Vec<String> {
    let listed = rig.broker.ctl(&["list_channels", "--quiet", "pid", "messages_unacknowledged"]).await;
    let channels = listed.lines().filter_map(|line| line.split_once('\t'));
    channels.filter(|(_, held)| held.parse().is_ok_and(|held: usize| held > 0)).map(|(pid, _)| pid.to_owned()).collect()
}

/// What waits was received longer ago than anything may be on its way.
async fn let_time_pass(pool: &PgPool) {
    for statement in [
        "UPDATE claygate.callback_bodies AS b SET received_at = b.received_at - interval '1 hour'
         FROM claygate.callbacks AS c WHERE c.id = b.callback_id AND c.state = 'received'",
        "UPDATE claygate.callbacks SET received_at = received_at - interval '1 hour',
             enqueued_at = enqueued_at - interval '1 hour' WHERE state = 'received'",
    ] {
        sqlx::query(statement).execute(pool).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_queues_are_made_anew_and_what_was_in_them_is_found() {
    const LOST: usize = 20;
    // Callbacks are moved into the past, away from the hour that they were counted in.
    let rig = Rig::start().await.with("CLAYGATE_WORKER__SWEEP_EVERY", "1s").without_books();
    let pool = rig.services.database.pool().clone();
    let intake = rig.services.ingest("ingest").await;
    let (sender, vigil) = (rig.services.sender([&intake]), intake.watch());
    let mut answered = sender.spawn_load(LOST).await.unwrap();
    wait_until_published(&pool).await;
    rig.delete_queue("callbacks").await;

    // Nobody consumes: the relay itself finds that its queue is gone.
    answered.extend(sender.spawn_load(1).await.unwrap());
    wait_until_published(&pool).await;
    assert!(published(&intake, "unroutable").await > 0.0);
    let worker = rig.services.worker("worker").await;
    rig.receiver.wait_for_requests(1).await;

    for queue in ["callbacks", "deliver.out"] {
        rig.delete_queue(queue).await;
    }
    answered.extend(sender.spawn_load(20).await.unwrap());
    rig.receiver.wait_for_requests(21).await;
    assert_eq!(rig.receiver.requests().len(), 21, "the lost ones are not taken for lost so soon");

    let_time_pass(&pool).await;
    books::assert_all_delivered(&rig.services.database.database(), &answered).await;
    books::assert_sent(&rig.receiver, answered.len(), 0);
    worker.wait_for_readiness(true).await;
    vigil.assert_undisturbed().await;
    sender.assert_undisturbed();
    rig.assert_nothing_dead().await;
    rig.services.assert_logs_bounded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_and_what_it_refuses_waits_in_the_outbox() {
    let rig = Rig::start().await;
    let pool = rig.services.database.pool().clone();
    let full = r#"{"max-length":3,"overflow":"reject-publish"}"#;
    let all_queues = format!("^{}\\.", rig.broker.prefix());
    rig.broker.ctl(&["set_policy", "full", &all_queues, full, "--apply-to", "queues"]).await;
    let intake = rig.services.ingest("ingest").await;
    let (sender, vigil) = (rig.services.sender([&intake]), intake.watch());
    let mut answered = sender.spawn_load(20).await.unwrap();
    // A queue tells publishers that it is full only after a while.
    while published(&intake, "refused").await == 0.0 {
        assert!(answered.len() < 1_000, "nothing is refused");
        answered.extend(sender.spawn_load(4).await.unwrap());
    }
    let waiting: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.outbox").fetch_one(&pool).await.unwrap();
    assert!(waiting > 0, "what was refused is still there");
    assert!(rig.depth("callbacks").await.ready < answered.len());

    rig.broker.ctl(&["clear_policy", "full"]).await;
    let worker = rig.services.worker("worker").await;
    books::assert_all_delivered(&rig.services.database.database(), &answered).await;
    books::assert_sent(&rig.receiver, answered.len(), 0);
    worker.terminate().await;
    vigil.assert_undisturbed().await;
    sender.assert_undisturbed();
    rig.assert_nothing_dead().await;
    rig.services.assert_logs_bounded();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_the_broker_closes_is_opened_anew_and_nothing_is_done_twice() {
    const LEADS: usize = 12;
    let rig = Rig::start().await;
    let pool = rig.services.database.pool().clone();
    // The broker's patience with a message that is not acknowledged; it looks when it is told to (here: `tick`).
    rig.broker.ctl(&["eval", "application:set_env(rabbit, consumer_timeout, 200)."]).await;
    let intake = rig.services.ingest("ingest").await;
    let (sender, vigil) = (rig.services.sender([&intake]), intake.watch());
    let answered = sender.spawn_load(LEADS).await.unwrap();
    let trap = Trap::set(&pool, answered[0].parse().unwrap()).await;
    let worker = rig.services.worker("worker").await;
    trap.wait_for_prey(&pool).await;
    let holder = holding_channels(&rig).await.pop().expect("somebody holds the message");
    rig.broker.ctl(&["eval", "[Channel ! tick || Channel <- rabbit_channel:list_local()]."]).await;
    wait_until("the channel to be closed", LIMIT, async || !holding_channels(&rig).await.contains(&holder)).await;
    trap.open().await;

    books::assert_all_delivered(&rig.services.database.database(), &answered).await;
    books::assert_sent(&rig.receiver, LEADS, 0);
    rig.wait_for_depth("callbacks", |depth| depth == Depth::default()).await;
    worker.wait_for_readiness(true).await;
    vigil.assert_undisturbed().await;
    sender.assert_undisturbed();
    rig.assert_nothing_dead().await;
    rig.services.assert_logs_bounded();
}

/// As after a failover that went wrong: the subscription is gone on the broker's side, and nobody was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_that_the_broker_forgets_subscribe_again() {
    const LEADS: usize = 10;
    let rig = Rig::start().await;
    let intake = rig.services.ingest("ingest").await;
    let worker = rig.services.worker("worker").await;
    let (sender, vigil) = (rig.services.sender([&intake]), intake.watch());
    let mut answered = sender.spawn_load(LEADS).await.unwrap();
    rig.receiver.wait_for_requests(LEADS).await;

    let queue = format!("{}.callbacks", rig.broker.prefix());
    let forget = format!(
        "Server = {{'%2F_{queue}', node()}}, \
         {{ok, {{_, Consumers}}, _}} = ra:local_query(Server, fun rabbit_fifo:query_consumers/1), \
         [{{ok, _, _}} = ra:process_command(Server, rabbit_fifo:make_checkout(One, cancel, #{{}})) \
          || One <- maps:keys(Consumers)], maps:size(Consumers)."
    );
    let forgotten = rig.broker.ctl(&["eval", &forget]).await;
    assert_ne!(forgotten.trim(), "0", "there were consumers");
    answered.extend(sender.spawn_load(LEADS).await.unwrap());
    books::assert_all_delivered(&rig.services.database.database(), &answered).await;
    books::assert_sent(&rig.receiver, answered.len(), 0);
    worker.wait_for_readiness(true).await;
    assert_eq!(worker.log.count("started"), 1);
    vigil.assert_undisturbed().await;
    sender.assert_undisturbed();
    rig.assert_nothing_dead().await;
    rig.services.assert_logs_bounded();
}
