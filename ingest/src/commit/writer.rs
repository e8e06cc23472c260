//! A writer: takes what waits, commits it, answers everyone. What cannot be committed goes to the spool.

use std::sync::Arc;
use std::time::Duration;

use common::db::intake::Books;
use common::db::{ConnectSettings, DbError};
use common::queue::{Doorbell, QueueName};
use time::OffsetDateTime;

use super::clock::DatabaseClock;
use super::health::{DatabaseHealth, chain};
use super::queue::{Job, Queue};
use super::session::Session;
use super::settle::{Policy, settle};
use super::{Entry, Outcome};
use crate::spool::Spool;

/// What every writer of a process shares.
pub(crate) struct Shared {
    pub(crate) queue: Queue,
    pub(crate) health: DatabaseHealth,
    pub(crate) clock: DatabaseClock,
    pub(crate) spool: Spool,
    pub(crate) settings: ConnectSettings,
    pub(crate) commit_timeout: Duration,
    pub(crate) policy: Box<dyn Policy>,
    pub(crate) doorbell: Doorbell,
}

/// One writer with its connection.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    books: Books,
    session: Option<Session>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, books: Books) -> Self {
        Self { shared, books, session: None }
    }

    /// Works until the queue is closed and empty.
    pub(crate) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        while let Some(batch) = shared.queue.take().await {
            self.work_off(batch).await;
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    async fn work_off(&mut self, batch: Vec<Job>) {
        let mut entries = Vec::with_capacity(batch.len());
        let mut waiting = Vec::with_capacity(batch.len());
        for Job { entry, answer, permit } in batch {
            entries.push(entry);
            waiting.push((answer, permit));
        }
        let mut outcomes = vec![None; entries.len()];
        if let Err(error) = self.commit(&entries, &mut outcomes).await {
            self.session = None;
            self.shared.health.went_down(&error);
        }
        if outcomes.contains(&None) {
            self.spool(entries, &mut outcomes).await;
        }
        for ((answer, permit), outcome) in waiting.into_iter().zip(outcomes) {
            // Nobody may be waiting any more; what was committed stays committed.
            let _disconnected = answer.send(outcome.unwrap_or(Outcome::Unavailable));
            drop(permit);
        }
    }

    /// Commits what it can. Does nothing while Postgres is known to be away.
    async fn commit(&mut self, entries: &[Entry], outcomes: &mut [Option<Outcome>]) -> Result<(), DbError> {
        let shared = &*self.shared;
        if !shared.health.is_up() {
            self.session = None;
            return Ok(());
        }
        let session = match &mut self.session {
            Some(session) => session,
            None => {
                let opened = Session::open(&shared.settings, shared.commit_timeout, self.books.clone()).await?;
                self.session.insert(opened)
            }
        };
        let started = OffsetDateTime::now_utc();
        let done = settle(session, entries, &*shared.policy, outcomes).await;
        let mut accepted = outcomes.iter().filter_map(|outcome| match outcome {
            Some(Outcome::Accepted { at, .. }) => Some(*at),
            _ => None,
        });
        if let Some(at) = accepted.next() {
            shared.clock.observe(at, started);
            shared.doorbell.ring(&QueueName::callbacks());
        }
        if let Err(error @ DbError::Other(_)) = &done {
            tracing::error!(error = %chain(error), "the intake's statement failed");
        }
        done
    }

    /// Spools what has no outcome yet.
    async fn spool(&self, entries: Vec<Entry>, outcomes: &mut [Option<Outcome>]) {
        let shared = &*self.shared;
        let at = shared.clock.now();
        let open = entries.into_iter().zip(outcomes.iter_mut()).filter(|(_, outcome)| outcome.is_none());
        let (mut entries, places): (Vec<Entry>, Vec<&mut Option<Outcome>>) = open.unzip();
        for entry in &mut entries {
            entry.set_received_at(at);
        }
        let durable = shared.spool.append(&entries).await;
        for (position, (entry, place)) in entries.iter().zip(places).enumerate() {
            *place = Some(match entry {
                _ if position >= durable => Outcome::Unavailable,
                Entry::Callback(incoming) => Outcome::Spooled { id: incoming.id, at },
                Entry::Unusable(unusable) => Outcome::Quarantined { id: unusable.id, problem: unusable.problem },
            });
        }
    }
}
