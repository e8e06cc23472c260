//! A segment: a file of records, named by its number. Finds sound records around damage.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
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

/// Every segment in `dir`, oldest first. Cuts off what follows the last sound record of each. A record without its end
/// was never answered and is dropped; anything else may be a damaged one that was, and is kept beside its segment.
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
        let tail = &bytes[scan.sound_bytes..];
        if record::is_incomplete(tail) {
            tracing::warn!(segment = number, bytes = torn, "cut off an unfinished record at the end of the spool");
        } else {
            let kept = keep_tail(&path, scan.sound_bytes, tail)?;
            tracing::error!(
                segment = number, bytes = torn, kept = %kept.display(),
                "the spool is damaged: a callback that was answered may be lost; its bytes are kept aside"
            );
        }
        let file = File::options().write(true).open(&path)?;
        file.set_len(scan.sound_bytes as u64)?;
        file.sync_all()?;
    }
    Ok(Sealed { number, path, bytes: scan.sound_bytes as u64, entries: scan.payloads.len() as u64 })
}

/// Writes what is cut off at `offset` of a segment to a file of its own.
fn keep_tail(segment: &Path, offset: usize, tail: &[u8]) -> Result<PathBuf> {
    let path = segment.with_extension(format!("{offset}.cut"));
    let mut file = File::create(&path)?;
    file.write_all(tail)?;
    file.sync_all()?;
    sync_dir(segment.parent().ok_or_else(|| Error::from(ErrorKind::NotFound))?)?;
    Ok(path)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use common::db::quarantine::{Problem, Unusable};
    use common::ids::CallbackId;

    use super::*;

    fn record() -> Vec<u8> {
        record::encode(&Entry::Unusable(Unusable {
            id: CallbackId::new(),
            source: "clay".into(),
            problem: Problem::Malformed,
            detail: String::new(),
            digest: [7; 32],
            body: "not json".into(),
            headers: "[]".to_owned(),
            received_at: None,
        }))
    }

    /// Opens a folder with one segment; answers its entries, its length and what was kept aside.
    fn open_one(bytes: &[u8]) -> (u64, u64, Option<Vec<u8>>) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(path(dir.path(), 3), bytes).unwrap();
        let segments = open_all(dir.path()).unwrap();
        let mut files = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
        let kept = files.find(|path| path.extension() == Some(OsStr::new("cut")));
        let length = std::fs::metadata(path(dir.path(), 3)).unwrap().len();
        (segments[0].entries, length, kept.map(|path| std::fs::read(path).unwrap()))
    }

    #[test]
    fn an_unfinished_record_is_dropped_and_a_damaged_one_is_kept_aside() {
        let (one, two) = (record(), record());
        let sound = one.len() as u64;
        for end in [1, 4, 7, FRAME_BYTES, two.len() - 1] {
            let torn = [&one[..], &two[..end]].concat();
            assert_eq!(open_one(&torn), (1, sound, None), "{end} bytes of the second");
        }
        let mut damaged = two.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(open_one(&[&one[..], &damaged].concat()), (1, sound, Some(damaged)));
        let zeros = vec![0; 64];
        assert_eq!(open_one(&[&one[..], &zeros].concat()), (1, sound, Some(zeros)), "a file system's filling");
        assert_eq!(open_one(&[&one[..], &two].concat()), (2, sound + two.len() as u64, None));
    }
}
