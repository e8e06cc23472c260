//! The passwords of the servers that are run beside claygate.
//!
//! Each lies twice: among claygate's own secrets, and in a folder for the server, in the form that it reads when it
//! starts for the first time. Whichever is missing is made from the other, so that a run that was cut off, or a lost
//! folder, is made good by the next run. Two that differ are nobody's to choose between: that is an error.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use common::config::{Locations, Readers, make_secret, write_once};
use secrecy::{ExposeSecret, SecretString};

/// The user that claygate is in both servers.
const USER: &str = "claygate";

/// In RabbitMQ's configuration, what stands before the password.
const RABBITMQ_PASSWORD: &str = "default_pass = ";

/// What one server reads.
struct Server {
    /// The file among claygate's secrets. Its dot keeps it apart from the secret of a source.
    own: &'static str,
    /// The file for the server.
    theirs: &'static str,
    write: fn(&str) -> String,
    read: fn(&str) -> Option<&str>,
}

const SERVERS: [Server; 2] = [
    Server {
        own: "postgres.password",
        theirs: "postgres/password",
        write: str::to_owned,
        read: |text| Some(text.trim_end()),
    },
    Server {
        own: "rabbitmq.password",
        theirs: "rabbitmq/90-claygate.conf",
        write: |password| {
            format!(
                "# Made by `claygate init`; read when RabbitMQ starts with an empty data folder.\n\
                 default_user = {USER}\n{RABBITMQ_PASSWORD}{password}"
            )
        },
        read: |text| text.lines().find_map(|line| line.strip_prefix(RABBITMQ_PASSWORD)).map(str::trim_end),
    },
];

/// Makes the passwords that are missing, the servers' files below `folder`; answers the files that it made.
pub(super) fn make_passwords(locations: &Locations, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for server in &SERVERS {
        let (own, theirs) = (locations.secret_file(server.own), folder.join(server.theirs));
        if make_own(server, &own, &theirs)? {
            made.push(own.clone());
        }
        let password = read(&own)?.with_context(|| format!("{} was removed meanwhile", own.display()))?;
        let text = (server.write)(password.expose_secret().trim_end());
        if write_once(&theirs, &text, Readers::Everyone).with_context(|| format!("writing {}", theirs.display()))? {
            made.push(theirs);
            continue;
        }
        let given = read(&theirs)?.unwrap_or_default();
        if (server.read)(given.expose_secret()) != Some(password.expose_secret().trim_end()) {
            anyhow::bail!(
                "{} and {} hold different passwords: remove the one that the server was not set up with",
                own.display(),
                theirs.display()
            );
        }
    }
    Ok(made)
}

/// Makes claygate's own copy: from the server's, if there is one, else at random. Answers whether there was none.
fn make_own(server: &Server, own: &Path, theirs: &Path) -> anyhow::Result<bool> {
    let written = match read(theirs)? {
        None => make_secret(own),
        Some(text) => {
            let password = (server.read)(text.expose_secret()).filter(|password| !password.is_empty());
            let password = password.with_context(|| format!("{} holds no password: remove it", theirs.display()))?;
            write_once(own, password, Readers::Owner)
        }
    };
    written.with_context(|| format!("making the secret {}", own.display()))
}

/// A file's text; `None`: there is none.
fn read(file: &Path) -> anyhow::Result<Option<SecretString>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::PermissionsExt;

    use common::config::Environment;
    use tempfile::TempDir;

    use super::*;

    const FILES: [&str; 4] = [
        "data/secrets/postgres.password",
        "services/postgres/password",
        "data/secrets/rabbitmq.password",
        "services/rabbitmq/90-claygate.conf",
    ];

    fn make(folder: &TempDir) -> anyhow::Result<Vec<PathBuf>> {
        let data = folder.path().join("data");
        let locations = Locations::resolve(None, Some(&data), &Environment::default(), folder.path());
        make_passwords(&locations, &folder.path().join("services"))
    }

    fn text(folder: &TempDir, file: &str) -> String {
        std::fs::read_to_string(folder.path().join(file)).unwrap()
    }

    #[test]
    fn each_server_and_claygate_have_the_same_password_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let made = make(&folder).unwrap();
        assert_eq!(made, FILES.map(|file| folder.path().join(file)));

        let texts = FILES.map(|file| text(&folder, file));
        assert_eq!(texts[0], texts[1]);
        assert!(texts[3].ends_with(&format!("\ndefault_user = claygate\ndefault_pass = {}", texts[2])), "{}", texts[3]);
        assert_ne!(texts[0], texts[2]);
        for (file, mode) in FILES.into_iter().zip([0o600, 0o644, 0o600, 0o644]) {
            assert_eq!(folder.path().join(file).metadata().unwrap().permissions().mode() & 0o777, mode, "{file}");
        }

        assert_eq!(make(&folder).unwrap(), [] as [PathBuf; 0]);
        assert_eq!(FILES.map(|file| text(&folder, file)), texts);
    }

    #[test]
    fn a_copy_that_is_lost_is_made_from_the_other() {
        let folder = tempfile::tempdir().unwrap();
        make(&folder).unwrap();
        let texts = FILES.map(|file| text(&folder, file));
        for file in FILES {
            std::fs::remove_file(folder.path().join(file)).unwrap();
            assert_eq!(make(&folder).unwrap(), [folder.path().join(file)]);
            assert_eq!(FILES.map(|file| text(&folder, file)), texts, "{file}");
        }
    }

    #[test]
    fn different_passwords_are_told_and_not_shown() {
        for (own, theirs, word) in [(FILES[0], FILES[1], "marked"), (FILES[2], FILES[3], "default_pass = marked")] {
            let folder = tempfile::tempdir().unwrap();
            make(&folder).unwrap();
            std::fs::write(folder.path().join(theirs), word).unwrap();
            let error = make(&folder).unwrap_err().to_string();
            assert!(error.contains(own) && error.contains(theirs) && error.contains("different passwords"), "{error}");
            assert!(!error.contains("marked"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        make(&folder).unwrap();
        std::fs::remove_file(folder.path().join(FILES[2])).unwrap();
        std::fs::write(folder.path().join(FILES[3]), "default_user = claygate\n").unwrap();
        let error = make(&folder).unwrap_err().to_string();
        assert!(error.contains("90-claygate.conf holds no password: remove it"), "{error}");
    }
}
