//! A rate: turns are reserved from the database in small blocks, so that it holds over all workers and restarts.
//!
//! A turn is a moment, and a request goes when its turn has come. Turns are reserved no further ahead than [`AHEAD`]: no
//! slot and no message waits longer, and a crash loses no more. A request that misses its turn by [`LATE_MAX`] takes a new
//! one, so that requests which were held up do not go in a bunch.

use std::time::Duration;

use common::config::Rate;
use common::db::{Database, DbError, rate_limits};
use tokio::time::Instant;

/// How far ahead turns are reserved.
const AHEAD: Duration = Duration::from_secs(1);
/// How late a request may go after its turn. What may come closer together because of it is a rate's worth of this time.
const LATE_MAX: Duration = Duration::from_millis(100);
/// Most turns reserved at once.
const BLOCK_MAX: usize = 64;

/// The rate of a scope: of one destination, or of a workspace of Clay.
pub(super) struct Pace {
    scope: String,
    rate: Rate,
    database: Database,
}

impl Pace {
    pub(super) fn new(scope: String, rate: Rate, database: Database) -> Self {
        Self { scope, rate, database }
    }

    /// Reserves 1 to `want` turns, in order; `Err`: how long until there may be one.
    ///
    /// # Errors
    /// [`DbError`] when the database cannot be asked: nothing may go then.
    pub(super) async fn reserve(&self, want: usize) -> Result<Result<Vec<Instant>, Duration>, DbError> {
        let want = u32::try_from(want.clamp(1, BLOCK_MAX)).unwrap_or(1);
        let reserved = rate_limits::reserve(&self.database, &self.scope, self.rate, want, AHEAD).await?;
        if reserved.turns.is_empty() {
            return Ok(Err(reserved.wait));
        }
        // After the answer, so that no turn comes earlier here than in the table.
        let now = Instant::now();
        Ok(Ok(reserved.turns.into_iter().map(|turn| now + turn).collect()))
    }

    /// Waits for `turn`, or for another one where there is none or it is missed; `Err`: how long until there may be one.
    ///
    /// # Errors
    /// As [`Pace::reserve`].
    pub(super) async fn wait(&self, turn: Option<Instant>) -> Result<Result<(), Duration>, DbError> {
        let mut next = turn;
        loop {
            if let Some(turn) = next {
                tokio::time::sleep_until(turn).await;
                if !is_missed(turn, Instant::now()) {
                    return Ok(Ok(()));
                }
            }
            next = match self.reserve(1).await? {
                Ok(turns) => turns.first().copied(),
                Err(wait) => return Ok(Err(wait)),
            };
        }
    }

    /// Lets nobody of the scope send before `wait` is over.
    ///
    /// # Errors
    /// [`DbError`]; the others go on, and are told by themselves.
    pub(super) async fn throttle(&self, wait: Duration) -> Result<(), DbError> {
        rate_limits::throttle(&self.database, &self.scope, wait).await
    }
}

/// Whether a request that goes at `now` would be too late for `turn`.
pub(super) fn is_missed(turn: Instant, now: Instant) -> bool {
    now.saturating_duration_since(turn) > LATE_MAX
}
