//! What waits for the next commit.
//!
//! A statement costs the same before its first row, and each commit waits for the disk. So while several requests are in
//! flight, a batch that is small waits until the one before it is a moment old, and takes with it what arrives meanwhile.
//! A request that is alone, as most are, never waits.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Entry;
use super::mailbox::Reply;
use crate::http::admission::Permit;

/// Most entries of one batch.
const BATCH_ENTRIES_MAX: usize = 512;
/// Bytes at which a batch is full; one entry may exceed it.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Entries that are worth a batch at once.
const BATCH_WORTH: usize = 32;
/// How far the beginnings of smaller batches are apart.
const BATCH_EVERY: Duration = Duration::from_millis(2);

/// An entry with everything it needs to be answered.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) entry: Entry,
    pub(crate) reply: Reply,
    /// Lives as long as the entry is worked on, whether or not its request still waits: this bounds the queue.
    pub(crate) permit: Permit,
}

/// The queue in front of the writers. Bounded by the permits that its jobs carry.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    closed: bool,
    /// The beginning of the last batch.
    taken_at: Option<Instant>,
}

impl Queue {
    /// Puts a job in. Once the queue is closed it is dropped, and whoever waits for its answer hears of it.
    pub(crate) fn push(&self, job: Job) {
        {
            let mut state = self.lock();
            if state.closed {
                return;
            }
            state.waiting.push_back(job);
            // Behind the first, a writer that is free waits until the batch is ripe: waking it before costs a system call.
            if state.waiting.len() > 1 && !state.is_worth_it() {
                return;
            }
        }
        self.arrived.notify_one();
    }

    /// Waits for the next batch: everything that waits, up to the limits. `None` once the queue is closed and empty.
    pub(crate) async fn take(&self) -> Option<Vec<Job>> {
        loop {
            let ripe_at = {
                let mut state = self.lock();
                let ripe_at = state.ripe_at();
                if ripe_at.is_none() {
                    let batch = state.take_batch();
                    // Wake another writer for what is left, or for the news that nothing will come any more.
                    if !state.waiting.is_empty() || state.closed {
                        self.arrived.notify_one();
                    }
                    if !batch.is_empty() {
                        return Some(batch);
                    }
                    if state.closed {
                        return None;
                    }
                }
                ripe_at
            };
            match ripe_at {
                Some(at) => drop(timeout_at(at, self.arrived.notified()).await),
                None => self.arrived.notified().await,
            }
        }
    }

    /// Takes no more jobs; what waits is still worked off.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole at every point where a panic could happen.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When what waits makes a batch; `None`: now, or nothing waits.
    fn ripe_at(&self) -> Option<Instant> {
        let at = self.taken_at? + BATCH_EVERY;
        let waits = !self.waiting.is_empty() && !self.closed && !self.is_worth_it();
        (waits && at > Instant::now()).then_some(at)
    }

    /// Whether there is nothing to wait for: enough has come, or everything that is in flight.
    fn is_worth_it(&self) -> bool {
        let all = self.waiting.front().map_or(0, |first| first.permit.requests_in_flight());
        self.waiting.len() >= BATCH_WORTH || self.waiting.len() == all
    }

    fn take_batch(&mut self) -> Vec<Job> {
        let mut bytes = 0;
        let fits = self.waiting.iter().take(BATCH_ENTRIES_MAX).take_while(|job| {
            let before = bytes;
            bytes += job.entry.bytes();
            before == 0 || bytes <= BATCH_BYTES_MAX
        });
        let count = fits.count();
        if count > 0 {
            self.taken_at = Some(Instant::now());
        }
        self.waiting.drain(..count).collect()
    }
}
