//! The thread that writes the spool. Whoever waits together shares one fsync.

use std::fs::File;
use std::io::{Result, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};

use super::State;
use super::segment::{self, Sealed};

/// Bytes at which a segment ends; one record may exceed it.
const SEGMENT_BYTES_MAX: u64 = 4 << 20;

/// What the thread is asked to do.
pub(super) enum Command {
    /// Makes records durable; answers how many of them are.
    Append { records: Vec<Vec<u8>>, reply: oneshot::Sender<usize> },
    /// Ends the current segment.
    Seal { reply: oneshot::Sender<()> },
    /// Tries whether the disk works again.
    Probe { reply: oneshot::Sender<()> },
}

pub(super) struct Appender {
    state: Arc<State>,
    next: u64,
    current: Option<Current>,
}

struct Current {
    file: File,
    sealed: Sealed,
}

impl Appender {
    pub(super) fn new(state: Arc<State>, next: u64) -> Self {
        Self { state, next, current: None }
    }

    /// Works until every handle of the spool is gone.
    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        while let Some(first) = inbox.blocking_recv() {
            let mut appends = Vec::new();
            let mut others = Vec::new();
            let mut command = Some(first);
            while let Some(next) = command {
                match next {
                    Command::Append { records, reply } => appends.push((records, reply)),
                    other => others.push(other),
                }
                command = inbox.try_recv().ok();
            }
            self.append_all(appends);
            self.state.recovered();
            for other in others {
                match other {
                    Command::Append { .. } => {}
                    Command::Seal { reply } => {
                        self.seal();
                        let _gone = reply.send(());
                    }
                    Command::Probe { reply } => {
                        self.probe();
                        let _gone = reply.send(());
                    }
                }
            }
        }
    }

    /// Writes what there is space for, syncs once, answers everyone.
    fn append_all(&mut self, appends: Vec<(Vec<Vec<u8>>, oneshot::Sender<usize>)>) {
        if appends.is_empty() {
            return;
        }
        let mut space = self.state.bytes_max.saturating_sub(self.state.bytes.load(Ordering::Relaxed));
        let mut buffer = Vec::new();
        let mut answers = Vec::with_capacity(appends.len());
        for (records, reply) in appends {
            let mut fitting = 0;
            for record in &records {
                let length = record.len() as u64;
                if length > space {
                    self.note_full();
                    break;
                }
                space -= length;
                fitting += 1;
                buffer.extend_from_slice(record);
            }
            answers.push((reply, fitting));
        }
        let entries = answers.iter().map(|(_, fitting)| *fitting as u64).sum();
        let written = entries == 0 || self.write(&buffer, entries);
        for (reply, fitting) in answers {
            let _gone = reply.send(if written { fitting } else { 0 });
        }
    }

    fn note_full(&self) {
        if !self.state.full.swap(true, Ordering::Relaxed) {
            tracing::error!(bytes_max = self.state.bytes_max, "the spool is full; senders are asked to come again");
        }
    }

    fn write(&mut self, buffer: &[u8], entries: u64) -> bool {
        let written = self.try_write(buffer, entries);
        self.note(written.as_ref().err());
        if written.is_err() {
            // After a failed fsync nobody knows what is on disk: the file is cut back as far as it is known, and ended.
            if let Some(Current { file, sealed }) = &self.current {
                let _best_effort = file.set_len(sealed.bytes);
            }
            self.seal();
            return false;
        }
        self.state.bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.state.entries.fetch_add(entries, Ordering::Relaxed);
        self.state.entries_changed();
        if self.current.as_ref().is_some_and(|current| current.sealed.bytes >= SEGMENT_BYTES_MAX) {
            self.seal();
        }
        true
    }

    fn try_write(&mut self, buffer: &[u8], entries: u64) -> Result<()> {
        let current = match &mut self.current {
            Some(current) => current,
            None => {
                let (file, sealed) = self.create()?;
                self.current.insert(Current { file, sealed })
            }
        };
        current.file.write_all(buffer)?;
        current.file.sync_data()?;
        current.sealed.bytes += buffer.len() as u64;
        current.sealed.entries += entries;
        Ok(())
    }

    fn create(&mut self) -> Result<(File, Sealed)> {
        let number = self.next;
        let path: PathBuf = segment::path(&self.state.dir, number);
        let file = File::options().create_new(true).append(true).open(&path)?;
        self.next += 1;
        segment::sync_dir(&self.state.dir)?;
        Ok((file, Sealed { number, path, bytes: 0, entries: 0 }))
    }

    /// Ends the current segment. One that nothing was written to is removed: a failing disk must not fill its folder.
    fn seal(&mut self) {
        let Some(Current { sealed, .. }) = self.current.take() else { return };
        if sealed.entries > 0 {
            self.state.sealed().push_back(sealed);
        } else if let Err(error) = segment::remove(&sealed.path, false) {
            tracing::debug!(%error, "an empty segment of the spool stays until the next start");
        }
    }

    fn probe(&mut self) {
        let path = self.state.dir.join("probe");
        let tried = File::create(&path).and_then(|mut file| {
            file.write_all(&[0; 4_096])?;
            file.sync_all()
        });
        let removed = std::fs::remove_file(&path);
        self.note(tried.and(removed).as_ref().err());
    }

    fn note(&self, failure: Option<&std::io::Error>) {
        let was_failing = self.state.failing.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(error) if !was_failing => tracing::error!(%error, "the spool cannot be written"),
            None if was_failing => tracing::info!("the spool can be written again"),
            _ => {}
        }
    }
}
