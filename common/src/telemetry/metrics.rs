//! Prometheus metrics. The names are a contract; every series exists at 0 from the start, so that alerts are never
//! blind. Rendering reads memory only: a scrape costs the same whatever the tables hold.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Callbacks by source and result.
pub const CALLBACKS: &str = "claygate_callbacks_total";
/// Time from the request's last byte to its answer.
pub const ACK_SECONDS: &str = "claygate_ack_seconds";
/// Explicit keys that the configured pointers did not give.
pub const KEY_POINTERS_MISSED: &str = "claygate_key_pointers_missed_total";
/// Outbox entries by queue.
pub const OUTBOX_ENTRIES: &str = "claygate_outbox_entries";
/// Age of the oldest due outbox entry of a queue that is not paused.
pub const OUTBOX_OLDEST_AGE_SECONDS: &str = "claygate_outbox_oldest_age_seconds";
/// Whether a connection to the broker is there, by what it is for.
pub const BROKER_CONNECTED: &str = "claygate_broker_connected";
/// Messages given to the broker, by what it said.
pub const PUBLISHED: &str = "claygate_published_messages_total";
/// Callbacks in this process's spool.
pub const SPOOL_ENTRIES: &str = "claygate_spool_entries";
/// Defects that the intake survived.
pub const INTAKE_PANICS: &str = "claygate_intake_panics_total";
/// Rows that were handed in, by destination and what became of them.
pub const ROWS: &str = "claygate_rows_total";
/// Requests of rows, by result.
pub const ROW_REQUESTS: &str = "claygate_row_requests_total";
/// Deliveries by destination and how they ended.
pub const DELIVERIES: &str = "claygate_deliveries_total";
/// Duration of one attempt.
pub const ATTEMPT_SECONDS: &str = "claygate_attempt_seconds";
/// Retries scheduled, by destination and class.
pub const RETRIES: &str = "claygate_retries_total";
/// Dead letters by destination and reason.
pub const DEAD_LETTERS: &str = "claygate_dead_letters_total";
/// From receipt of the callback to the end of a delivery.
pub const END_TO_END_SECONDS: &str = "claygate_end_to_end_seconds";
/// ICP scores of routed leads.
pub const ICP_SCORE: &str = "claygate_icp_score";
/// Submissions counted per webhook URL of Clay.
pub const CLAY_SUBMISSIONS: &str = "claygate_clay_submissions";
/// The part of its cap that a webhook URL has used; 0 without a cap.
pub const CLAY_FILL_RATIO: &str = "claygate_clay_fill_ratio";
/// Webhook URLs by destination and state.
pub const CLAY_WEBHOOKS: &str = "claygate_clay_webhooks";
/// Whether a destination has no webhook URL left that takes a row.
pub const CLAY_NO_WEBHOOK_LEFT: &str = "claygate_clay_no_webhook_left";
/// Rows that Clay took lately and that have not come back, by destination.
pub const ROWS_OUTSTANDING: &str = "claygate_rows_outstanding";
/// Those of them that should be back.
pub const ROWS_OVERDUE: &str = "claygate_rows_overdue";
/// What retention removed, by kind: weeks of attempts and bodies, else entries.
pub const RETENTION_REMOVED: &str = "claygate_retention_removed_total";
/// What is old enough and was left at the last run, because it is still needed or read, by kind.
pub const RETENTION_HELD: &str = "claygate_retention_held";
/// When this process last ran it to its end, in seconds since 1970.
pub const RETENTION_LAST_SUCCESS: &str = "claygate_retention_last_success_timestamp_seconds";

const SECONDS: [f64; 15] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const LONG_SECONDS: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0, 36_000.0];
const SCORES: [f64; 5] = [20.0, 40.0, 60.0, 80.0, 100.0];
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);

/// Renders what this process counted.
#[derive(Clone)]
pub struct MetricsHandle(PrometheusHandle);

