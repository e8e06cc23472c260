//! Where a cluster lives, and who runs it.
//!
//! A home holds `cluster/` (the data directory), `socket/`, `password`, `port` and `server.log`.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::user::User;
use crate::{Error, io};

const FOR_ROOT: &str = "/var/lib/claygate";
/// The file in a data folder that says where its cluster lies, where that is somewhere else. A data folder without it
/// is a new one, even if its path once was another's.
const POINTER: &str = "database";
/// What a socket's address can hold on the strictest system, less `/.s.PGSQL.65535` and the closing NUL.
const SOCKET_FOLDER_MAX_BYTES: usize = 103 - 15;

/// The folder of one cluster.
#[derive(Clone, Debug)]
pub struct Home {
    dir: PathBuf,
    socket: PathBuf,
    /// Whom the server has to run as; `None`: this process's user.
    run_as: Option<User>,
}

impl Home {
    /// The home of the cluster that belongs to the data folder `data`, which has to exist.
    ///
    /// For an ordinary user `<data>/postgres`. For root `/var/lib/claygate/<hash of the data path>`, unless the data
    /// folder already has a cluster of an ordinary user: that is used where it is, as its owner.
    ///
    /// # Errors
    /// [`Error::NoUser`], [`Error::Unreachable`], [`Error::LeftBehind`], [`Error::Io`].
    pub fn of_data(data: &Path) -> Result<Self, Error> {
        let data = data.canonicalize().map_err(io("finding", data))?;
        let (dir, run_as) = choose(&data)?;
        let pointer = data.join(POINTER);
        if dir.starts_with(FOR_ROOT) && dir.join("cluster/PG_VERSION").is_file() && !pointer.is_file() {
            return Err(Error::LeftBehind { home: dir, pointer });
        }
        let home = Self::make(dir, run_as)?;
        if home.dir.starts_with(FOR_ROOT) {
            let there = home.dir.as_os_str().as_encoded_bytes();
            std::fs::write(&pointer, there).map_err(io("writing", &pointer))?;
            // For whoever finds the folder and wonders.
            let note = home.dir.join("data-folder");
            std::fs::write(&note, data.as_os_str().as_encoded_bytes()).map_err(io("writing", &note))?;
        }
        Ok(home)
    }

    /// Whether the data folder `data` has a cluster yet. Makes nothing.
    ///
    /// # Errors
    /// [`Error::NoUser`], [`Error::Io`].
    pub fn has_cluster(data: &Path) -> Result<bool, Error> {
        let Ok(data) = data.canonicalize() else { return Ok(false) };
        Ok(choose(&data)?.0.join("cluster/PG_VERSION").is_file())
    }

    /// A home in `dir` itself, for throw-away clusters. Where this process is root the folder is given to the user
    /// that will run the server.
    ///
    /// # Errors
    /// [`Error::NoUser`], [`Error::Unreachable`], [`Error::Io`].
    pub fn temporary(dir: &Path) -> Result<Self, Error> {
        Self::make(dir.to_owned(), User::instead_of_root()?)
    }

    fn make(dir: PathBuf, run_as: Option<User>) -> Result<Self, Error> {
        if let Some(parent) = dir.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(io("making", parent))?;
        }
        make_private(&dir, run_as.as_ref())?;
        if let Some(user) = &run_as {
            user.check_can_enter(&dir)?;
        }
        let socket = socket_folder(&dir);
        make_private(&socket, run_as.as_ref())?;
        Ok(Self { dir, socket, run_as })
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Who runs the server, where that is not this process's user.
    pub fn run_as(&self) -> Option<&User> {
        self.run_as.as_ref()
    }

    /// PostgreSQL's data directory.
    pub(crate) fn cluster(&self) -> PathBuf {
        self.dir.join("cluster")
    }

    /// Where the server's Unix socket lies.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The server's log.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    pub(crate) fn password_file(&self) -> PathBuf {
        self.dir.join("password")
    }

    pub(crate) fn port_file(&self) -> PathBuf {
        self.dir.join("port")
    }

    /// Gives a file of this home to the server's user.
    pub(crate) fn hand_over(&self, path: &Path) -> Result<(), Error> {
        match &self.run_as {
            Some(user) => chown(path, Some(user.uid), Some(user.gid)).map_err(io("handing over", path)),
            None => Ok(()),
        }
    }
}

/// The home of `data`, and who runs it where that is not this process's user.
fn choose(data: &Path) -> Result<(PathBuf, Option<User>), Error> {
    let inside = data.join("postgres");
    let Some(user) = User::instead_of_root()? else { return Ok((inside, None)) };
    if inside.join("cluster").is_dir() {
        let owner = User::owner_of(&inside.join("cluster"))?;
        if owner.uid != 0 {
            return Ok((inside, Some(owner)));
        }
    }
    let hash = hex::encode(Sha256::digest(data.as_os_str().as_encoded_bytes()));
    Ok((Path::new(FOR_ROOT).join(hash.get(..16).unwrap_or(&hash)), Some(user)))
}

/// Beside the cluster, or in the temporary folder where that path is too long for a socket.
fn socket_folder(dir: &Path) -> PathBuf {
    let beside = dir.join("socket");
    if beside.as_os_str().len() <= SOCKET_FOLDER_MAX_BYTES {
        return beside;
    }
    let hash = hex::encode(Sha256::digest(dir.as_os_str().as_encoded_bytes()));
    Path::new("/tmp").join(format!("claygate-{}", hash.get(..16).unwrap_or(&hash)))
}

/// Makes `dir` with mode 0700 for its user. One that belongs to somebody else is refused by the chmod.
fn make_private(dir: &Path, user: Option<&User>) -> Result<(), Error> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io("making", dir)(error)),
    }
    if let Some(user) = user {
        chown(dir, Some(user.uid), Some(user.gid)).map_err(io("handing over", dir))?;
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(io("closing", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_get_a_short_socket_folder_of_their_own() {
        let long = PathBuf::from("/srv").join("x".repeat(200));
        let other = PathBuf::from("/srv").join("y".repeat(200));
        assert!(socket_folder(&long).as_os_str().len() < SOCKET_FOLDER_MAX_BYTES);
        assert_ne!(socket_folder(&long), socket_folder(&other));
        assert_eq!(socket_folder(Path::new("/srv/data")), Path::new("/srv/data/socket"));
    }
}
