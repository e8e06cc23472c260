//! A broker's folder: `node/` (its database), `log/`, `server.log`, and the files that make the node what it is.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::{Error, io};
use crate::Lock;

const FOLDER_PREFIX: &str = "claygate-broker-";
const JUST_STARTING: Duration = Duration::from_secs(60);
/// Below the ephemeral ranges of Linux (from 32768) and the BSDs (from 49152), above most services.
const PORTS: Range<u16> = 15_000..32_000;
const PORTS_TRIED_MAX: usize = 100;
/// How often queues publish their counts: what `list_queues` shows is at most this old.
const COUNTS_EVERY_MS: u64 = 500;

/// The folder, removed when dropped, and what was chosen for the broker in it.
pub(super) struct Home {
    pub(super) user: String,
    pub(super) password: String,
    /// Declared before the folder, which goes with the file that it locks.
    _lock: Lock,
    folder: TempDir,
}

/// Where a broker listens, on 127.0.0.1.
#[derive(Clone, Copy)]
pub(super) struct Ports {
    pub(super) amqp: u16,
    pub(super) epmd: u16,
}

impl Ports {
    /// Two that are free now.
    pub(super) fn choose(home: &Home) -> Result<Self, Error> {
        let mut free = (0..PORTS_TRIED_MAX)
            .map(|_| rand::random_range(PORTS))
            .filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
        let none = || std::io::Error::new(std::io::ErrorKind::AddrInUse, format!("none found in {PORTS:?}"));
        let amqp = free.next().ok_or_else(none).map_err(io("looking for a free port for", home.dir()))?;
        let epmd = free.find(|port| *port != amqp).ok_or_else(none);
        Ok(Self { amqp, epmd: epmd.map_err(io("looking for a free port for", home.dir()))? })
    }
}

impl Home {
    /// A fresh folder in the temporary folder. What killed processes left there is removed first.
    pub(super) fn make(purpose: &str) -> Result<Self, Error> {
        let parent = std::env::temp_dir();
        remove_leftovers(&parent);
        let folder = tempfile::Builder::new()
            .prefix(FOLDER_PREFIX)
            .tempdir_in(&parent)
            .map_err(io("making a folder in", &parent))?;
        let lock = Lock::take(folder.path(), purpose).map_err(Error::Lock)?;
        let home = Self { user: format!("test-{}", random_hex()), password: random_hex(), _lock: lock, folder };
        for name in ["node", "log"] {
            let path = home.dir().join(name);
            std::fs::create_dir(&path).map_err(io("making", &path))?;
        }
        home.write(".erlang.cookie", 0o400, &random_hex())?;
        home.write("enabled_plugins", 0o600, "[].\n")?;
        home.write(
            "advanced.config",
            0o600,
            &format!("[{{rabbit, [{{quorum_tick_interval, {COUNTS_EVERY_MS}}}]}}].\n"),
        )?;
        Ok(home)
    }

    /// Writes the configuration for `port`.
    pub(super) fn configure(&self, port: u16) -> Result<(), Error> {
        let Self { user, password, .. } = self;
        let text = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\n\
             default_user = {user}\n\
             default_pass = {password}\n\
             log.file = false\n\
             log.console = true\n\
             log.console.level = info\n\
             vm_memory_high_watermark.absolute = 1GB\n\
             disk_free_limit.absolute = 50MB\n"
        );
        self.write("rabbitmq.conf", 0o600, &text)
    }

    pub(super) fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// What the name server and the node say.
    pub(super) fn log(&self) -> PathBuf {
        self.dir().join("server.log")
    }

    fn write(&self, name: &str, mode: u32, text: &str) -> Result<(), Error> {
        let path = self.dir().join(name);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(mode);
        let written = options.open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(io("writing", &path))
    }
}

/// 128 bits.
fn random_hex() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

/// Removes the folders of brokers whose processes are gone.
fn remove_leftovers(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let folder = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX) && is_old(&folder.join("lock"));
        if ours && !Lock::is_held(&folder) {
            // Another process may be at it, too.
            let _ = std::fs::remove_dir_all(&folder);
        }
    }
}

/// Whether `file` is there, and not of a process that is just starting.
fn is_old(file: &Path) -> bool {
    let age = std::fs::metadata(file).and_then(|meta| meta.modified()).map(|time| time.elapsed().unwrap_or_default());
    age.is_ok_and(|age| age > JUST_STARTING)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_old_folders_that_nobody_holds_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let long_ago = SystemTime::now() - 2 * JUST_STARTING;
        let folder = |name: &str, touched: SystemTime| {
            let folder = parent.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::File::create(folder.join("lock")).unwrap().set_modified(touched).unwrap();
            folder
        };
        let abandoned = folder("claygate-broker-a", long_ago);
        let fresh = folder("claygate-broker-b", SystemTime::now());
        let foreign = folder("something-else", long_ago);
        let held = folder("claygate-broker-c", long_ago);
        let lock = Lock::take(&held, "a test").unwrap();
        std::fs::File::options().write(true).open(held.join("lock")).unwrap().set_modified(long_ago).unwrap();
        remove_leftovers(parent.path());
        assert!(!abandoned.exists());
        assert!(fresh.exists() && foreign.exists() && held.exists());
        drop(lock);
    }
}