impl MetricsHandle {
    /// The text exposition format.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

/// Why counting could not be started.
#[derive(Debug, thiserror::Error)]
pub enum MetricsProblem {
    /// The exporter refused its settings.
    #[error("the metrics exporter could not be built")]
    Build(#[from] BuildError),
    /// Something else in this process counts already.
    #[error("another metrics recorder is installed in this process")]
    Taken,
    /// No thread could be started.
    #[error("the metrics' upkeep thread could not be started")]
    Thread(#[from] std::io::Error),
}

/// Starts counting. Later calls in one process give the same handle.
///
/// # Errors
/// [`MetricsProblem`]; nothing is counted then.
pub fn install() -> Result<MetricsHandle, MetricsProblem> {
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = installed.as_ref() {
        return Ok(MetricsHandle(handle.clone()));
    }
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(END_TO_END_SECONDS.to_owned()), &LONG_SECONDS)?
        .set_buckets_for_metric(Matcher::Full(ICP_SCORE.to_owned()), &SCORES)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .build_recorder();
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder).map_err(|_| MetricsProblem::Taken)?;
    let upkeep = handle.clone();
    std::thread::Builder::new().name("metrics-upkeep".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(UPKEEP_EVERY);
            upkeep.run_upkeep();
        }
    })?;
    describe();
    *installed = Some(handle.clone());
    Ok(MetricsHandle(handle))
}

fn describe() {
    describe_counter!(CALLBACKS, "Callbacks by source and result.");
    describe_histogram!(ACK_SECONDS, Unit::Seconds, "From the request's last byte to its answer.");
    describe_counter!(KEY_POINTERS_MISSED, "Callbacks whose configured key pointers gave no value.");
    describe_gauge!(OUTBOX_ENTRIES, "Outbox entries, waiting and scheduled.");
    describe_gauge!(OUTBOX_OLDEST_AGE_SECONDS, Unit::Seconds, "Age of the oldest due entry of a queue that runs.");
    describe_gauge!(BROKER_CONNECTED, "Whether a connection to RabbitMQ is there, by what it is for.");
    describe_counter!(PUBLISHED, "Messages given to RabbitMQ, by what it said.");
    describe_gauge!(SPOOL_ENTRIES, "Callbacks in this process's spool.");
    describe_counter!(INTAKE_PANICS, "Defects that the intake survived; each is logged.");
    describe_counter!(ROWS, "Rows handed in over HTTP, by destination and result.");
    describe_counter!(ROW_REQUESTS, "Requests of rows, by result.");
    describe_counter!(DELIVERIES, "Deliveries by destination and how they ended.");
    describe_histogram!(ATTEMPT_SECONDS, Unit::Seconds, "Duration of one attempt.");
    describe_counter!(RETRIES, "Retries scheduled, by destination and class.");
    describe_counter!(DEAD_LETTERS, "Dead letters by destination and reason.");
    describe_histogram!(END_TO_END_SECONDS, Unit::Seconds, "From a callback's receipt to its delivery.");
    describe_gauge!(CLAY_SUBMISSIONS, "Submissions counted per webhook URL of Clay.");
    describe_gauge!(CLAY_FILL_RATIO, "The part of its cap that a webhook URL has used; 0 without a cap.");
    describe_gauge!(CLAY_WEBHOOKS, "Webhook URLs of Clay by destination and state.");
    describe_gauge!(CLAY_NO_WEBHOOK_LEFT, "1 while a destination has no webhook URL left, and its rows wait.");
    describe_gauge!(
        ROWS_OUTSTANDING,
        "Rows that Clay took lately and that have not come back; at most 100000 are counted."
    );
    describe_gauge!(ROWS_OVERDUE, "Rows that became overdue within a day and have not come back.");
    describe_counter!(RETENTION_REMOVED, "What retention removed: weeks of attempts and bodies, else entries.");
    describe_gauge!(RETENTION_HELD, "What is old enough and was left at the last run: still needed, or read.");
    describe_gauge!(
        RETENTION_LAST_SUCCESS,
        Unit::Seconds,
        "When this process last ran retention to its end; 0: not yet."
    );
    describe_histogram!(ICP_SCORE, "ICP scores of routed leads.");
}
