//! What waits for the next commit.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::{Entry, Outcome};
use crate::http::admission::Permit;

/// Most entries of one batch.
const BATCH_ENTRIES_MAX: usize = 512;
/// Bytes at which a batch is full; one entry may exceed it.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// An entry with everything it needs to be answered.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) entry: Entry,
    pub(crate) answer: oneshot::Sender<Outcome>,
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
        }
        self.arrived.notify_one();
    }

    /// Waits for the next batch: everything that waits, up to the limits. `None` once the queue is closed and empty.
    pub(crate) async fn take(&self) -> Option<Vec<Job>> {
        loop {
            {
                let mut state = self.lock();
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
            self.arrived.notified().await;
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
    fn take_batch(&mut self) -> Vec<Job> {
        let mut bytes = 0;
        let fits = self.waiting.iter().take(BATCH_ENTRIES_MAX).take_while(|job| {
            let before = bytes;
            bytes += job.entry.bytes();
            before == 0 || bytes <= BATCH_BYTES_MAX
        });
        let count = fits.count();
        self.waiting.drain(..count).collect()
    }
}
