//! No personal data and no secret in what a process tells the world: its output, its metrics, its readiness.

use serde_json::{Value, json};
use testkit::receiver::{Answer, Receiver};
use testkit::wait::wait_for;

use crate::sender::Sender;
use crate::site::{LIMIT, Site};

/// In every field of every lead.
const MARKER: &str = "q7zmarkerx";
const SOURCE_SECRET: &str = "s0urce-secret-k3y";
const BEARER: &str = "b3arer-t0ken";
const URL_KEY: &str = "ur1-qu3ry-key";
const HEADER_KEY: &str = "h3ader-key";

/// A destination for each way to end, and a rule that fails.
fn config(receiver: &Receiver) -> String {
    let mut text = format!(
        "[telemetry]\nlog = \"info,worker=debug,ingest=debug,common=debug,console=debug,claygate=debug\"\n\
         [sources.clay]\npath = \"/api/clay/enriched\"\n\
         verify = {{ kind = \"token\", header = \"X-Clay-Signature\", secrets = [\"{SOURCE_SECRET}\"] }}\n"
    );
    for name in ["taken", "failing", "terminal", "unauthorized", "reset"] {
        text += &format!(
            "[destinations.{name}]\nkind = \"http\"\nurl = \"{}?key={URL_KEY}\"\nallow_private = true\nretries = [\"1s\"]\n\
             auth = {{ kind = \"bearer\", token = \"{BEARER}\" }}\nheaders = {{ \"x-key\" = \"{HEADER_KEY}\" }}\n\
             [[rules]]\nname = \"{name}\"\nwhen = \"lead.job_title == '{MARKER} {name}'\"\nto = [\"{name}\"]\n",
            receiver.url(&format!("/{name}"))
        );
    }
    text + &format!(
        "[[rules]]\nname = \"broken\"\n\
         when = \"lead.job_title == '{MARKER} broken' && number(lead.first_name) > 1.0\"\nto = [\"taken\"]\n"
    )
}

/// A lead whose every field has the marker; `title` sends it to the destination of that name.
fn lead(title: &str) -> String {
    json!({
        "email": format!("{MARKER}.{title}@example.com"),
        "first_name": MARKER,
        "last_name": MARKER,
        "company_name": MARKER,
        "job_title": format!("{MARKER} {title}"),
        "employee_count": MARKER,
        "industry": MARKER,
        "linkedin_url": format!("https://www.linkedin.com/in/{MARKER}"),
        "icp_score": MARKER,
        "personalized_opener": MARKER,
        MARKER: { MARKER: [MARKER] },
    })
    .to_string()
}

/// Waits until each callback has come to what its way leads to.
async fn wait_for_outcomes(site: &Site, expected: &[(String, &str, &str)]) {
    wait_for("every lead to end", LIMIT, || async {
        let events = site.json(&["events", "list", "--json"]).await;
        let of = |id: &str| events.as_array().unwrap().iter().find(|event| event["id"] == id).cloned();
        let missing: Vec<Value> = expected
            .iter()
            .filter_map(|(id, state, delivery)| {
                let event = of(id).unwrap_or_default();
                let deliveries = event["deliveries"].to_string();
                let ended = event["state"] == *state && deliveries.contains(delivery);
                (!ended).then(|| json!([state, delivery, event["state"], event["reason"], deliveries]))
            })
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_of_a_lead_tells_who_it_is_or_any_secret() {
    let receiver = Receiver::start().await;
    // What a destination says about a lead is not to be repeated either.
    let said = format!("{{\"error\":\"{MARKER}@example.com is invalid\"}}");
    for (name, status) in [("failing", 500), ("terminal", 400), ("unauthorized", 401)] {
        receiver.answer_at(&format!("/{name}"), Answer::status(status).body(said.clone()));
    }
    receiver.answer_at("/reset", Answer::reset());
    let site = Site::new(&config(&receiver));
    let up = site.up().await;
    let sender = Sender::to([up.port], SOURCE_SECRET);

    let mut expected = Vec::new();
    for (title, delivery) in [
        ("taken", "taken: delivered"),
        ("failing", "failing: dead"),
        ("terminal", "terminal: dead"),
        ("reset", "reset: dead"),
        ("unauthorized", "unauthorized: pending"),
    ] {
        let answer = sender.send(lead(title)).await;
        assert_eq!(answer.body["status"], "accepted");
        expected.push((answer.id(), "routed", delivery));
    }
    assert_eq!(sender.send(lead("taken")).await.body["status"], "duplicate");
    expected.push((sender.send(lead("broken")).await.id(), "dead", ""));
    expected.push((sender.send(lead("nowhere")).await.id(), "skipped", ""));
    let wrong = format!("{MARKER}-wrong");
    assert_eq!(sender.send_with(lead("taken"), &[("X-Clay-Signature", &wrong)]).await.status, 401);
    assert_eq!(sender.send_with(lead("taken"), &[]).await.status, 401);
    let malformed = lead("taken").replacen(MARKER, &format!("\"{MARKER}"), 1);
    assert_eq!(sender.send(malformed).await.body["quarantined"], true);

    wait_for_outcomes(&site, &expected).await;
    let paused = site.json(&["destinations", "list", "--json"]).await;
    let of = |name: &str| paused.as_array().unwrap().iter().find(|line| line["destination"] == name).cloned().unwrap();
    assert_eq!(of("unauthorized")["state"], "paused");
    assert_eq!(site.json(&["dead", "list", "--json"]).await.as_array().unwrap().len(), 4);

    let told = [
        ("/metrics", up.admin("/metrics").await),
        ("/readyz", up.admin("/readyz").await),
        ("destinations list", paused.to_string()),
        ("dead list", site.json(&["dead", "list", "--json"]).await.to_string()),
        ("config show", String::from_utf8(site.run(&["config", "show"]).await.stdout).unwrap()),
    ];
    assert!(up.terminate().success());
    let written = ("the output", site.written());
    assert!(written.1.contains("unauthorized"), "the log tells of the pause:\n{}", written.1);
    for (what, text) in told.into_iter().chain([written]) {
        // The rules are the operator's own text.
        let marker = (what != "config show").then_some(MARKER);
        for secret in [SOURCE_SECRET, BEARER, URL_KEY, HEADER_KEY].into_iter().chain(marker) {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{what} contains {secret}: {line:?}");
        }
    }
}
