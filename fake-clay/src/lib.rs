//! A Clay workspace that runs in this process, with both of its edges: webhooks that take rows within Clay's limits, and
//! an HTTP API column that calls back for each row.
//!
//! It behaves as Clay does where Clay is documented, the inconvenient parts first: what is above the workspace's rate is
//! dropped, an array is one row, the count of a webhook never goes down, nothing is recognised when it comes again. It
//! keeps its own books ([`Counts`]), so that whoever sends to it can be compared with what arrived.
//!
//! For tests, measurements and `claygate demo --loop`. It knows nothing of claygate: no crate of this repository is used
//! here, and nothing of it runs unless somebody starts it.

mod call;
mod column;
mod counts;
mod enrich;
mod fault;
mod limit;
mod rows;
mod table;
mod webhook;
mod workspace;

pub use column::{CallTo, Column, Retries, Shares};
pub use counts::{CallCounts, Counts};
pub use fault::Fault;
pub use limit::Limit;
pub use rows::{Keep, Row};
pub use table::{Table, TableSettings};
pub use workspace::{FakeClay, Settings};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whole at every point where a panic could happen.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
