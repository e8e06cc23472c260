//! Brings the spool's entries into Postgres, oldest first, whenever it is up.
//!
//! Guarantee: an entry leaves the disk only after it is committed as a callback, an alias or a quarantined body.
//! Safe to run twice: an entry that is there already is found by its id and nothing is written. When it dies, the
//! next start reads the segment from its beginning. One entry that Postgres refuses goes to quarantine and holds
//! nothing up; a segment with one that it refuses even there, or with damage, is kept as a file beside the spool.
//! Every failure in a row doubles the pause after it.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use common::crash::{self, Point};
use common::db::DbError;
use common::db::intake::Books;
use common::queue::QueueName;
use common::telemetry::metrics::INTAKE_PANICS;
use futures_util::FutureExt;
use metrics::counter;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::segment;
use crate::commit::session::Session;
use crate::commit::settle::settle;
use crate::commit::writer::Shared;
use crate::commit::{Entry, Outcome};
use common::telemetry::logs::chain;

const CHUNK_ENTRIES: usize = 128;
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The drain of one process.
pub(crate) struct Drain {
    shared: Arc<Shared>,
    books: Books,
    session: Option<Session>,
    /// Entries of the oldest segment that are committed already, and its number.
    position: (u64, usize),
    /// Postgres takes some entry of the oldest segment in no form: its segment is kept aside.
    unstorable: bool,
    /// Weeks whose partitions are known to exist, as days since 1970 of any of their moments divided by seven.
    weeks: HashSet<i64>,
    /// After the next failure.
    pause: Duration,
}

impl Drain {
    pub(crate) fn new(shared: Arc<Shared>, books: Books) -> Self {
        Self {
            shared,
            books,
            session: None,
            position: (0, 0),
            unstorable: false,
            weeks: HashSet::new(),
            pause: PAUSE_AFTER_FAILURE,
        }
    }

    /// Drains whenever there is something and Postgres is up, until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let shared = Arc::clone(&self.shared);
        loop {
            let ready = async {
                shared.spool.wait_until_filled().await;
                shared.health.wait_until_up().await;
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = ready => {}
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = self.drain_or_pause() => {}
            }
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    async fn drain_or_pause(&mut self) {
        let drained = AssertUnwindSafe(self.drain_oldest()).catch_unwind().await;
        let Err(error) = drained.unwrap_or(Err(DrainError::Panicked)) else {
            self.pause = PAUSE_AFTER_FAILURE;
            return;
        };
        self.session = None;
        if matches!(error, DrainError::Panicked) {
            counter!(INTAKE_PANICS).increment(1);
        }
        match &error {
            DrainError::Database(error @ DbError::Unavailable(_)) => self.shared.health.went_down(error),
            // Senders may still be served: this is about what is in the spool.
            error => tracing::error!(error = %chain(error), pause = ?self.pause, "the spool cannot be drained"),
        }
        tokio::time::sleep(self.pause).await;
        self.pause = PAUSE_MAX.min(self.pause * 2);
    }

    /// Drains the oldest segment.
    async fn drain_oldest(&mut self) -> Result<(), DrainError> {
        let shared = Arc::clone(&self.shared);
        let segment = shared.spool.oldest().await.ok_or(DrainError::Missing)?;
        if self.position.0 != segment.number {
            self.position = (segment.number, 0);
            self.unstorable = false;
        }
        let path = segment.path.clone();
        let read = tokio::task::spawn_blocking(move || segment::read(&path)).await;
        let contents = read.map_err(std::io::Error::other)??;
        let count = contents.entries.len();
        let mut waiting = contents.entries.into_iter().skip(self.position.1);
        loop {
            let chunk: Vec<Entry> = waiting.by_ref().take(CHUNK_ENTRIES).collect();
            if chunk.is_empty() {
                break;
            }
            self.commit(&chunk).await?;
            self.position.1 += chunk.len();
            shared.spool.drained(chunk.len() as u64);
        }
        // What cannot be read will never be drained: it is not waiting any more.
        shared.spool.drained(segment.entries.saturating_sub(count as u64));
        tracing::info!(segment = segment.number, entries = count, "drained a segment of the spool");
        shared.spool.remove(segment, contents.damaged || self.unstorable).await;
        Ok(())
    }

    async fn commit(&mut self, chunk: &[Entry]) -> Result<(), DrainError> {
        let shared = Arc::clone(&self.shared);
        let session = match &mut self.session {
            Some(session) => session,
            None => {
                let opened = Session::open(&shared.settings, shared.commit_timeout, self.books.clone()).await?;
                self.session.insert(opened)
            }
        };
        let ids: Vec<Uuid> = chunk.iter().map(|entry| entry.id().0).collect();
        let present: HashSet<Uuid> = session.present(&ids).await?.into_iter().collect();
        let missing: Vec<Entry> = chunk.iter().filter(|entry| !present.contains(&entry.id().0)).cloned().collect();
        for moment in missing.iter().filter_map(received_at) {
            if self.weeks.insert(week(moment))
                && let Err(error) = session.ensure_partition(moment).await
            {
                self.weeks.remove(&week(moment));
                return Err(error.into());
            }
        }
        let mut outcomes = vec![None; missing.len()];
        settle(session, &missing, &*shared.policy, &mut outcomes).await?;
        crash::point(Point::WhileDraining);
        // For all of them, also those that a predecessor brought in just before it died: the sweeper may be past them.
        if let Some(oldest) = chunk.iter().filter_map(received_at).min() {
            session.pull_mark_back(oldest).await?;
        }
        self.unstorable |= outcomes.contains(&Some(Outcome::Unavailable));
        shared.doorbell.ring(&QueueName::callbacks());
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
enum DrainError {
    #[error("committing failed")]
    Database(#[from] DbError),
    #[error("reading failed")]
    Disk(#[from] std::io::Error),
    #[error("it counts entries that no segment holds")]
    Missing,
    #[error("a defect: it panicked")]
    Panicked,
}

fn received_at(entry: &Entry) -> Option<OffsetDateTime> {
    match entry {
        Entry::Callback(incoming) => incoming.received_at,
        Entry::Unusable(_) => None,
    }
}

/// Weeks since Monday, 29 December 1969.
fn week(moment: OffsetDateTime) -> i64 {
    (moment.unix_timestamp().div_euclid(86_400) + 3).div_euclid(7)
}
