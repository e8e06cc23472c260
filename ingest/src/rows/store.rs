//! Commits groups of rows: a connection per request, kept for the next request when it is still good.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::config::Destination;
use common::db::row_intake::{RowIntake, Step, TakeError, Taken};
use common::db::rows::NewRow;
use common::db::{ConnectSettings, DbError};
use uuid::Uuid;

use crate::commit::session::within;

/// Connections that no request uses now. As many as there were requests at once, which are bounded.
#[derive(Debug)]
pub(super) struct IdleConnections {
    settings: ConnectSettings,
    limit: Duration,
    idle: Mutex<Vec<RowIntake>>,
}

/// The batch of one request. What fails on its connection drops it.
pub(super) struct Store<'a> {
    connections: &'a IdleConnections,
    connection: Option<RowIntake>,
    destination: &'a Destination,
    batch: Option<Uuid>,
    next_line: u64,
}

impl IdleConnections {
    /// Each statement gets at most `limit`.
    pub(super) fn new(settings: ConnectSettings, limit: Duration) -> Self {
        Self { settings, limit, idle: Mutex::default() }
    }

    /// Opens a batch for `destination`, on an idle connection or, where that one has gone stale, on a fresh one.
    async fn open(&self, destination: &str) -> Result<(RowIntake, Uuid), DbError> {
        let idle = self.lock().pop();
        if let Some(mut connection) = idle {
            match within(self.limit, connection.open_batch(destination, NAME, None)).await {
                Ok(batch) => return Ok((connection, batch.id)),
                Err(error) => {
                    tracing::debug!(error = %error, "an idle connection has gone stale");
                    self.lock().clear();
                }
            }
        }
        let mut connection = within(self.limit, RowIntake::open(&self.settings)).await?;
        let batch = within(self.limit, connection.open_batch(destination, NAME, None)).await?;
        Ok((connection, batch.id))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RowIntake>> {
        // The list is whole at every point where a panic could happen.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a batch of a request is called.
const NAME: &str = "http";

impl<'a> Store<'a> {
    pub(super) fn new(connections: &'a IdleConnections, destination: &'a Destination) -> Self {
        Self { connections, connection: None, destination, batch: None, next_line: 0 }
    }

    /// The batch, once something was stored.
    pub(super) fn batch(&self) -> Option<Uuid> {
        self.batch
    }

    /// Commits `rows`. `next_line` is the first line that is not read yet.
    pub(super) async fn take(
        &mut self,
        rows: &[NewRow],
        refused: u64,
        next_line: u64,
        ends: bool,
    ) -> Result<Vec<Taken>, TakeError> {
        let (mut connection, batch) = match (self.connection.take(), self.batch) {
            (Some(connection), Some(batch)) => (connection, batch),
            _ => self.connections.open(&self.destination.name).await?,
        };
        self.batch = Some(batch);
        let step = Step { from_line: self.next_line, next_line, refused, ends };
        let taking = connection.take(self.destination, batch, &step, rows);
        let taken = match tokio::time::timeout(self.connections.limit, taking).await {
            Ok(taken) => taken?,
            Err(_elapsed) => return Err(DbError::timed_out(self.connections.limit).into()),
        };
        self.next_line = next_line;
        self.connection = Some(connection);
        Ok(taken)
    }
}

impl Drop for Store<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.connections.lock().push(connection);
        }
    }
}
