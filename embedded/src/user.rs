//! Who runs the server: this process's user, or for root an ordinary one.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Error, io};

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The login name, or the uid where there is none.
    pub name: String,
    /// The user's id.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

impl User {
    /// Whom root has to become: `postgres`, else `nobody`. `None` when this process is not root.
    pub(crate) fn instead_of_root() -> Result<Option<Self>, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = read_passwd()?;
        let find = |name: &str| users.iter().find(|user| user.name == name && user.uid != 0).cloned();
        find("postgres").or_else(|| find("nobody")).map(Some).ok_or(Error::NoUser)
    }

    /// The owner of `path`, whatever it is called.
    pub(crate) fn owner_of(path: &Path) -> Result<Self, Error> {
        let meta = std::fs::metadata(path).map_err(io("looking at", path))?;
        let name = read_passwd()?.into_iter().find(|user| user.uid == meta.uid()).map(|user| user.name);
        Ok(Self { name: name.unwrap_or_else(|| meta.uid().to_string()), uid: meta.uid(), gid: meta.gid() })
    }

    /// Refuses when this user cannot pass through every folder down to `path`, `path` included where it exists.
    pub(crate) fn check_can_enter(&self, path: &Path) -> Result<(), Error> {
        let mut folders: Vec<&Path> = path.ancestors().filter(|folder| folder.is_dir()).collect();
        folders.reverse();
        for folder in folders {
            let meta = std::fs::metadata(folder).map_err(io("looking at", folder))?;
            let bit = match () {
                () if meta.uid() == self.uid => 0o100,
                () if meta.gid() == self.gid => 0o010,
                () => 0o001,
            };
            if meta.mode() & bit == 0 {
                return Err(Error::Unreachable { folder: folder.to_owned(), user: self.name.clone() });
            }
        }
        Ok(())
    }
}

/// The lines of `/etc/passwd` that can be read.
fn read_passwd() -> Result<Vec<User>, Error> {
    let path = Path::new("/etc/passwd");
    let text = std::fs::read_to_string(path).map_err(io("reading", path))?;
    Ok(text.lines().filter_map(parse_line).collect())
}

fn parse_line(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(User { name, uid, gid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwd_lines_are_read() {
        let user = User { name: "postgres".to_owned(), uid: 101, gid: 104 };
        assert_eq!(parse_line("postgres:x:101:104:PostgreSQL:/var/lib/postgresql:/bin/bash"), Some(user));
        assert_eq!(parse_line("# a comment"), None);
        assert_eq!(parse_line("broken:x:abc:1"), None);
    }

    #[test]
    fn a_closed_folder_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("claygate-user-{}", std::process::id()));
        let inner = folder.join("closed").join("inner");
        std::fs::create_dir_all(&inner).unwrap_or_default();
        let closed = folder.join("closed");
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap_or_default();
        let stranger = User { name: "stranger".to_owned(), uid: 4_000_000, gid: 4_000_000 };
        let refused = stranger.check_can_enter(&inner);
        std::fs::remove_dir_all(&folder).unwrap_or_default();
        assert!(matches!(refused, Err(Error::Unreachable { folder, .. }) if folder == closed));
    }
}
