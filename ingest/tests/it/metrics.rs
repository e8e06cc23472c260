//! What is counted, and that every series is there before anything happens.

use common::telemetry::metrics;
use testkit::metrics::{CALLBACK_RESULTS, MetricsPage};

use crate::gateway::{Answer, SECRET, Site};

/// The recorder is the process's own, so the source's name is this test's own.
const METERED: &str = r#"
[sources.metered]
path = "/metered"
max_body = "2KB"
verify = { kind = "token", header = "X-Gate", secrets = ["a-static-secret-of-the-column"] }
idempotency = { pointers = ["/row"], changed = "conflict" }
"#;

fn callbacks(page: &MetricsPage, result: &str) -> Option<f64> {
    page.value("claygate_callbacks_total", &[("source", "metered"), ("result", result)])
}

fn missed(page: &MetricsPage) -> Option<f64> {
    page.value("claygate_key_pointers_missed_total", &[("source", "metered")])
}

#[tokio::test]
async fn every_result_is_there_at_zero_and_counts() {
    let handle = metrics::install().unwrap();
    let (site, gateway) = Site::with(METERED).await;
    let page = MetricsPage::new(handle.render());
    for result in CALLBACK_RESULTS {
        assert_eq!(callbacks(&page, result), Some(0.0), "{result} of {page}");
    }
    for name in ["claygate_ack_seconds_count", "claygate_spool_entries"] {
        assert!(page.has(name), "{name} of {page}");
    }
    assert_eq!(missed(&page), Some(0.0), "{page}");

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

    let page = MetricsPage::new(handle.render());
    for (result, n) in [
        ("accepted", 2.0),
        ("duplicate", 1.0),
        ("conflict", 1.0),
        ("recorded", 1.0),
        ("quarantined", 1.0),
        ("unauthorized", 1.0),
        ("too_large", 1.0),
        ("spooled", 1.0),
        ("malformed", 0.0),
        ("throttled", 0.0),
        ("unavailable", 0.0),
    ] {
        assert_eq!(callbacks(&page, result), Some(n), "{result} of {page}");
    }
    assert_eq!(missed(&page), Some(2.0), "{page}");
    gateway.stop(&site).await;
}
