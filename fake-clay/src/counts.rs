//! The fake's own books.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What became of the requests to one table, and of its calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows made: the submissions that count against the cap.
    pub accepted: u64,
    /// Of them, those whose id had come before.
    pub repeated: u64,
    /// Of them, those that carried no id.
    pub without_id: u64,
    /// Of them, arrays that became one row.
    pub arrays: u64,
    /// Rows dropped with 429, because the workspace was above its rate.
    pub dropped: u64,
    /// Requests that were refused, by status; without those that were dropped.
    pub refused: BTreeMap<u16, u64>,
    /// Failures that a test asked for.
    pub faults: u64,
    /// What the column did.
    pub calls: CallCounts,
}

/// What an HTTP API column did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCounts {
    /// Requests by the status of their answer, those of retries among them.
    pub by_status: BTreeMap<u16, u64>,
    /// Requests that got no answer.
    pub unanswered: u64,
    /// Requests that were such a second try.
    pub retries: u64,
    /// Rows that were called for a second time, because the column ran again.
    pub reruns: u64,
    /// Of them, those with changed values.
    pub changed: u64,
    /// Rows whose body was no JSON.
    pub malformed: u64,
    /// Rows that were never called for.
    pub silent: u64,
    /// Rows that were never called for, because too many waited or they name no URL.
    pub not_run: u64,
    /// Calls that wait or are under way.
    pub waiting: u64,
}

impl Counts {
    /// Requests that came in, without those that a test made fail.
    pub fn requests(&self) -> u64 {
        self.accepted + self.dropped + self.refused.values().sum::<u64>()
    }

    /// Calls that were answered with 2xx.
    pub fn called_back(&self) -> u64 {
        self.calls.by_status.range(200..300).map(|(_, n)| n).sum()
    }
}

impl Counts {
    /// Adds what another table counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.repeated += other.repeated;
        self.without_id += other.without_id;
        self.arrays += other.arrays;
        self.dropped += other.dropped;
        self.faults += other.faults;
        add_each(&mut self.refused, &other.refused);
        let (calls, others) = (&mut self.calls, &other.calls);
        add_each(&mut calls.by_status, &others.by_status);
        calls.unanswered += others.unanswered;
        calls.retries += others.retries;
        calls.reruns += others.reruns;
        calls.changed += others.changed;
        calls.malformed += others.malformed;
        calls.silent += others.silent;
        calls.not_run += others.not_run;
        calls.waiting += others.waiting;
    }
}

fn add_each(sum: &mut BTreeMap<u16, u64>, by_status: &BTreeMap<u16, u64>) {
    for (status, n) in by_status {
        *sum.entry(*status).or_default() += n;
    }
}

/// Adds one to a count by status.
pub(crate) fn count(by_status: &mut BTreeMap<u16, u64>, status: u16) {
    *by_status.entry(status).or_default() += 1;
}
