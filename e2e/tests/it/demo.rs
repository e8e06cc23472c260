//! `claygate demo` against a running instance.

use serde_json::Value;

use crate::site::Site;

/// The sum of the numbers in a table.
fn sum(table: &Value) -> u64 {
    table.as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_numbers_of_the_demo_add_up() {
    let site = Site::new("");
    let up = site.up().await;
    let report = site.json(&["demo", "--count", "120", "--json"]).await;
    assert_eq!(report["sent"], 120);
    assert_eq!(report["in_progress"], 0, "{report}");
    let answers = &report["answers"];
    assert_eq!(sum(answers), 120, "{report}");
    for word in ["accepted", "duplicate", "malformed, kept in quarantine", "rejected: no valid secret"] {
        assert!(answers[word].as_u64() > Some(0), "{word}: {report}");
    }
    assert_eq!(sum(&report["callbacks"]), answers["accepted"].as_u64().unwrap(), "{report}");
    for (destination, outcomes) in report["deliveries"].as_object().unwrap() {
        assert!(outcomes["delivered"].as_u64() > Some(0), "{destination}: {report}");
    }

    let again = site.json(&["demo", "--count", "120", "--json"]).await;
    assert_eq!((&again["answers"]["accepted"], &again["in_progress"]), (&Value::Null, &Value::from(0)), "{again}");
    assert!(up.terminate().success());
}
