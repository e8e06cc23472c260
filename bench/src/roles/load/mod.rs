//! The load: callbacks over keep-alive connections, either as fast as the answers come (closed loop) or at intended
//! moments that answers do not move (open loop, latency counted from the intended moment).
//!
//! Warm-up and measurement are one load on the same connections: after the warm-up it says how far it is and waits for
//! `go`, so that a backlog can be worked off in between. Each further `go` is a further piece of the measurement.

mod callbacks;
mod connection;
mod pace;
mod tally;

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use callbacks::{NUMBER_DIGITS, NUMBER_MARK, SENT_DIGITS, SENT_MARK};
pub(crate) use connection::Connection;
pub use tally::Tally;

use super::wire;
use crate::measure::Quantiles;

/// How a callback is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// The secret itself.
    Token,
    /// An HMAC of the body.
    Hmac,
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Pace {
    /// Each connection sends as soon as it has the answer.
    Closed {
        /// Connections.
        connections: usize,
    },
    /// At this rate, whatever the answers do. What finds no free connection waits, and its latency runs.
    Open {
        /// Requests per second.
        per_second: f64,
        /// So many times as many in the middle third of the load.
        burst: f64,
        /// Connections.
        connections: usize,
    },
}

/// What to send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Where to; connections take turns.
    pub addresses: Vec<SocketAddr>,
    /// The source's path.
    pub path: String,
    /// The source's secret.
    pub secret: String,
    /// How it is used.
    pub proof: Proof,
    /// Length of a body, about.
    pub body_bytes: usize,
    /// Every second request repeats an earlier one.
    pub half_repeats: bool,
    /// Bodies carry the moment that they were to be sent at, for latencies up to the destination.
    pub stamped: bool,
    /// When.
    pub pace: Pace,
    /// How long before the measurement.
    pub warm_up_ms: u64,
    /// How long each piece of the measurement is.
    pub piece_ms: u64,
}

/// Said after the warm-up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Warm {
    /// Different callbacks so far: their numbers are those below.
    pub callbacks: u64,
}

/// Said after each piece of the measurement, about all of them so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Different callbacks, warm-up included: their numbers are those below.
    pub callbacks: u64,
    /// Different callbacks that were sent first in the measured time.
    pub fresh: u64,
    /// Answers in the measured time.
    pub answers: u64,
    /// From the first request of the measured time to its last answer, in seconds; of several pieces their sum.
    pub seconds: f64,
    /// What went wrong, by status or error. Empty: every request was answered as taken or as a repeat.
    pub failures: std::collections::BTreeMap<String, u64>,
    /// From the request (closed loop) or its intended moment (open loop) to the answer, in milliseconds.
    pub latency: Quantiles,
}

/// Runs it; the caller ends the process.
///
/// # Errors
/// When no connection can be opened, or the parent is gone.
pub(super) async fn run(plan: Plan) -> anyhow::Result<()> {
    let mut load = pace::Load::open(plan.clone()).await?;
    load.run_for(Duration::from_millis(plan.warm_up_ms)).await?;
    wire::say(&Warm { callbacks: load.callbacks() })?;
    let callbacks_before = load.callbacks();
    let mut all = Tally::default();
    // What it has used can be read as long as it is there.
    while wire::hear_go_or_end().await? {
        all.add(&load.run_for(Duration::from_millis(plan.piece_ms)).await?);
        wire::say(&Report {
            callbacks: load.callbacks(),
            fresh: load.callbacks() - callbacks_before,
            answers: all.answers(),
            seconds: all.seconds(),
            failures: all.failures().clone(),
            latency: all.latency(),
        })?;
    }
    Ok(())
}
