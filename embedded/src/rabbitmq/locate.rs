//! Where RabbitMQ's scripts are. Looks, never installs, and starts nothing to find out.

use std::path::{Path, PathBuf};

use super::Error;

/// Debian and Fedora: the scripts without the wrapper in `/usr/sbin`, which becomes another user.
const PACKAGED: &str = "/usr/lib/rabbitmq/bin";
/// The versions beside it, as `rabbitmq_server-3.10.8/sbin`.
const VERSIONS: &str = "/usr/lib/rabbitmq/lib";
const HOMEBREW: [&str; 2] = ["/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin"];
/// The oldest version with what claygate asks of quorum queues.
const OLDEST: (u32, u32) = (3, 10);

/// One installed version of RabbitMQ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The folder with `rabbitmq-server` and `rabbitmqctl`.
    pub bin: PathBuf,
    /// Its major and minor version.
    pub version: (u32, u32),
}

/// The installation to use: what `CLAYGATE_RABBITMQ_BIN` names where it is set, else the first of version 3.10 or later in
/// `/usr/lib/rabbitmq/bin`, `/usr/lib/rabbitmq/lib/*/sbin`, PATH and Homebrew.
///
/// # Errors
/// [`Error::NotFound`] says where it was looked for.
pub fn locate() -> Result<Installation, Error> {
    if let Some(bin) = std::env::var_os("CLAYGATE_RABBITMQ_BIN").filter(|value| !value.is_empty()) {
        let bin = PathBuf::from(bin);
        let searched = || {
            let bin = bin.display();
            format!("CLAYGATE_RABBITMQ_BIN is {bin}, which has no `rabbitmq-server` and `rabbitmqctl` of 3.10 or later")
        };
        return inspect(&bin).ok_or_else(|| Error::NotFound { searched: searched() });
    }
    candidates().iter().find_map(|bin| inspect(bin)).ok_or_else(|| Error::NotFound {
        searched: format!("looked for 3.10 or later in {PACKAGED}, {VERSIONS}/*/sbin, PATH and Homebrew"),
    })
}

/// Folders that may hold it, in order of preference.
fn candidates() -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from(PACKAGED)];
    let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    folders.extend(versions.map(|entry| entry.path().join("sbin")));
    folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    folders.extend(HOMEBREW.map(PathBuf::from));
    folders
}

/// The installation behind `bin`, if both scripts are there and it is new enough.
///
/// The scripts are links into a folder that has `plugins` beside it; wrappers are not, and drop out here.
fn inspect(bin: &Path) -> Option<Installation> {
    let server = bin.join("rabbitmq-server").canonicalize().ok()?;
    let bin = server.parent()?.to_owned();
    let plugins = std::fs::read_dir(bin.parent()?.join("plugins")).ok()?;
    let version = plugins.flatten().find_map(|entry| version(entry.file_name().to_str()?))?;
    (bin.join("rabbitmqctl").is_file() && version >= OLDEST).then_some(Installation { bin, version })
}

/// The 3.10 of `rabbit-3.10.8` and of `rabbit-3.10.8.ez`.
fn version(plugin: &str) -> Option<(u32, u32)> {
    let mut numbers = plugin.strip_prefix("rabbit-")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_version_is_that_of_the_plugin_called_rabbit() {
        for (plugin, expected) in [
            ("rabbit-3.10.8", Some((3, 10))),
            ("rabbit-4.1.0-rc.2.ez", Some((4, 1))),
            ("rabbit_common-3.10.8", None),
            ("ra-2.2.0", None),
        ] {
            assert_eq!(version(plugin), expected, "{plugin}");
        }
    }

    #[test]
    fn wrappers_and_old_versions_are_passed_over() {
        let root = tempfile::tempdir().unwrap();
        for (name, plugin) in [("new", "rabbit-4.0.1"), ("old", "rabbit-3.8.9"), ("wrapped", "something-1.0")] {
            for folder in ["sbin", "plugins"] {
                std::fs::create_dir_all(root.path().join(name).join(folder)).unwrap();
            }
            std::fs::create_dir(root.path().join(name).join("plugins").join(plugin)).unwrap();
            for script in ["rabbitmq-server", "rabbitmqctl"] {
                std::fs::write(root.path().join(name).join("sbin").join(script), "").unwrap();
            }
        }
        let links = root.path().join("bin");
        std::fs::create_dir(&links).unwrap();
        std::os::unix::fs::symlink(root.path().join("new/sbin/rabbitmq-server"), links.join("rabbitmq-server"))
            .unwrap();
        let bin = root.path().join("new/sbin").canonicalize().unwrap();
        assert_eq!(inspect(&links), Some(Installation { bin, version: (4, 0) }));
        assert_eq!(inspect(&root.path().join("old/sbin")), None);
        assert_eq!(inspect(&root.path().join("wrapped/sbin")), None);
    }
}
