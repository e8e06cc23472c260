//! A server's log file: opened for appending, its end quoted in errors.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const TAIL_MAX_BYTES: u64 = 3000;
const KEPT_MAX_BYTES: u64 = 16 << 20;

/// Opens the log for appending, and says where the new part begins. One that has grown is set aside first.
pub(crate) fn open(path: &Path) -> io::Result<(File, u64)> {
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > KEPT_MAX_BYTES) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    let log = File::options().create(true).append(true).mode(0o600).open(path)?;
    let from = log.metadata()?.len();
    Ok((log, from))
}

/// The end of what the server has said since `from`, for an error.
pub(crate) fn tail(log: &Path, from: u64) -> String {
    let length = std::fs::metadata(log).map_or(0, |meta| meta.len());
    read(log, from.max(length.saturating_sub(TAIL_MAX_BYTES)))
}

/// All that is in the log from `from` on.
pub(crate) fn read(log: &Path, from: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_else(|error| format!("(the log cannot be read: {error})"))
}
