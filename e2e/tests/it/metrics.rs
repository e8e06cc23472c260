//! Alerts are never blind: every metric of the contract is there, at 0, before anything has happened.

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

#[tokio::test]
async fn every_metric_exists_at_zero_right_after_the_start() {
    let site = Site::new("");
    let up = site.up().await;
    let page = up.admin("/metrics").await;
    let series: Vec<&str> = page.lines().filter(|line| line.starts_with("claygate_")).collect();
    for name in CONTRACT {
        let of_it = |line: &&&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ', '_']));
        assert!(series.iter().any(|line| of_it(&line)), "{name} is missing in:\n{page}");
    }
    for result in RESULTS {
        let line =
            |line: &&str| line.starts_with("claygate_callbacks_total{") && line.contains(&format!("\"{result}\""));
        assert!(series.iter().copied().any(|series| line(&series)), "{result} is missing in:\n{page}");
    }
    for line in series {
        let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(value == 0.0, "{line}");
    }
    assert!(up.terminate().success());
}
