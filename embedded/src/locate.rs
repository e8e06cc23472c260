//! Where PostgreSQL's programs are. Looks, never installs.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

const DEBIAN: &str = "/usr/lib/postgresql";
const HOMEBREW: [&str; 2] = ["/opt/homebrew/opt", "/usr/local/opt"];
/// Fedora and its kin install versioned packages of the PostgreSQL project here, as `pgsql-17`.
const REDHAT: &str = "/usr";
/// The oldest major version that the schema works on.
const OLDEST: u32 = 13;

/// One installed version of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The folder with `postgres` and `initdb`.
    pub bin: PathBuf,
    /// Its major version.
    pub major: u32,
}

impl Installation {
    /// One of its programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// The newest installation, or the one that `CLAYGATE_PG_BIN` names.
///
/// # Errors
/// [`Error::NotFound`] says where it was looked for.
pub fn locate() -> Result<Installation, Error> {
    locate_all()?.into_iter().next().ok_or_else(|| Error::NotFound { searched: "nothing usable found".to_owned() })
}

/// Every installation of version 13 or later, the preferred one first. Never empty.
///
/// `CLAYGATE_PG_BIN` alone counts where it is set; else `/usr/lib/postgresql/*/bin` newest first, PATH, Homebrew.
///
/// # Errors
/// [`Error::NotFound`] says where it was looked for.
pub fn locate_all() -> Result<Vec<Installation>, Error> {
    if let Some(bin) = std::env::var_os("CLAYGATE_PG_BIN").filter(|value| !value.is_empty()) {
        let bin = PathBuf::from(bin);
        return match inspect(&bin) {
            Some(found) => Ok(vec![found]),
            None => Err(Error::NotFound {
                searched: format!(
                    "CLAYGATE_PG_BIN is {}, which has no `postgres` and `initdb` of 13 or later",
                    bin.display()
                ),
            }),
        };
    }
    let mut found: Vec<Installation> = Vec::new();
    for bin in candidates() {
        if let Some(installation) = inspect(&bin)
            && !found.iter().any(|known| known.major == installation.major)
        {
            found.push(installation);
        }
    }
    if found.is_empty() {
        let searched = "looked in /usr/lib/postgresql/*/bin, /usr/pgsql-*/bin, PATH and Homebrew".to_owned();
        return Err(Error::NotFound { searched });
    }
    Ok(found)
}

/// Folders that may hold it, in order of preference.
fn candidates() -> Vec<PathBuf> {
    let mut folders = newest_first(Path::new(DEBIAN), "");
    folders.extend(newest_first(Path::new(REDHAT), "pgsql-"));
    folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths).map(real_folder));
    for prefix in HOMEBREW {
        folders.extend(newest_first(Path::new(prefix), "postgresql@"));
    }
    folders
}

/// PATH often holds links into the real folder, and `initdb` may be missing beside the link.
fn real_folder(folder: PathBuf) -> PathBuf {
    let link = folder.join("postgres");
    link.canonicalize().ok().and_then(|file| file.parent().map(Path::to_owned)).unwrap_or(folder)
}

/// `<parent>/<prefix><version>/bin`, newest version first.
fn newest_first(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, bin)| bin).collect()
}

/// The installation in `bin`, if both programs are there and it is new enough.
fn inspect(bin: &Path) -> Option<Installation> {
    let bin = bin.canonicalize().ok()?;
    if !bin.join("initdb").is_file() || !bin.join("postgres").is_file() {
        return None;
    }
    let output = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
    let major = major_version(&String::from_utf8(output.stdout).ok()?)?;
    (major >= OLDEST).then_some(Installation { bin, major })
}

/// The 15 of `postgres (PostgreSQL) 15.18 (Debian …)` or of `PostgreSQL 17beta1`.
fn major_version(text: &str) -> Option<u32> {
    let version = text.split("PostgreSQL) ").nth(1)?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn major_version_is_read_from_every_vendors_text() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 17.2 (Homebrew)\n", Some(17)),
            ("postgres (PostgreSQL) 18beta1\n", Some(18)),
            ("something else 9\n", None),
        ] {
            assert_eq!(major_version(text), major, "{text}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let folder = std::env::temp_dir().join(format!("claygate-locate-{}", std::process::id()));
        for version in ["9", "15", "100", "README"] {
            std::fs::create_dir_all(folder.join(version)).unwrap();
        }
        let found = newest_first(&folder, "");
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, ["100", "15", "9"].map(|version| folder.join(version).join("bin")));
    }
}
