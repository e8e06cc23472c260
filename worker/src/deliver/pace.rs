//! A destination's rate: reserved in small blocks from the database, so that it holds over all workers.

use std::time::Duration;

use common::config::Rate;
use common::db::{Database, DbError, rate_limits};
use tokio::time::Instant;

/// Most requests reserved at once; what a worker reserves and does not use is lost to all.
const BLOCK_MAX: u32 = 16;
/// What was reserved is used within this time, or not at all: the burst must not grow by what lies around.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// The rate of one destination.
pub(super) struct Pace {
    scope: String,
    rate: Rate,
    database: Database,
}

/// Requests that may go.
#[derive(Debug)]
pub(super) struct Tokens {
    left: u32,
    reserved_at: Instant,
}

impl Tokens {
    pub(super) fn none() -> Self {
        Self { left: 0, reserved_at: Instant::now() }
    }

    /// How many there still are.
    fn fresh(&self) -> u32 {
        if self.reserved_at.elapsed() < GOOD_FOR { self.left } else { 0 }
    }

    /// Uses `n`.
    pub(super) fn spend(&mut self, n: usize) {
        self.left = self.left.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
    }
}

impl Pace {
    pub(super) fn new(scope: String, rate: Rate, database: Database) -> Self {
        Self { scope, rate, database }
    }

    /// How many of `want` requests may go now, reserving where none are in hand; `Err`: how long until the first.
    ///
    /// # Errors
    /// [`DbError`] when the database cannot be asked: nothing may go then.
    pub(super) async fn allow(&self, tokens: &mut Tokens, want: usize) -> Result<Result<usize, Duration>, DbError> {
        if tokens.fresh() == 0 {
            let block = u32::try_from(want).unwrap_or(u32::MAX).clamp(1, BLOCK_MAX);
            let reserved = rate_limits::reserve(&self.database, &self.scope, self.rate, block).await?;
            if reserved.granted == 0 {
                return Ok(Err(reserved.wait));
            }
            *tokens = Tokens { left: reserved.granted, reserved_at: Instant::now() };
        }
        Ok(Ok(want.min(usize::try_from(tokens.left).unwrap_or(usize::MAX))))
    }
}
