//! Postgres alone: the intake's own statement with batches of its own, without HTTP in front.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use common::db::ConnectSettings;
use common::db::intake::{Books, Candidate, Incoming, IntakeConnection};
use common::idempotency::{IdempotencyKey, KeyKind};
use common::ids::CallbackId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use url::Url;

use super::wire;
use crate::measure::{Latencies, Quantiles};

const HEADERS: &str = r#"{"content-type":"application/json","user-agent":"bench","x-clay-signature":"[redacted]"}"#;

/// What to write.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The database.
    pub url: Url,
    /// Connections, each with one statement at a time.
    pub clients: i16,
    /// Callbacks of one statement.
    pub rows: usize,
    /// Length of a body.
    pub body_bytes: usize,
    /// How long before the measurement.
    pub warm_up_ms: u64,
    /// How long.
    pub measured_ms: u64,
}

/// Said at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Callbacks that were stored, warm-up included.
    pub stored: u64,
    /// Callbacks that were stored in the measured time.
    pub measured: u64,
    /// The measured time, in seconds.
    pub seconds: f64,
    /// Of a statement, in milliseconds.
    pub latency: Quantiles,
}

/// Writes, says `true` after the warm-up, and reports.
///
/// # Errors
/// When Postgres fails.
pub(super) async fn run(plan: Plan) -> anyhow::Result<()> {
    let settings = ConnectSettings::from_url(&plan.url, None, 1)?;
    let mut writers = Vec::new();
    for number in 0..plan.clients {
        writers.push(Writer {
            connection: IntakeConnection::open(&settings).await.context("connecting to Postgres")?,
            books: Books { instance: "bench".into(), writer: number },
            source: "hmac".into(),
            body: Bytes::from(vec![b' '; plan.body_bytes]),
            rows: plan.rows,
        });
    }
    let (writers, warm) = write_for(writers, Duration::from_millis(plan.warm_up_ms)).await?;
    wire::say(&true)?;
    wire::hear_go().await?;
    let started = Instant::now();
    let (_, measured) = write_for(writers, Duration::from_millis(plan.measured_ms)).await?;
    wire::say(&Report {
        stored: warm.stored + measured.stored,
        measured: measured.stored,
        seconds: started.elapsed().as_secs_f64(),
        latency: measured.latencies.quantiles(),
    })?;
    // What it has used can be read as long as it is there.
    wire::wait_for_end().await
}

struct Writer {
    connection: IntakeConnection,
    books: Books,
    source: Arc<str>,
    body: Bytes,
    rows: usize,
}

struct Written {
    stored: u64,
    latencies: Latencies,
}

async fn write_for(writers: Vec<Writer>, length: Duration) -> anyhow::Result<(Vec<Writer>, Written)> {
    let deadline = Instant::now() + length;
    let mut running = JoinSet::new();
    for mut writer in writers {
        running.spawn_local(async move {
            let mut written = Written { stored: 0, latencies: Latencies::new() };
            while Instant::now() < deadline {
                let started = Instant::now();
                written.stored += writer.write().await?;
                written.latencies.add(started.elapsed());
            }
            anyhow::Ok((writer, written))
        });
    }
    let (mut writers, mut all) = (Vec::new(), Written { stored: 0, latencies: Latencies::new() });
    while let Some(ended) = running.join_next().await {
        let (writer, written) = ended??;
        writers.push(writer);
        all.stored += written.stored;
        all.latencies.add_all(&written.latencies);
    }
    Ok((writers, all))
}

impl Writer {
    /// One statement.
    async fn write(&mut self) -> anyhow::Result<u64> {
        let mut batch: Vec<Incoming> = (0..self.rows).map(|_| self.incoming()).collect();
        batch.sort_by_key(|incoming| incoming.key.hash);
        let candidates: Vec<Candidate<'_>> =
            batch.iter().map(|incoming| Candidate { incoming, revision: 0, skip: None }).collect();
        self.connection.store_first(&self.books, &candidates).await.context("storing a batch")?;
        Ok(candidates.len() as u64)
    }

    fn incoming(&self) -> Incoming {
        let id = CallbackId::new();
        // The digest of something as unique as the body would be; hashing the body itself is the intake's work.
        let digest: [u8; 32] = Sha256::digest(id.0.as_bytes()).into();
        Incoming {
            id,
            source: Arc::clone(&self.source),
            key: IdempotencyKey { hash: digest, kind: KeyKind::Content },
            digest,
            row_id: None,
            skip: None,
            body: self.body.clone(),
            headers: HEADERS.to_owned(),
            received_at: None,
        }
    }
}
