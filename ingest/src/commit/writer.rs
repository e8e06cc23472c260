//! A writer: takes what waits, commits it, answers everyone. What cannot be committed goes to the spool.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use common::crash::{self, Point};
use common::db::intake::Books;
use common::db::{ConnectSettings, DbError};
use common::queue::{Doorbell, QueueName};
use common::telemetry::logs::chain;
use common::telemetry::metrics::INTAKE_PANICS;
use futures_util::FutureExt;
use metrics::counter;
use time::OffsetDateTime;
use tokio::sync::Notify;

use super::clock::DatabaseClock;
use super::health::DatabaseHealth;
use super::mailbox::send_all;
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
    /// Rings when a commit found no partition for its time.
    pub(crate) partition_missing: Notify,
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

    /// Works until the queue is closed and empty. A panic costs the batch it happened in, whose senders are asked to
    /// come again, and the connection.
    pub(crate) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        while let Some(batch) = shared.queue.take().await {
            if AssertUnwindSafe(self.work_off(batch)).catch_unwind().await.is_err() {
                self.session = None;
                counter!(INTAKE_PANICS).increment(1);
                tracing::error!(writer = self.books.writer, "a writer panicked; it goes on with the next batch");
            }
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    async fn work_off(&mut self, batch: Vec<Job>) {
        let mut entries = Vec::with_capacity(batch.len());
        let mut waiting = Vec::with_capacity(batch.len());
        for Job { entry, reply, permit } in batch {
            entries.push(entry);
            waiting.push((reply, permit));
        }
        let mut outcomes = vec![None; entries.len()];
        if let Err(error) = self.commit(&entries, &mut outcomes).await {
            self.session = None;
            if error.is_missing_partition() {
                self.shared.partition_missing.notify_one();
            }
            // What collided or was refused is this batch's own trouble: it goes to the spool, the rest goes on.
            if matches!(error, DbError::Unavailable(_) | DbError::Other(_)) {
                self.shared.health.went_down(&error);
            }
        }
        if outcomes.contains(&None) {
            self.spool(entries, &mut outcomes).await;
        }
        let answers = waiting.into_iter().zip(outcomes);
        send_all(answers.map(|((reply, _permit), outcome)| (reply, outcome.unwrap_or(Outcome::Unavailable))));
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
        if done.is_ok() {
            crash::point(Point::AfterCommit);
        }
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
        if durable > 0 {
            crash::point(Point::AfterSpool);
        }
        for (position, (entry, place)) in entries.iter().zip(places).enumerate() {
            *place = Some(match entry {
                _ if position >= durable => Outcome::Unavailable,
                Entry::Callback(incoming) => Outcome::Spooled { id: incoming.id, at },
                Entry::Unusable(unusable) => Outcome::Quarantined { id: unusable.id, problem: unusable.problem },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use common::config::Changed;
    use testkit::postgres::TestDatabase;

    use super::*;
    use crate::commit::fixtures::callback;
    use crate::commit::mailbox::{Mailbox, Reply};
    use crate::http::admission::Admission;

    struct Panics;

    impl Policy for Panics {
        fn changed(&self, _source: &str) -> Changed {
            panic!("a defect")
        }
    }

    #[tokio::test]
    async fn a_panic_costs_one_batch() {
        let test = TestDatabase::create().await;
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared {
            queue: Queue::default(),
            health: DatabaseHealth::new(),
            clock: DatabaseClock::default(),
            spool: Spool::open(dir.path(), 1 << 20, Duration::from_secs(10)).unwrap(),
            settings: test.settings(),
            commit_timeout: Duration::from_secs(10),
            policy: Box::new(Panics),
            doorbell: Doorbell::new(),
            partition_missing: Notify::new(),
        });
        shared.health.probe(&shared.settings).await.unwrap();
        let writing = tokio::spawn(Writer::new(Arc::clone(&shared), books()).run());
        let admission = Admission::new(10, 1_000);
        let mailbox = Arc::new(Mailbox::default());
        tokio::spawn(Arc::clone(&mailbox).hand_on());
        let send = async |key: u8, digest: u8| {
            let (reply, outcome) = Reply::by(&mailbox);
            let entry = Entry::Callback(callback(key, digest));
            shared.queue.push(Job { entry, reply, permit: admission.admit(2).unwrap() });
            outcome.await.ok()
        };
        assert!(matches!(send(1, 1).await, Some(Outcome::Accepted { .. })));
        assert_eq!(send(1, 2).await, None, "the policy is asked about changed data");
        assert!(matches!(send(2, 1).await, Some(Outcome::Accepted { .. })));
        shared.queue.close();
        writing.await.unwrap();
    }

    fn books() -> Books {
        Books { instance: "test".into(), writer: 0 }
    }
}
