//! The first lead: what the README and the banner promise to somebody who has just started `claygate up`.

use std::process::Command;

use serde_json::{Value, json};
use testkit::receiver::Receiver;
use testkit::wait::wait_for;

use crate::sender::Sender;
use crate::site::{LIMIT, Site, finish};

fn config(receiver: &Receiver) -> String {
    format!(
        "[destinations.out]\nkind = \"http\"\nurl = \"{}\"\nallow_private = true\n\
         [[rules]]\nname = \"hot\"\nwhen = \"lead.icp_score >= 50\"\nto = [\"out\"]\n",
        receiver.url("/leads")
    )
}

/// Waits until the callback's only delivery is in `state`, as `events list` tells it.
async fn wait_for_delivery(site: &Site, id: &str, state: &str) {
    let expected = json!([format!("out: {state}")]);
    wait_for(&format!("the delivery to be {state}"), LIMIT, || async {
        let events = site.json(&["events", "list", "--json"]).await;
        let event = events.as_array().unwrap().iter().find(|event| event["id"] == id).cloned().unwrap_or_default();
        if event["deliveries"] == expected { Ok(()) } else { Err(event) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lead_arrives_once_and_the_commands_tell_its_story() {
    let receiver = Receiver::start().await;
    let site = Site::new(&config(&receiver));
    let up = site.up().await;
    let sender = Sender::new(&site, &up);

    let lead = r#"{"email":"ada@example.com","first_name":"Ada","icp_score":"92"}"#;
    let first = sender.send(lead).await;
    assert_eq!((first.status, &first.body["status"]), (200, &json!("accepted")));
    let sent = receiver.wait_for_requests(1).await;
    assert_eq!(sent[0].json()["email"], "ada@example.com");
    assert_eq!(sent[0].json()["icp_score"].as_f64(), Some(92.0));
    wait_for_delivery(&site, &first.id(), "delivered").await;

    let again = sender.send(lead).await;
    assert_eq!((again.status, &again.body["status"]), (200, &json!("duplicate")));
    assert_eq!(again.id(), first.id());
    // A lead behind it: by the time that this one has arrived, the repeat would have.
    let other = sender.send(r#"{"email":"grace@example.com","icp_score":60}"#).await;
    wait_for_delivery(&site, &other.id(), "delivered").await;
    let sent: Vec<Value> = receiver.requests().iter().map(|request| request.json()["email"].clone()).collect();
    assert_eq!(sent, [json!("ada@example.com"), json!("grace@example.com")]);

    let story = site.json(&["events", "show", &first.id(), "--json"]).await.to_string();
    for part in ["ada@example.com", "hot", "delivered"] {
        assert!(story.contains(part), "{part} is missing in {story}");
    }
    let raw = site.run(&["events", "show", &first.id(), "--raw"]).await;
    assert_eq!(String::from_utf8_lossy(&raw.stdout), lead);
    assert_eq!(site.json(&["dead", "list", "--json"]).await, json!([]));
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_curl_line_that_up_prints_works() {
    let site = Site::new("");
    let up = site.up().await;
    let written = site.wait_until_written("Ctrl-C stops it").await;
    let line: String =
        written.lines().skip_while(|line| !line.starts_with("curl ")).take(3).collect::<Vec<_>>().join("\n");
    assert!(line.contains("$(cat "), "{written}");
    assert!(!written.contains(&site.secret("clay")), "the secret itself is not printed");
    for status in ["accepted", "duplicate"] {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(&line).current_dir(site.folder());
        let output = finish(shell).await;
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["status"], status, "{line}");
    }
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_destination_gets_nothing_until_it_is_resumed() {
    let receiver = Receiver::start().await;
    let site = Site::new(&config(&receiver));
    let up = site.up().await;
    let sender = Sender::new(&site, &up);

    assert!(site.run(&["destinations", "pause", "out", "--reason", "a campaign"]).await.status.success());
    let listed = site.json(&["destinations", "list", "--json"]).await;
    assert_eq!((&listed[0]["state"], &listed[0]["reason"]), (&json!("paused"), &json!("a campaign")));
    assert_eq!(site.run(&["destinations", "pause", "no-such"]).await.status.code(), Some(1));
    site.wait_until_written("the destination's state has changed").await;
    let lead = sender.send(r#"{"email":"ada@example.com","icp_score":92}"#).await;
    wait_for_delivery(&site, &lead.id(), "pending").await;
    assert!(site.run(&["destinations", "resume", "out"]).await.status.success());
    wait_for_delivery(&site, &lead.id(), "delivered").await;
    assert_eq!(receiver.requests().len(), 1);
    assert!(up.terminate().success());
}
