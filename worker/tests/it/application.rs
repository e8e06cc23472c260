//! The whole worker: from a stored callback to what its destination received.

use std::sync::Arc;
use std::time::Duration;

use common::config::Config;
use common::db::outbox;
use common::ids::CallbackId;
use common::queue::postgres::{PostgresQueue, PostgresQueueSettings};
use common::queue::{Doorbell, QueueName};
use common::telemetry::metrics;
use serde_json::json;
use testkit::receiver::{Answer, Receiver};
use testkit::wait::{wait_for, wait_until};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use worker::{Application, RunError, telemetry};

use crate::route_rig::{RouteRig, config};

const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    doorbell: Doorbell,
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), RunError>>,
}

impl Running {
    async fn start(rig: &RouteRig, config: &Config) -> Self {
        let (doorbell, shutdown) = (Doorbell::new(), CancellationToken::new());
        let queue = PostgresQueue::new(rig.database(), doorbell.clone(), PostgresQueueSettings::default());
        let application =
            Application::build(config, rig.database(), Arc::new(queue), doorbell.clone(), shutdown.clone()).unwrap();
        let probes = application.probes();
        assert!(probes.iter().all(|probe| !probe.check().ready), "nothing consumes yet");
        let ended = tokio::spawn(application.run_until_stopped());
        wait_until("the worker to be ready", PATIENCE, async || probes.iter().all(|probe| probe.check().ready)).await;
        Self { doorbell, shutdown, ended }
    }

    async fn enqueue(&self, rig: &RouteRig, ids: &[CallbackId]) {
        let refs: Vec<_> = ids.iter().map(|id| id.0).collect();
        let mut connection = rig.test.pool().acquire().await.unwrap();
        outbox::push(&mut connection, &QueueName::callbacks(), &refs, None).await.unwrap();
        drop(connection);
        self.doorbell.ring(&QueueName::callbacks());
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.ended).await.expect("it stops").unwrap().unwrap();
    }
}

/// Waits until every delivery has ended and no message is left.
async fn wait_until_done(rig: &RouteRig) {
    wait_for("everything to end", PATIENCE, async || {
        let left: (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM claygate.callbacks WHERE state = 'received'),
                 (SELECT count(*) FROM claygate.deliveries WHERE state = 'pending'),
                 (SELECT count(*) FROM claygate.outbox)",
        )
        .fetch_one(rig.test.pool())
        .await
        .unwrap();
        if left == (0, 0, 0) { Ok(()) } else { Err(left) }
    })
    .await;
}

fn to_crm(url: &str) -> String {
    format!(
        "[destinations.crm]\nkind = \"http\"\nurl = \"{url}\"\nallow_private = true\nonce_per = \"30d\"\n\
         [destinations.record]\nkind = \"log\"\n\
         [[rules]]\nname = \"all\"\nwhen = \"lead.icp_score >= 50\"\nto = [\"crm\", \"record\"]\n"
    )
}

#[tokio::test]
async fn a_stored_callback_reaches_its_destinations() {
    let receiver = Receiver::start().await;
    let text = to_crm(&receiver.url("/leads"));
    let rig = RouteRig::new(&text).await;
    let running = Running::start(&rig, &config(&text)).await;
    let mut ids = Vec::new();
    for n in 0..100 {
        let score = if n % 10 == 0 { 10 } else { 60 };
        ids.push(rig.callback(&json!({"email": format!("{n}@example.com"), "icp_score": score})).await);
    }
    running.enqueue(&rig, &ids).await;
    wait_until_done(&rig).await;

    let mut emails: Vec<String> =
        receiver.requests().iter().filter_map(|r| r.json()["email"].as_str().map(str::to_owned)).collect();
    emails.sort();
    emails.dedup();
    assert_eq!((emails.len(), receiver.requests().len()), (90, 90), "each once");
    let delivered: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.deliveries WHERE state = 'delivered'")
        .fetch_one(rig.test.pool())
        .await
        .unwrap();
    let attempts: i64 =
        sqlx::query_scalar("SELECT count(*) FROM claygate.attempts").fetch_one(rig.test.pool()).await.unwrap();
    assert_eq!((delivered, attempts), (180, 180));
    running.stop().await;
}

