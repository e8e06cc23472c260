//! Reads a body of any length: bytes → rows → groups, each committed before more is read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web;
use bytes::Bytes;
use common::config::Destination;
use common::db::DbError;
use common::db::row_intake::{GROUP_ROWS_MAX, TakeError};
use common::db::rows::NewRow;
use common::queue::QueueName;
use common::rows::prepare::{KeySource, Preparer};
use common::rows::split::{Broken, Form, Splitter};
use common::telemetry::logs::chain;
use futures_util::StreamExt;
use uuid::Uuid;

use super::receive::RowGate;
use super::store::Store;
use super::tally::Tally;
use crate::http::problem::Problem;

/// Bytes at which a group is full; one slice may exceed it.
const GROUP_BYTES_MAX: usize = 1 << 20;
/// Bytes that are cut into rows before the group is looked at again.
const SLICE_BYTES: usize = 16 << 10;
/// How long rows wait for more of their group before they are committed without.
const FLUSH_AFTER: Duration = Duration::from_millis(200);

/// A request of rows that may be read.
pub(super) struct Reading {
    pub(super) gate: Arc<RowGate>,
    pub(super) destination: Destination,
    pub(super) form: Form,
    pub(super) key_header: Option<String>,
    pub(super) run: Option<String>,
}

/// How the reading ended.
pub(super) struct Ended {
    pub(super) tally: Tally,
    pub(super) batch: Option<Uuid>,
    /// Every line before it is durable or refused.
    pub(super) next_line: u64,
    /// Why it ended before the body did.
    pub(super) problem: Option<Problem>,
}

/// What was read and is not committed yet.
#[derive(Default)]
struct Group {
    rows: Vec<NewRow>,
    bytes: usize,
    refused: u64,
}

impl Group {
    fn is_full(&self) -> bool {
        self.rows.len() >= GROUP_ROWS_MAX || self.bytes >= GROUP_BYTES_MAX
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.refused == 0
    }
}

struct Reader<'a> {
    gate: &'a RowGate,
    destination: &'a str,
    preparer: Preparer<'a>,
    store: Store<'a>,
    group: Group,
    tally: Tally,
    next_line: u64,
}

impl Reading {
    /// Reads `payload` to its end, or to where it cannot go on. Whole rows are committed in either case.
    pub(super) async fn read(&self, payload: &mut web::Payload) -> Ended {
        let keys = self.key_header.as_deref().map_or(KeySource::Row, KeySource::Header);
        let Some(preparer) = Preparer::new(&self.destination, keys, self.run.as_deref()) else {
            return Ended { tally: Tally::default(), batch: None, next_line: 0, problem: Some(Problem::NotForRows) };
        };
        let mut reader = Reader {
            gate: &self.gate,
            destination: &self.destination.name,
            preparer,
            store: Store::new(&self.gate.connections, &self.destination),
            group: Group::default(),
            tally: Tally::default(),
            next_line: 0,
        };
        let problem = reader.read(payload, Splitter::new(self.form, preparer.bytes_max())).await.err();
        Ended { batch: reader.store.batch(), next_line: reader.next_line, tally: reader.tally, problem }
    }
}

impl Reader<'_> {
    async fn read(&mut self, payload: &mut web::Payload, mut splitter: Splitter) -> Result<(), Problem> {
        let read = self.read_all(payload, &mut splitter).await;
        if let Err(Problem::RowsUnavailable) = read {
            return read;
        }
        let last_line = splitter.line();
        let ended = read.and_then(|()| {
            splitter.finish(&mut |piece| add(&self.preparer, &mut self.group, &mut self.tally, piece)).map_err(broken)
        });
        // The line that was under way when it broke off is not read.
        let next_line = if ended.is_ok() { last_line + 1 } else { last_line };
        if self.store.batch().is_some() || !self.group.is_empty() {
            self.commit(next_line, ended.is_ok()).await?;
        }
        ended
    }

    async fn read_all(&mut self, payload: &mut web::Payload, splitter: &mut Splitter) -> Result<(), Problem> {
        while let Some(bytes) = self.next(payload, splitter).await? {
            for slice in bytes.chunks(SLICE_BYTES) {
                let (preparer, group, tally) = (&self.preparer, &mut self.group, &mut self.tally);
                splitter.feed(slice, &mut |piece| add(preparer, group, tally, piece)).map_err(broken)?;
                if self.group.is_full() {
                    self.commit(splitter.line(), false).await?;
                }
            }
        }
        Ok(())
    }

    /// The next bytes, and what they are worth waiting for: rows that wait are committed when no more come at once.
    async fn next(&mut self, payload: &mut web::Payload, splitter: &Splitter) -> Result<Option<Bytes>, Problem> {
        let deadline = Instant::now() + self.gate.body_timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = if self.group.is_empty() { left } else { left.min(FLUSH_AFTER) };
            let chunk = tokio::select! {
                () = self.gate.shutdown.cancelled() => return Err(Problem::RowsInterrupted),
                chunk = tokio::time::timeout(wait, payload.next()) => chunk,
            };
            match chunk {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(bytes))) => return Ok(Some(bytes)),
                Ok(Some(Err(_))) => return Err(Problem::BrokenBody),
                // A single object is committed with the end of its body.
                Err(_) if !self.group.is_empty() && wait < left => self.commit(splitter.line(), false).await?,
                Err(_) => return Err(Problem::SlowBody),
            }
        }
    }

    async fn commit(&mut self, next_line: u64, ends: bool) -> Result<(), Problem> {
        let Group { rows, refused, .. } = std::mem::take(&mut self.group);
        let taken = match self.store.take(&rows, refused, next_line, ends).await {
            Ok(taken) => taken,
            Err(error) => return Err(self.unavailable(&error)),
        };
        self.next_line = next_line;
        let before = self.tally.counts;
        self.tally.add(&rows, &taken);
        self.gate.outcomes.count(self.destination, &before, &self.tally.counts, refused);
        if self.tally.counts.accepted > before.accepted {
            self.gate.shared.doorbell.ring(&QueueName::deliver(self.destination));
        }
        Ok(())
    }

    fn unavailable(&self, error: &TakeError) -> Problem {
        match error {
            TakeError::Database(error @ DbError::Unavailable(_)) => self.gate.shared.health.went_down(error),
            error => tracing::error!(error = %chain(error), "rows could not be stored"),
        }
        Problem::RowsUnavailable
    }
}

fn add(preparer: &Preparer<'_>, group: &mut Group, tally: &mut Tally, piece: common::rows::split::Piece<'_>) {
    tally.alone = piece.alone;
    match preparer.prepare(piece) {
        Ok(row) => {
            group.bytes += row.body.len();
            group.rows.push(row);
        }
        Err(problem) => {
            group.refused += 1;
            tally.refuse(piece.line, problem);
        }
    }
}

fn broken(broken: Broken) -> Problem {
    Problem::BrokenRows(broken)
}
