//! The local spool: where callbacks wait while Postgres is away.
//!
//! Append-only segments of checksummed records ([`record`], [`segment`]); every append is fsynced before it is
//! answered, and requests that wait together share the fsync ([`appender`]). Bounded in bytes; one process holds the
//! folder's lock. An unfinished record at the end is cut off when the spool is opened, a damaged one there is kept in a
//! file of its own; a damaged record in the middle is passed over, and its segment is kept aside. Entries keep the id and the time of receipt that their senders were answered with.
//! [`drain`] commits what is here once Postgres is back, in order, and may be killed at any point: what was committed
//! already is found by its id.

mod appender;
pub(crate) mod drain;
mod record;
mod segment;
pub(crate) mod word;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::telemetry::metrics::SPOOL_ENTRIES;
use rustix::fs::FlockOperation;
use tokio::sync::{Notify, mpsc, oneshot};
use uuid::Uuid;

use crate::commit::Entry;
use appender::{Appender, Command};
use segment::Sealed;

/// Commands that wait for the appender's thread; each is a writer's batch.
const COMMANDS_MAX: usize = 64;

/// Why the spool cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process uses the folder.
    #[error("the spool folder {0} is in use by another process; every process needs its own (spool.dir)")]
    Locked(PathBuf),
    /// The folder or a file in it cannot be used.
    #[error("the spool folder {path} cannot be used")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The spool of this process.
pub(crate) struct Spool {
    commands: mpsc::Sender<Command>,
    state: Arc<State>,
    /// How long an append may take.
    patience: Duration,
    instance: Arc<str>,
    /// Held until the process ends.
    _lock: File,
}

/// What appender, drain and readiness share.
struct State {
    dir: PathBuf,
    bytes_max: u64,
    bytes: AtomicU64,
    entries: AtomicU64,
    /// The last append failed for another reason than space.
    failing: AtomicBool,
    /// The last append found no space; cleared when space is given back.
    full: AtomicBool,
    /// The disk has not answered in time; cleared when the appender has.
    stalled: AtomicBool,
    /// Segments that nothing is appended to any more, oldest first.
    sealed: Mutex<VecDeque<Sealed>>,
    /// Rings when there is something to drain.
    filled: Notify,
}

impl Spool {
    /// Opens the spool in `dir`, with what an earlier process left in it. An append takes at most `patience`.
    ///
    /// # Errors
    /// [`SpoolError`]; nothing is changed then.
    pub(crate) fn open(dir: &Path, bytes_max: u64, patience: Duration) -> Result<Self, SpoolError> {
        let io = |source| SpoolError::Io { path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let lock = lock(dir)?;
        let instance = instance(dir).map_err(io)?;
        let segments = segment::open_all(dir).map_err(io)?;
        let next = segment::next_number(dir).map_err(io)?;
        let state = Arc::new(State {
            dir: dir.to_owned(),
            bytes_max,
            bytes: AtomicU64::new(segments.iter().map(|segment| segment.bytes).sum()),
            entries: AtomicU64::new(segments.iter().map(|segment| segment.entries).sum()),
            failing: AtomicBool::new(false),
            full: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            sealed: Mutex::new(segments),
            filled: Notify::new(),
        });
        state.entries_changed();
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let appender = Appender::new(Arc::clone(&state), next);
        std::thread::Builder::new().name("spool".to_owned()).spawn(move || appender.run(inbox)).map_err(io)?;
        Ok(Self { commands, state, patience, instance, _lock: lock })
    }

    /// Makes `entries` durable, in order, and answers how many of them are (the first so many). Where the disk hangs,
    /// that is none: what it may still write is drained all the same, as something that was not answered. Until it
    /// answers again, later calls do not wait for it.
    ///
    /// # Cancel safety
    /// A cancelled call may or may not have written them.
    pub(crate) async fn append(&self, entries: &[Entry]) -> usize {
        if self.state.stalled.load(Ordering::Relaxed) {
            return 0;
        }
        let records = entries.iter().map(record::encode).collect();
        let (reply, durable) = oneshot::channel();
        let appending = async {
            self.commands.send(Command::Append { records, reply }).await.ok()?;
            durable.await.ok()
        };
        match tokio::time::timeout(self.patience, appending).await {
            Ok(durable) => durable.unwrap_or(0),
            Err(_elapsed) => {
                if !self.state.stalled.swap(true, Ordering::Relaxed) {
                    tracing::error!(limit = ?self.patience, "the spool's disk hangs; senders are asked to come again");
                }
                0
            }
        }
    }

    /// Who this process is in the books: kept beside the spool, so that it survives restarts.
    pub(crate) fn instance(&self) -> Arc<str> {
        Arc::clone(&self.instance)
    }

    /// Entries that are not in Postgres yet.
    pub(crate) fn entries(&self) -> u64 {
        self.state.entries.load(Ordering::Relaxed)
    }

    /// Whether the next append is likely to succeed.
    pub(crate) fn is_usable(&self) -> bool {
        let State { failing, full, stalled, .. } = &*self.state;
        ![failing, full, stalled].iter().any(|trouble| trouble.load(Ordering::Relaxed))
    }

    /// Tries the disk, where the last append failed or had no answer.
    pub(crate) async fn probe(&self) {
        if self.state.failing.load(Ordering::Relaxed) || self.state.stalled.load(Ordering::Relaxed) {
            let (reply, tried) = oneshot::channel();
            if self.commands.send(Command::Probe { reply }).await.is_ok() {
                let _closed = tried.await;
            }
        }
    }

    /// Waits until something may be there to drain.
    async fn wait_until_filled(&self) {
        while self.entries() == 0 {
            self.state.filled.notified().await;
        }
    }

    /// The oldest segment that nothing is appended to any more. Ends the current one if there is no other.
    async fn oldest(&self) -> Option<Sealed> {
        if let Some(oldest) = self.state.sealed().front() {
            return Some(oldest.clone());
        }
        let (reply, sealed) = oneshot::channel();
        self.commands.send(Command::Seal { reply }).await.ok()?;
        sealed.await.ok()?;
        self.state.sealed().front().cloned()
    }

    /// Notes that `count` entries are in Postgres.
    fn drained(&self, count: u64) {
        let left = |entries: u64| Some(entries.saturating_sub(count));
        let _before = self.state.entries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        self.state.entries_changed();
    }

    /// Removes a segment whose entries are all in Postgres; a damaged one is kept aside. Its space is given back only
    /// when the file is gone.
    async fn remove(&self, segment: Sealed, damaged: bool) {
        let bytes = segment.bytes;
        self.state.sealed().pop_front();
        let removed = tokio::task::spawn_blocking(move || segment::remove(&segment.path, damaged)).await;
        if let Err(error) = removed.map_err(std::io::Error::other).flatten() {
            // Its bytes still take their space.
            tracing::error!(%error, "a drained segment of the spool cannot be removed; the next start drains it again");
            return;
        }
        self.state.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.state.full.store(false, Ordering::Relaxed);
    }
}

impl State {
    fn sealed(&self) -> MutexGuard<'_, VecDeque<Sealed>> {
        // The list is whole at every point where a panic could happen.
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk has answered.
    fn recovered(&self) {
        if self.stalled.swap(false, Ordering::Relaxed) {
            tracing::info!("the spool's disk answers again");
        }
    }

