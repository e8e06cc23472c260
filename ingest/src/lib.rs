//! Takes callbacks in: verify, key, commit, answer. In the order of the data's way:
//!
//! `http` reads a request and proves its sender over the raw bytes, `callback` gives it its key, `commit` shares
//! one Postgres commit among everything that waits, `spool` keeps what Postgres cannot take now. `rows` takes rows for
//! Clay in on the same port. The
//! [`Application`] holds them together; [`service`] is the process around it, [`release`] the way out of quarantine.
//!
//! Guarantee: no 2xx before the callback is durable, in Postgres or in the fsynced spool. This crate never routes,
//! never sends, and holds no SQL.

mod application;
mod callback;
mod commit;
mod http;
mod readiness;
pub mod release;
mod rows;
pub mod service;
mod sources;
mod spool;
pub mod telemetry;

pub use application::{Application, RunError, StartError};
pub use spool::SpoolError;
