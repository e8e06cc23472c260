//! A list that has looked far enough says so, and the command that it prints goes on where it ended.

use serde_json::Value;
use testkit::wait::wait_for;

use crate::sender::Sender;
use crate::site::{LIMIT, Site};

/// More than one page looks at; what is looked for is the oldest.
const STORE: &str = "
    INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at, state, reason)
    SELECT gen_random_uuid(), 'clay', sha256(n::text::bytea), 'content', sha256('x'),
        now() - interval '1 hour' - n * interval '1 second', CASE WHEN n = 10500 THEN 'skipped' ELSE 'routed' END,
        CASE WHEN n = 10500 THEN 'no_rule' END
    FROM generate_series(1, 10500) AS n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_looked_far_enough_says_how_to_go_on() {
    let site = Site::new("").without_books();
    let up = site.up().await;
    let database = site.database();
    sqlx::query(STORE).execute(database.pool()).await.unwrap();
    let id: uuid::Uuid = sqlx::query_scalar("SELECT id FROM claygate.callbacks WHERE state = 'skipped'")
        .fetch_one(database.pool())
        .await
        .unwrap();

    let first = site.run(&["events", "list", "--state", "skipped", "--limit", "7"]).await;
    let told = String::from_utf8(first.stderr).unwrap();
    assert!(first.status.success() && first.stdout.is_empty(), "{told}");
    let command = told.lines().last().unwrap();
    assert!(command.contains("events list --state skipped --limit 7 --before "), "{told}");
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    let second = site.run(&words).await;
    let (shown, told) = (String::from_utf8(second.stdout).unwrap(), String::from_utf8(second.stderr).unwrap());
    assert!(shown.starts_with(&id.to_string()) && told.is_empty(), "{shown}{told}");

    let cut = site.run(&["events", "list", "--state", "skipped", "--json"]).await;
    assert_eq!(serde_json::from_slice::<Value>(&cut.stdout).unwrap(), Value::Array(Vec::new()));
    let told = String::from_utf8(cut.stderr).unwrap();
    let words: Vec<&str> = told.lines().last().unwrap().split_whitespace().skip(1).collect();
    assert_eq!(site.json(&words).await[0]["id"], Value::from(id.to_string()));

    let unknown = uuid::Uuid::nil().to_string();
    let refused = site.run(&["events", "list", "--before", &unknown]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("begin without it"));
    database.close().await;
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_persons_callbacks_are_found_however_they_were_written() {
    let site = Site::new("");
    let up = site.up().await;
    let sender = Sender::new(&site, &up);
    let mut sent = Vec::new();
    for lead in [
        r#"{"email":"Ada@Example.com","icp_score":92}"#,
        r#"{"email":" ada@example.com ","icp_score":12,"linkedin_url":"https://www.linkedin.com/in/ada-l"}"#,
        r#"{"linkedin_url":"https://uk.linkedin.com/in/Ada-L/","icp_score":55}"#,
        r#"{"email":"grace@example.com","icp_score":60}"#,
    ] {
        sent.push(Value::from(sender.send(lead).await.id()));
    }
    let list = async |arguments: &[&str]| {
        let events = site.json(&[&["events", "list", "--json"][..], arguments].concat()).await;
        events.as_array().unwrap().iter().map(|event| event["id"].clone()).collect::<Vec<_>>()
    };
    wait_for("every lead to be routed", LIMIT, async || {
        let waiting = list(&["--state", "received"]).await;
        if waiting.is_empty() { Ok(()) } else { Err(waiting) }
    })
    .await;

    let ada = [sent[1].clone(), sent[0].clone()];
    assert_eq!(list(&["--person", "ADA@example.com"]).await, ada);
    assert_eq!(list(&["--person", "ada@example.com", "--state", "skipped"]).await, ada[..1]);
    assert_eq!(list(&["--person", "ada@example.com", "--limit", "1"]).await, ada[..1]);
    assert_eq!(list(&["--person", "ada@example.com", "--before", ada[0].as_str().unwrap()]).await, ada[1..]);
    assert_eq!(list(&["--person", "linkedin.com/in/ada-l"]).await, sent[2..3]);
    let nobody = site.run(&["events", "list", "--person", "nobody@example.com"]).await;
    assert!(nobody.status.success() && nobody.stdout == b"No callbacks.\n");
    assert!(up.terminate().success());
}

/// Neither needs a database, and no error repeats whom somebody looked for.
#[tokio::test]
async fn who_is_no_person_is_a_usage_error() {
    let site = Site::new("");
    for (arguments, told) in [
        (&["--person", "ada@example"][..], "--person takes an e-mail address"),
        (&["--person", "Ada Example"], "--person takes an e-mail address"),
        (&["--person=https://example.com/in/ada"], "--person takes an e-mail address"),
        (&["--person", "ada@example.com", "--state", "received"], "leave out --state"),
        (&["--person", "ada@example.com", "--state", "quarantined"], "leave out --state"),
    ] {
        let refused = site.run(&[&["events", "list"][..], arguments].concat()).await;
        let (shown, error) = (String::from_utf8(refused.stdout).unwrap(), String::from_utf8(refused.stderr).unwrap());
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(shown.is_empty() && error.contains(told), "{arguments:?}: {error}");
        assert!(!error.to_lowercase().contains("ada"), "{arguments:?}: {error}");
    }
    assert!(!site.data().exists());
}
