//! Alerts are never blind: every metric of the contract is there, at 0, before anything has happened.

use testkit::metrics::CALLBACK_RESULTS;

use crate::site::Site;

const CONTRACT: [&str; 11] = [
    "claygate_callbacks_total",
    "claygate_ack_seconds",
    "claygate_outbox_entries",
    "claygate_outbox_oldest_age_seconds",
    "claygate_spool_entries",
    "claygate_deliveries_total",
    "claygate_attempt_seconds",
    "claygate_retries_total",
    "claygate_dead_letters_total",
    "claygate_end_to_end_seconds",
    "claygate_icp_score",
];

#[tokio::test]
async fn every_metric_exists_at_zero_right_after_the_start() {
    let site = Site::new("");
    let up = site.up().await;
    let page = up.metrics().await;
    for name in CONTRACT {
        assert!(page.has(name), "{name} is missing in:\n{page}");
    }
    for result in CALLBACK_RESULTS {
        let value = page.value("claygate_callbacks_total", &[("result", result)]);
        assert_eq!(value, Some(0.0), "{result} in:\n{page}");
    }
    for (series, value) in page.series() {
        assert!(value == 0.0, "{series} is {value}");
    }
    assert!(up.terminate().success());
}
