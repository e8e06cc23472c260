//! What a broker gives up carrying.

use std::sync::Arc;
use std::time::Duration;

use common::db::outbox;
use common::queue::rabbitmq::{RabbitQueue, RabbitSettings};
use common::queue::{Doorbell, Queue, QueueName};
use serde_json::json;
use testkit::rabbitmq::OwnBroker;
use testkit::wait::wait_for;
use tokio_util::sync::CancellationToken;
use worker::Application;

use crate::route_rig::{RouteRig, config};

const PATIENCE: Duration = Duration::from_secs(30);
const RULES: &str =
    "[destinations.record]\nkind = \"log\"\n[[rules]]\nname = \"all\"\nwhen = \"true\"\nto = [\"record\"]\n";

fn settings(broker: &OwnBroker) -> RabbitSettings {
    let mut url: url::Url = broker.url().parse().unwrap();
    let password = url.password().unwrap().to_owned();
    url.set_password(None).unwrap();
    RabbitSettings::new(url, Some(password.into()), broker.prefix())
}

/// Both end visibly: what came back too often is dead, and what an operator's policy dropped is routed after all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_end_where_one_can_see_them() {
    let (rig, broker) = tokio::join!(RouteRig::new(RULES), OwnBroker::start());
    let doorbell = Doorbell::new();
    let queue = RabbitQueue::new(settings(&broker), rig.database(), doorbell.clone());
    let callbacks = QueueName::callbacks();
    let [returned, expired] = [
        rig.callback(&json!({"email": "a@example.com"})).await,
        rig.callback(&json!({"email": "b@example.com"})).await,
    ];
    let stop_relay = CancellationToken::new();
    let relay = tokio::spawn(queue.relay(vec![callbacks.clone()]).unwrap().run(stop_relay.clone()));

    let policy = |name: &'static str, definition: &'static str| {
        let pattern = format!("^{}.callbacks$", broker.prefix());
        let broker = broker.clone();
        async move { broker.ctl(&["set_policy", "--apply-to", "queues", name, &pattern, definition]).await }
    };
    policy("few-returns", r#"{"delivery-limit": 2}"#).await;
    push(&rig, &callbacks, returned.0).await;
    let mut consumer = queue.consumer(&callbacks).await.unwrap();
    let given_up = async {
        for _ in 0..3 {
            loop {
                let messages = consumer.receive(1).await.unwrap();
                if let Some(message) = messages.first() {
                    assert_eq!(message.refs, [returned.0]);
                    consumer.release(&[message.receipt]).await.unwrap();
                    break;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, given_up).await.expect("it comes again until the limit");
    drop(consumer);

    policy("few-returns", r#"{"message-ttl": 1}"#).await;
    push(&rig, &callbacks, expired.0).await;
    wait_for("both to be dead letters", PATIENCE, async || {
        let depth = broker.ctl(&["list_queues", "--quiet", "--no-table-headers", "name", "messages"]).await;
        let dead = format!("{}.dead\t2", broker.prefix());
        if depth.lines().any(|line| line == dead) { Ok(()) } else { Err(depth) }
    })
    .await;
    broker.ctl(&["clear_policy", "few-returns"]).await;

    let shutdown = CancellationToken::new();
    let worker =
        Application::build(&config(RULES), rig.database(), Arc::new(queue), doorbell, shutdown.clone()).unwrap();
    let working = tokio::spawn(worker.run_until_stopped());
    wait_for("both to end", PATIENCE, async || {
        let states = (rig.state(returned).await.0, rig.state(expired).await.0);
        if states.0 == "received" || states.1 == "received" { Err(states) } else { Ok(()) }
    })
    .await;
    assert_eq!(rig.state(returned).await, ("dead".to_owned(), Some("poison".to_owned())));
    assert_eq!(rig.state(expired).await, ("routed".to_owned(), None));
    shutdown.cancel();
    working.await.unwrap().unwrap();
    stop_relay.cancel();
    relay.await.unwrap();
}

async fn push(rig: &RouteRig, queue: &QueueName, id: uuid::Uuid) {
    let mut connection = rig.test.pool().acquire().await.unwrap();
    outbox::push(&mut connection, queue, &[id], None).await.unwrap();
}