#[tokio::test]
async fn somebody_is_reached_although_the_first_of_two_leads_dies() {
    let receiver = Receiver::start().await;
    let text = to_crm(&receiver.url("/leads"));
    let rig = RouteRig::new(&text).await;
    receiver.answer_in_turn([Answer::status(422)]);
    let first = rig.callback(&json!({"email": "ada@example.com", "icp_score": 60})).await;
    let second = rig.callback(&json!({"email": "ada@example.com", "icp_score": 70})).await;
    rig.router.route_batch(&[first, second]).await.unwrap();
    rig.free_leases().await;
    assert_eq!(rig.deliveries(second).await[0].state, "skipped");

    let running = Running::start(&rig, &config(&text)).await;
    wait_until_done(&rig).await;
    assert_eq!(rig.deliveries(first).await[0].state, "dead");
    let second = rig.deliveries(second).await;
    assert_eq!(second[1].destination, "crm");
    assert_eq!((second[1].replay, second[1].state.as_str()), (1, "delivered"));
    assert_eq!(receiver.requests().len(), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_poisonous_message_ends_and_its_neighbours_are_routed() {
    let text = "[destinations.record]\nkind = \"log\"\n[[rules]]\nname = \"all\"\nwhen = \"true\"\nto = [\"record\"]\n";
    let rig = RouteRig::new(text).await;
    let poison = rig.callback(&json!({"email": "a@example.com"})).await;
    let fine = rig.callback(&json!({"email": "b@example.com"})).await;
    // It has broken its workers five times already, and is given out once more.
    sqlx::query("UPDATE claygate.callbacks SET claims = 5 WHERE id = $1")
        .bind(poison.0)
        .execute(rig.test.pool())
        .await
        .unwrap();
    sqlx::query("INSERT INTO claygate.outbox (queue, refs, claims) VALUES ('callbacks', ARRAY[$1, $2], 5)")
        .bind(poison.0)
        .bind(fine.0)
        .execute(rig.test.pool())
        .await
        .unwrap();
    let running = Running::start(&rig, &config(text)).await;
    wait_until_done(&rig).await;
    assert_eq!(rig.state(poison).await, ("dead".to_owned(), Some("poison".to_owned())));
    assert_eq!(rig.state(fine).await, ("routed".to_owned(), None));
    running.stop().await;
}

#[test]
fn every_series_exists_before_its_first_event() {
    let handle = metrics::install().unwrap();
    let text = "[destinations.untouched]\nkind = \"log\"\n\
         [[rules]]\nname = \"all\"\nwhen = \"true\"\nto = [\"untouched\"]\n";
    telemetry::register(&config(text));
    let page = handle.render();
    for series in [
        "claygate_deliveries_total{destination=\"untouched\",outcome=\"delivered\"} 0",
        "claygate_deliveries_total{destination=\"untouched\",outcome=\"skipped\"} 0",
        "claygate_deliveries_total{destination=\"untouched\",outcome=\"dead\"} 0",
        "claygate_deliveries_total{destination=\"untouched\",outcome=\"cancelled\"} 0",
        "claygate_dead_letters_total{destination=\"untouched\",reason=\"attempts_used\"} 0",
        "claygate_dead_letters_total{destination=\"untouched\",reason=\"unknown_destination\"} 0",
        "claygate_dead_letters_total{destination=\"-\",reason=\"rule_error\"}",
        "claygate_retries_total{destination=\"untouched\",class=\"transient\"} 0",
        "claygate_attempt_seconds_count{destination=\"untouched\"} 0",
        "claygate_icp_score_count",
        "claygate_end_to_end_seconds_count",
    ] {
        assert!(page.contains(series), "{series} is missing in:\n{page}");
    }
}
