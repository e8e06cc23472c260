//! `run.json` in the data folder: how other commands find a running `claygate up`. Holds no secret.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use embedded::Lock;
use serde::{Deserialize, Serialize};

const NAME: &str = "run.json";

/// What a running `up` says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunFile {
    /// Its process.
    pub(crate) pid: u32,
    /// The public port.
    pub(crate) port: u16,
    /// The admin port.
    pub(crate) admin_port: u16,
    /// The embedded Postgres; none with `database.url`.
    pub(crate) postgres: Option<RunningPostgres>,
}

/// The embedded Postgres of a running `up`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningPostgres {
    /// The folder of its Unix socket.
    pub(crate) socket: PathBuf,
    /// Its TCP port on 127.0.0.1.
    pub(crate) port: u16,
    /// The postmaster.
    pub(crate) pid: u32,
    /// Where its password is.
    pub(crate) password_file: PathBuf,
}

impl RunFile {
    /// Writes it whole: readers see the former one or this one.
    pub(crate) fn write(&self, data: &Path) -> anyhow::Result<()> {
        let path = data.join(NAME);
        let draft = data.join(format!(".{NAME}.{}", std::process::id()));
        let write = || -> anyhow::Result<()> {
            let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            std::fs::rename(&draft, &path)?;
            Ok(())
        };
        write().with_context(|| format!("writing {}", path.display()))
    }

    /// The one of a live `up` on `data`; `None`: nobody runs there.
    pub(crate) fn of_live(data: &Path) -> anyhow::Result<Option<Self>> {
        if !Lock::is_held(data) {
            return Ok(None);
        }
        let path = data.join(NAME);
        match std::fs::read(&path) {
            Ok(text) => {
                let found = serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
                Ok(Some(found))
            }
            // Its holder is still starting, or is not an `up`.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Removes it: nobody runs here any more.
    pub(crate) fn remove(data: &Path) -> anyhow::Result<()> {
        let path = data.join(NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_live_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let run = RunFile { pid: 1, port: 2, admin_port: 3, postgres: None };
        run.write(data).unwrap();
        assert_eq!(RunFile::of_live(data).unwrap(), None, "nobody holds the folder");
        let lock = Lock::take(data, "a test").unwrap();
        assert_eq!(RunFile::of_live(data).unwrap(), Some(run));
        RunFile::remove(data).unwrap();
        RunFile::remove(data).unwrap();
        assert_eq!(RunFile::of_live(data).unwrap(), None);
        drop(lock);
    }
}
