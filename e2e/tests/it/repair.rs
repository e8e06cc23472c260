//! A malformed body: kept, shown, repaired, released, delivered.

use serde_json::json;
use testkit::wait::wait_for;

use crate::sender::Sender;
use crate::site::{LIMIT, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_body_is_repaired_and_routed() {
    let site = Site::new("");
    let up = site.up().await;
    let broken = r#"{"email":"ada@example.com","icp_score":"92","#;
    let refused = Sender::new(&site, &up).send(broken).await;
    assert_eq!((refused.status, &refused.body["quarantined"]), (400, &json!(true)));
    let id = refused.id();

    let held = site.json(&["events", "list", "--state", "quarantined", "--json"]).await;
    assert_eq!(held[0]["id"], json!(id));
    let raw = site.run(&["events", "show", &id, "--raw"]).await;
    assert_eq!(String::from_utf8_lossy(&raw.stdout), broken);
    let still_broken = site.run(&["events", "replay", &id, "--yes"]).await;
    assert_eq!(still_broken.status.code(), Some(1));

    let body = site.folder().join("body.json");
    std::fs::write(&body, r#"{"email":"ada@example.com","icp_score":"92"}"#).unwrap();
    let body = body.to_str().unwrap();
    assert_eq!(site.run(&["events", "replay", &id, "--body", body]).await.status.code(), Some(2), "nobody confirmed");
    let released = site.run(&["events", "replay", &id, "--body", body, "--yes"]).await;
    assert!(released.status.success(), "{}", String::from_utf8_lossy(&released.stderr));
    let callback = site.json(&["events", "show", &id, "--json"]).await["quarantined"]["callback_id"].clone();
    wait_for("the repaired lead to be delivered", LIMIT, || async {
        let events = site.json(&["events", "list", "--state", "routed", "--json"]).await;
        let event = events.as_array().unwrap().iter().find(|event| event["id"] == callback).cloned();
        match event {
            Some(event) if event["deliveries"].to_string().contains("outreach: delivered") => Ok(()),
            other => Err(other.unwrap_or_default()),
        }
    })
    .await;
    assert!(up.terminate().success());
}
