//! A segment: a file of records, named by its number. Finds sound records around damage.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

use super::record::{self, FRAME_BYTES, MARKER};
use crate::commit::Entry;

const EXTENSION: &str = "segment";

/// A segment that nothing is appended to any more.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

/// What a segment holds.
pub(super) struct Contents {
    pub(super) entries: Vec<Entry>,
    /// Some of it could not be read.
    pub(super) damaged: bool,
}

/// Where the sound records of a segment are.
struct Scan<'a> {
    payloads: Vec<&'a [u8]>,
    /// Bytes up to the end of the last sound record.
    sound_bytes: usize,
    /// Bytes between sound records that are none.
    damaged_bytes: usize,
}

/// The path of segment `number`.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.{EXTENSION}"))
}

/// Every segment in `dir`, oldest first. Cuts off what follows the last sound record of each: it was never answered.
pub(super) fn open_all(dir: &Path) -> Result<VecDeque<Sealed>> {
    let mut segments = VecDeque::new();
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        let number = path.file_stem().and_then(OsStr::to_str).and_then(|stem| stem.parse().ok());
        if let (Some(number), true) = (number, path.extension() == Some(OsStr::new(EXTENSION))) {
            segments.push_back(open(path, number)?);
        }
    }
    segments.make_contiguous().sort_by_key(|segment| segment.number);
    Ok(segments)
}

/// A number that no segment in `dir` has, kept aside or not.
pub(super) fn next_number(dir: &Path) -> Result<u64> {
    let mut next = 0;
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        let number = path.file_stem().and_then(OsStr::to_str).and_then(|stem| stem.parse::<u64>().ok());
        next = next.max(number.map_or(0, |number| number.saturating_add(1)));
    }
    Ok(next)
}

fn open(path: PathBuf, number: u64) -> Result<Sealed> {
    let bytes = std::fs::read(&path)?;
    let scan = scan(&bytes);
    let torn = bytes.len() - scan.sound_bytes;
    if torn > 0 {
        tracing::warn!(segment = number, bytes = torn, "cut off a torn record at the end of the spool");
        let file = File::options().write(true).open(&path)?;
        file.set_len(scan.sound_bytes as u64)?;
        file.sync_all()?;
    }
    Ok(Sealed { number, path, bytes: scan.sound_bytes as u64, entries: scan.payloads.len() as u64 })
}

/// Reads a whole segment; damage between records is logged and passed over.
pub(super) fn read(path: &Path) -> Result<Contents> {
    let bytes = std::fs::read(path)?;
    let scan = scan(&bytes);
    let entries: Vec<Entry> = scan.payloads.iter().filter_map(|payload| record::decode(payload)).collect();
    let unreadable = scan.payloads.len() - entries.len();
    let damaged = scan.damaged_bytes > 0 || unreadable > 0;
    if damaged {
        tracing::error!(
            segment = %path.display(), bytes = scan.damaged_bytes, records = unreadable,
            "the spool is damaged; the segment is kept aside after the rest of it is drained"
        );
    }
    Ok(Contents { entries, damaged })
}

/// Deletes a segment, or keeps a damaged one under another name.
pub(super) fn remove(path: &Path, damaged: bool) -> Result<()> {
    if damaged {
        std::fs::rename(path, path.with_extension("damaged"))?;
    } else {
        std::fs::remove_file(path)?;
    }
    sync_dir(path.parent().ok_or_else(|| Error::from(ErrorKind::NotFound))?)
}

/// Makes the names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)?.sync_all()
}

fn scan(bytes: &[u8]) -> Scan<'_> {
    let mut scan = Scan { payloads: Vec::new(), sound_bytes: 0, damaged_bytes: 0 };
    let mut at = 0;
    while at < bytes.len() {
        if let Some(payload) = record::payload(&bytes[at..]) {
            scan.damaged_bytes += at - scan.sound_bytes;
            at += FRAME_BYTES + payload.len();
            scan.sound_bytes = at;
            scan.payloads.push(payload);
        } else {
            match find_marker(&bytes[at + 1..]) {
                Some(distance) => at += 1 + distance,
                None => break,
            }
        }
    }
    scan
}

fn find_marker(bytes: &[u8]) -> Option<usize> {
    let marker = MARKER.to_le_bytes();
    bytes.windows(marker.len()).position(|window| window == marker)
}
