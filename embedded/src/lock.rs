//! One process per data folder: a file lock that the kernel gives back when its holder dies.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{Error, io};

const NAME: &str = "lock";
const MOMENT: Duration = Duration::from_millis(200);

/// The right to use a data folder. Given back when dropped, or when the process ends in whatever way.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes `folder` for this process. `purpose` is what others are told of its holder, as `claygate up`.
    ///
    /// # Errors
    /// [`Error::InUse`] names the holder.
    pub fn take(folder: &Path, purpose: &str) -> Result<Self, Error> {
        let path = folder.join(NAME);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("opening the lock file", &path))?;
        match try_for_a_moment(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Whoever just took it may not have written its name yet.
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.is_empty() { "another process".to_owned() } else { holder };
                return Err(Error::InUse { folder: folder.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(io("locking", &path)(source)),
        }
        let name = format!("pid {} ({purpose})", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(name.as_bytes()))
            .map_err(io("writing", &path))?;
        Ok(Self { _file: file })
    }

    /// Whether somebody holds `folder` now.
    pub fn is_held(folder: &Path) -> bool {
        let Ok(file) = OpenOptions::new().read(true).open(folder.join(NAME)) else { return false };
        matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
    }
}

/// [`Lock::is_held`] takes the lock for an instant to find out: that must not refuse anybody.
fn try_for_a_moment(file: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + MOMENT;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(MOMENT / 20),
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_of_the_first() {
        let folder = std::env::temp_dir().join(format!("claygate-lock-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let first = Lock::take(&folder, "claygate up").unwrap();
        assert!(Lock::is_held(&folder));
        let refused = Lock::take(&folder, "claygate up").unwrap_err().to_string();
        assert!(refused.contains(&format!("pid {} (claygate up)", std::process::id())), "{refused}");
        drop(first);
        assert!(!Lock::is_held(&folder));
        Lock::take(&folder, "claygate up").unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
