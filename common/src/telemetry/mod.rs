//! Logs, metrics and readiness: how a process says what it is doing. Never people's data, never a secret.

pub mod logs;
pub mod metrics;
mod readiness;

pub use readiness::{Probe, Verdict};