    fn entries_changed(&self) {
        let entries = self.entries.load(Ordering::Relaxed);
        // Exact below 2^53.
        metrics::gauge!(SPOOL_ENTRIES).set(entries as f64);
        if entries > 0 {
            self.filled.notify_one();
        }
    }
}

fn lock(dir: &Path) -> Result<File, SpoolError> {
    let io = |source| SpoolError::Io { path: dir.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).open(dir.join("lock")).map_err(io)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SpoolError::Locked(dir.to_owned())),
        Err(error) => Err(io(error.into())),
    }
}

/// Reads the folder's id, or makes it.
fn instance(dir: &Path) -> std::io::Result<Arc<str>> {
    let path = dir.join("instance");
    let mut text = String::new();
    if let Ok(mut file) = File::open(&path) {
        file.read_to_string(&mut text)?;
    }
    if let Ok(id) = Uuid::parse_str(text.trim()) {
        return Ok(id.to_string().into());
    }
    let id = Uuid::now_v7().to_string();
    let mut file = File::create(&path)?;
    file.write_all(id.as_bytes())?;
    file.sync_all()?;
    Ok(id.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const BYTES_MAX: u64 = 1 << 20;

    #[tokio::test]
    async fn space_is_given_back_only_when_the_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), BYTES_MAX, Duration::from_secs(5)).unwrap();
        spool.state.bytes.store(100, Ordering::Relaxed);
        let path = segment::path(dir.path(), 7);
        let segment = Sealed { number: 7, path: path.clone(), bytes: 40, entries: 0 };
        spool.remove(segment.clone(), false).await;
        assert_eq!(spool.state.bytes.load(Ordering::Relaxed), 100, "there was no such file");
        std::fs::write(&path, [0; 40]).unwrap();
        spool.remove(segment, false).await;
        assert_eq!(spool.state.bytes.load(Ordering::Relaxed), 60);
    }
    #[tokio::test]
    async fn a_disk_that_hangs_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let opened = Spool::open(dir.path(), BYTES_MAX, Duration::from_millis(20)).unwrap();
        // An appender that never answers.
        let (silent, mut inbox) = mpsc::channel(COMMANDS_MAX);
        let mut spool = opened;
        let appender = std::mem::replace(&mut spool.commands, silent);
        for _ in 0..3 {
            assert_eq!(spool.append(&[]).await, 0);
        }
        assert!(!spool.is_usable());
        assert!(inbox.try_recv().is_ok() && inbox.try_recv().is_err(), "only the first one waits");
        // One that does.
        spool.commands = appender;
        spool.probe().await;
        assert!(spool.is_usable());
    }
}
