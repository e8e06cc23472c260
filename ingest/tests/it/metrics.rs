//! What is counted, and that every series is there before anything happens.

use common::telemetry::metrics;

use crate::gateway::{Answer, SECRET, Site};

const RESULTS: [&str; 11] = [
    "accepted",
    "duplicate",
    "recorded",
    "spooled",
    "quarantined",
    "conflict",
    "unauthorized",
    "malformed",
    "too_large",
    "throttled",
    "unavailable",
];

/// The recorder is the process's own, so the source's name is this test's own.
const METERED: &str = r#"
[sources.metered]
path = "/metered"
max_body = "2KB"
verify = { kind = "token", header = "X-Gate", secrets = ["a-static-secret-of-the-column"] }
idempotency = { pointers = ["/row"], changed = "conflict" }
"#;

fn callbacks(result: &str, n: u64) -> String {
    format!("claygate_callbacks_total{{source=\"metered\",result=\"{result}\"}} {n}")
}

#[tokio::test]
async fn every_result_is_there_at_zero_and_counts() {
    let handle = metrics::install().unwrap();
    let (site, gateway) = Site::with(METERED).await;
    let rendered = handle.render();
    for result in RESULTS {
        assert!(rendered.contains(&callbacks(result, 0)), "{result} of {rendered}");
    }
    for name in ["claygate_ack_seconds_count", "claygate_spool_entries"] {
        assert!(rendered.lines().any(|line| line.starts_with(name)), "{name} of {rendered}");
    }
    let missed = "claygate_key_pointers_missed_total{source=\"metered\"}";
    assert!(rendered.contains(&format!("{missed} 0")), "{rendered}");

    let post = async |secret: &str, body: String| {
        Answer::of(gateway.request_to("/metered").header("X-Gate", secret).body(body)).await.status
    };
    for (secret, body, status) in [
        (SECRET, r#"{"row":1,"v":1}"#.to_owned(), 200),
        (SECRET, r#"{"row":1,"v":1}"#.to_owned(), 200),
        (SECRET, r#"{"row":1,"v":2}"#.to_owned(), 409),
        (SECRET, r#"{"v":3}"#.to_owned(), 200),
        (SECRET, r#"{"data":{}}"#.to_owned(), 200),
        (SECRET, "{".to_owned(), 400),
        ("wrong", "{}".to_owned(), 401),
        (SECRET, format!(r#"{{"v":"{}"}}"#, "x".repeat(3_000)), 413),
    ] {
        assert_eq!(post(secret, body).await, status);
    }
    site.take_postgres_away().await;
    assert_eq!(post(SECRET, r#"{"row":2}"#.to_owned()).await, 200);
    site.bring_postgres_back().await;
    gateway.wait_until_drained().await;

    let rendered = handle.render();
    for (result, n) in [
        ("accepted", 2),
        ("duplicate", 1),
        ("conflict", 1),
        ("recorded", 1),
        ("quarantined", 1),
        ("unauthorized", 1),
        ("too_large", 1),
        ("spooled", 1),
        ("malformed", 0),
        ("throttled", 0),
        ("unavailable", 0),
    ] {
        assert!(rendered.contains(&callbacks(result, n)), "{n} {result} of {rendered}");
    }
    assert!(rendered.contains(&format!("{missed} 2")), "{rendered}");
    gateway.stop(&site).await;
}
