//! Kill -9 and SIGTERM under load: what was answered with 200 reaches its end, and nothing is sent twice for no reason.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rustix::process::Signal;
use testkit::receiver::{Answer, Receiver};
use testkit::wait::wait_for;

use crate::sender::Sender;
use crate::site::{LIMIT, Site, signal};

/// Long enough for several requests to be under way when the process is killed.
const ANSWER_AFTER: Duration = Duration::from_millis(20);

/// A destination for everything.
fn config(receiver: &Receiver) -> String {
    format!(
        "[destinations.out]\nkind = \"http\"\nurl = \"{}\"\nallow_private = true\nretries = [\"1s\", \"1s\", \"1s\", \"1s\"]\n\
         [[rules]]\nname = \"all\"\nwhen = \"true\"\nto = [\"out\"]\n",
        receiver.url("/leads")
    )
}

async fn slow_receiver() -> Receiver {
    let receiver = Receiver::start().await;
    receiver.answer_with(Answer::status(200).after(ANSWER_AFTER));
    receiver
}

/// Waits until every callback has ended as routed and every delivery as delivered, and compares with what was answered.
async fn assert_all_delivered(site: &Site, answered: &[String], leads: usize) {
    let database = site.database();
    wait_for("every delivery to end", LIMIT, || async {
        let states: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT c.state, coalesce(d.state, '-'), count(*) FROM claygate.callbacks c
             LEFT JOIN claygate.deliveries d ON d.callback_id = c.id GROUP BY 1, 2 ORDER BY 1, 2",
        )
        .fetch_all(database.pool())
        .await
        .unwrap();
        let all = [("routed".to_owned(), "delivered".to_owned(), i64::try_from(leads).unwrap())];
        if states == all { Ok(()) } else { Err(states) }
    })
    .await;
    let stored: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT id FROM claygate.callbacks UNION SELECT alias_id FROM claygate.callback_aliases")
            .fetch_all(database.pool())
            .await
            .unwrap();
    let stored: HashSet<String> = stored.iter().map(ToString::to_string).collect();
    let lost: Vec<&String> = answered.iter().filter(|id| !stored.contains(*id)).collect();
    assert!(lost.is_empty(), "answered with 200 and not there: {lost:?}");
    database.close().await;
}

/// Each lead came under one key, and no key more often than once and once more per kill.
fn assert_sent(receiver: &Receiver, leads: usize, kills: usize) {
    let mut times: HashMap<String, usize> = HashMap::new();
    let mut keys: HashMap<String, HashSet<String>> = HashMap::new();
    for request in receiver.requests() {
        let key = request.header("idempotency-key").expect("a key on every request").to_owned();
        let email = request.json()["email"].as_str().expect("the lead").to_owned();
        *times.entry(key.clone()).or_default() += 1;
        keys.entry(email).or_default().insert(key);
    }
    assert_eq!(times.len(), leads, "one delivery for each lead");
    assert_eq!(keys.len(), leads);
    let again: Vec<_> = times.iter().filter(|(_, n)| **n > 1 + kills).collect();
    assert!(again.is_empty(), "sent more often than there were kills: {again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_lose_nothing() {
    const LEADS: usize = 300;
    let receiver = slow_receiver().await;
    let site = Site::new(&config(&receiver));
    let mut up = site.up().await;
    let sender = Sender::new(&site, &up);
    let load = sender.spawn_load(LEADS);

    sender.wait_for_answers(40).await;
    up.kill();
    up = site.up().await;
    sender.follow(&up);
    // While it is delivering.
    receiver.wait_for_requests(80).await;
    up.kill();
    up = site.up().await;
    sender.follow(&up);
    sender.wait_for_answers(200).await;
    up.kill();
    up = site.up().await;
    sender.follow(&up);

    let answered = load.await.unwrap();
    assert_eq!(answered.len(), LEADS);
    assert_all_delivered(&site, &answered, LEADS).await;
    assert_sent(&receiver, LEADS, 3);
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postgres_under_load_loses_nothing() {
    const LEADS: usize = 120;
    let receiver = slow_receiver().await;
    let site = Site::new(&config(&receiver));
    let up = site.up().await;
    let sender = Sender::new(&site, &up);
    let load = sender.spawn_load(LEADS);

    sender.wait_for_answers(40).await;
    signal(site.postmaster(), Signal::KILL);
    assert_eq!(up.wait().code(), Some(1));
    let up = site.up().await;
    sender.follow(&up);

    let answered = load.await.unwrap();
    assert_all_delivered(&site, &answered, LEADS).await;
    assert_sent(&receiver, LEADS, 1);
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_loses_nothing_and_sends_nothing_twice() {
    const LEADS: usize = 120;
    let receiver = slow_receiver().await;
    let site = Site::new(&config(&receiver));
    let up = site.up().await;
    let sender = Sender::new(&site, &up);
    let load = sender.spawn_load(LEADS);

    receiver.wait_for_requests(40).await;
    assert!(up.terminate().success());
    let up = site.up().await;
    sender.follow(&up);

    let answered = load.await.unwrap();
    assert_all_delivered(&site, &answered, LEADS).await;
    assert_sent(&receiver, LEADS, 0);
    assert!(up.terminate().success());
}
