//! The secrets that claygate makes itself: `secrets/<source>` and `secrets/admin` in the data folder.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRngCore;
use rand::rngs::OsRng;

use super::tree::{Table, Value};
use super::{ConfigError, Environment, Locations, build_tree, read_file};

/// The secret files that the configuration relies on and that do not exist yet: of every source without `verify`, and
/// the console's token where none is configured.
///
/// # Errors
/// When the file cannot be read or is not TOML.
pub fn missing_secrets(locations: &Locations, environment: &Environment) -> Result<Vec<PathBuf>, ConfigError> {
    let text = read_file(locations)?;
    let tree = build_tree(text.as_deref(), environment)?;
    let table = |name: &str| match tree.get(name).map(|node| &node.value) {
        Some(Value::Table(table)) => Some(table),
        _ => None,
    };
    let sources = table("sources").into_iter().flatten().filter(|(name, node)| match &node.value {
        Value::Table(source) => !source.contains_key("verify") && !is_given_by_variable(name, environment),
        _ => false,
    });
    let has_token = |admin: &Table| admin.contains_key("token") || admin.contains_key("token_file");
    let token_is_set = table("admin").is_some_and(has_token)
        || environment.get("CLAYGATE_ADMIN__TOKEN").is_some()
        || environment.get("CLAYGATE_ADMIN__TOKEN_FILE").is_some();
    let admin = (!token_is_set).then_some("admin");
    let names = sources.map(|(name, _)| name.as_str()).filter(|name| super::values::check_name(name).is_ok());
    Ok(names.chain(admin).map(|name| locations.secret_file(name)).filter(|file| !file.exists()).collect())
}

fn is_given_by_variable(source: &str, environment: &Environment) -> bool {
    source == "clay" && environment.get("CLAY_WEBHOOK_SECRET").is_some_and(|secret| !secret.trim().is_empty())
}

/// Who may read a file that holds a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// This user alone. The folder is made for this user alone too, if there is none.
    Owner,
    /// Whoever can enter its folder: a server that runs as a user of its own.
    Everyone,
}

/// Makes a secret of 32 random bytes in a file that only this user may read; leaves one that is there alone. Answers
/// whether it made one.
///
/// # Errors
/// When the folder or the file cannot be written.
pub fn make_secret(file: &Path) -> io::Result<bool> {
    if file.exists() {
        return Ok(false);
    }
    let mut bytes = [0_u8; 32];
    OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    write_once(file, &URL_SAFE_NO_PAD.encode(bytes), Readers::Owner)
}

/// Writes `text` and a line's end to a file; leaves one that is there alone. Answers whether it wrote it. A file is
/// whole or not there, also after a crash, and of two writers one wins.
///
/// # Errors
/// When the folder or the file cannot be written.
pub fn write_once(file: &Path, text: &str, readers: Readers) -> io::Result<bool> {
    if file.exists() {
        return Ok(false);
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    create_folder(folder, readers)?;
    // Written beside it and linked into place.
    let draft = folder.join(format!(".{}.{}", std::process::id(), uuid::Uuid::now_v7()));
    let linked = write_new(&draft, text, readers).and_then(|()| std::fs::hard_link(&draft, file));
    std::fs::remove_file(&draft)?;
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn create_folder(folder: &Path, readers: Readers) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if readers == Readers::Everyone {
        return std::fs::create_dir_all(folder);
    }
    if let Some(data) = folder.parent() {
        std::fs::create_dir_all(data)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn write_new(path: &Path, text: &str, readers: Readers) -> io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    if readers == Readers::Everyone {
        // Whatever the process's umask is.
        file.set_permissions(Permissions::from_mode(0o644))?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("claygate.toml"), text).unwrap();
        let environment = variables.iter().copied().collect();
        let locations = Locations::resolve(None, None, &environment, folder.path());
        let files = missing_secrets(&locations, &environment).unwrap();
        files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn secrets_are_missing_where_nothing_else_is_configured() {
        assert_eq!(names("", &[]), ["clay", "admin"]);
        assert_eq!(names("", &[("CLAY_WEBHOOK_SECRET", "s")]), ["admin"]);
        assert_eq!(names("[admin]\ntoken_file = \"t\"", &[]), ["clay"]);
        assert_eq!(names("", &[("CLAYGATE_ADMIN__TOKEN", "t")]), ["clay"]);
        let sources = "[sources.forms]\npath = \"/f\"\n[sources.open]\npath = \"/o\"\nverify = { kind = \"none\" }";
        assert_eq!(names(sources, &[]), ["forms", "admin"]);
    }

    #[test]
    fn a_secret_is_made_once_and_for_this_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("data/secrets/clay");
        assert!(make_secret(&file).unwrap());
        let secret = std::fs::read_to_string(&file).unwrap();
        assert_eq!(secret.trim_end().len(), 43);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(file.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);

        assert!(!make_secret(&file).unwrap());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), secret);
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);

        let other = folder.path().join("data/secrets/admin");
        make_secret(&other).unwrap();
        assert_ne!(std::fs::read_to_string(&other).unwrap(), secret);
    }

    #[test]
    fn what_another_server_reads_is_written_once_and_readable() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("server/password");
        assert!(write_once(&file, "first", Readers::Everyone).unwrap());
        assert!(!write_once(&file, "second", Readers::Everyone).unwrap());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "first\n");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }
}
