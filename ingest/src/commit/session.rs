//! One connection with a time limit on every statement. Collisions (SQLSTATE 40) are tried again here; every other
//! failure is the caller's.

use std::future::Future;
use std::time::Duration;

use common::db::callback_aliases::{self, Alias};
use common::db::intake::{Books, Candidate, Counted, Found, Incoming, IntakeConnection, Stored};
use common::db::quarantine::{self, Unusable};
use common::db::{ConnectSettings, DbError};
use common::ids::CallbackId;
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

const TRIES_MAX: u32 = 6;
const COLLISION_PAUSE: Duration = Duration::from_millis(2);
/// How long a repeat makes others likely: a table of Clay that is run again repeats for as long as it runs.
const REPEATS_EXPECTED_FOR: Duration = Duration::from_secs(10);

/// Repeats a statement while it collides with others.
macro_rules! without_collisions {
    ($limit:expr, $statement:expr) => {{
        let mut tries = 1;
        loop {
            match within($limit, $statement).await {
                Err(DbError::Collision(_)) if tries < TRIES_MAX => {
                    tokio::time::sleep(COLLISION_PAUSE * tries).await;
                    tries += 1;
                }
                done => break done,
            }
        }
    }};
}

/// A writer's connection. After [`DbError::Unavailable`] drop it: a statement may still be running on it.
#[derive(Debug)]
pub(crate) struct Session {
    connection: IntakeConnection,
    limit: Duration,
    books: Books,
    /// Until when repeats are expected.
    repeats_until: Option<Instant>,
}

impl Session {
    /// Connects within `limit`, which is also every statement's.
    pub(crate) async fn open(settings: &ConnectSettings, limit: Duration, books: Books) -> Result<Self, DbError> {
        let connection = within(limit, IntakeConnection::open(settings)).await?;
        Ok(Self { connection, limit, books, repeats_until: None })
    }

    pub(crate) async fn store(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<Stored>, DbError> {
        without_collisions!(self.limit, self.connection.store(&self.books, candidates))
    }

    /// Writes `candidates`, which have no time of receipt yet, if none of their keys is taken, and answers their receipt.
    /// `None`: nothing was written, as one is taken or a row is refused, or not even tried, since repeats are expected.
    pub(crate) async fn store_first(
        &mut self,
        candidates: &[Candidate<'_>],
    ) -> Result<Option<OffsetDateTime>, DbError> {
        if self.repeats_until.is_some_and(|until| Instant::now() < until) {
            return Ok(None);
        }
        match without_collisions!(self.limit, self.connection.store_first(&self.books, candidates)) {
            Ok(received_at) => Ok(Some(received_at)),
            Err(DbError::Refused { .. }) => {
                self.expect_repeats();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Says that a key was taken: for a while each batch is written by the statement that looks before it writes.
    pub(crate) fn expect_repeats(&mut self) {
        self.repeats_until = Some(Instant::now() + REPEATS_EXPECTED_FOR);
    }

    pub(crate) async fn look_up(&mut self, callbacks: &[&Incoming]) -> Result<Vec<Found>, DbError> {
        without_collisions!(self.limit, self.connection.look_up(callbacks))
    }

    pub(crate) async fn count(&mut self, counted: &[(&str, Counted, Option<OffsetDateTime>)]) -> Result<(), DbError> {
        without_collisions!(self.limit, self.connection.count(&self.books, counted))
    }

    pub(crate) async fn quarantine(
        &mut self,
        unusable: &[&Unusable],
    ) -> Result<Vec<(CallbackId, OffsetDateTime)>, DbError> {
        without_collisions!(self.limit, quarantine::put(&mut self.connection, &self.books, unusable))
    }

    pub(crate) async fn add_aliases(&mut self, aliases: &[Alias<'_>]) -> Result<(), DbError> {
        without_collisions!(self.limit, callback_aliases::add(&mut self.connection, &self.books, aliases))
    }

    pub(crate) async fn present(&mut self, ids: &[Uuid]) -> Result<Vec<Uuid>, DbError> {
        without_collisions!(self.limit, self.connection.present(ids))
    }

    pub(crate) async fn ensure_partition(&mut self, moment: OffsetDateTime) -> Result<(), DbError> {
        without_collisions!(self.limit, self.connection.ensure_partition(moment))
    }

    pub(crate) async fn pull_mark_back(&mut self, received_at: OffsetDateTime) -> Result<(), DbError> {
        without_collisions!(self.limit, self.connection.pull_mark_back(received_at))
    }

    /// Says goodbye to the server.
    pub(crate) async fn close(self) {
        let _gone_anyway = tokio::time::timeout(self.limit, self.connection.close()).await;
    }
}

/// Gives `statement` at most `limit`; too slow counts as unavailable.
pub(crate) async fn within<T>(
    limit: Duration,
    statement: impl Future<Output = Result<T, DbError>>,
) -> Result<T, DbError> {
    match tokio::time::timeout(limit, statement).await {
        Ok(done) => done,
        Err(_elapsed) => Err(DbError::timed_out(limit)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use testkit::postgres::TestDatabase;

    use super::*;
    use crate::commit::fixtures::callback;

    async fn store_first(session: &mut Session, keys: &[u8]) -> bool {
        let batch: Vec<Incoming> = keys.iter().map(|key| callback(*key, 0)).collect();
        let candidates: Vec<Candidate<'_>> =
            batch.iter().map(|incoming| Candidate { incoming, revision: 0, skip: None }).collect();
        session.store_first(&candidates).await.unwrap().is_some()
    }

    #[tokio::test]
    async fn after_a_repeat_nothing_is_tried_without_a_look_for_a_while() {
        let test = TestDatabase::create().await;
        let books = Books { instance: "test".into(), writer: 0 };
        let mut session = Session::open(&test.settings(), Duration::from_secs(10), books).await.unwrap();
        assert!(store_first(&mut session, &[1, 2]).await);
        assert!(store_first(&mut session, &[3]).await);
        assert!(!store_first(&mut session, &[2, 4]).await, "one is taken");
        assert!(!store_first(&mut session, &[5]).await, "repeats are expected");
        session.repeats_until = Some(Instant::now());
        assert!(store_first(&mut session, &[5]).await, "they are not any more");
    }
}
