//! A list that has looked far enough says so, and the command that it prints goes on where it ended.

use serde_json::Value;

use crate::site::Site;

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
