//! Reading secrets: given in place, by a variable, or by the name of a file. See [`super::read`].

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value as Json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::ActiveSecret;
use super::read::Reader;
use super::schema::{Key, Kind, Preset, Section};
use super::tree::{Node, Value};

/// The largest secret file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A `secrets` entry that is a table.
pub(super) static ENTRY: Section = Section {
    title: "entry of `secrets`",
    doc: "An entry of a `secrets` list is a string, or a table of these keys. Several may be active at once: to rotate, \
          add the new one, change the sender, and let the old one expire.",
    keys: &[
        Key::new("value", Kind::Secret, Preset::Required, "The secret."),
        Key::new("expires", Kind::Text, Preset::Said("never"), "Not accepted from this moment on, RFC 3339."),
    ],
};

impl<'a> Reader<'a> {
    /// A secret, from `<name>` or `<name>_file`; never empty in a section that the process uses, always empty in
    /// another.
    pub(super) fn secret(&self, name: &'static str) -> Option<SecretString> {
        self.key(name)?;
        let file_key = format!("{name}_file");
        let found = match (self.node(name), self.node(&file_key)) {
            (None, Some(node)) => self.secret_of_file(&file_key, node),
            _ => {
                let written = self.written(name);
                if written.is_none() && self.node(name).is_none() {
                    return None;
                }
                written.map(|written| written.meant)
            }
        };
        Some(self.checked(name, found))
    }

    /// A list of secrets that may expire, or the single one of `<name>_file`.
    pub(super) fn secrets(&self, name: &'static str) -> Vec<ActiveSecret> {
        let file_key = format!("{name}_file");
        if let (None, Some(node)) = (self.node(name), self.node(&file_key)) {
            let _ = self.key(name);
            let value = self.secret_of_file(&file_key, node);
            return vec![ActiveSecret { value: self.checked(name, value), expires_at: None }];
        }
        let Some(nodes) = self.list(name) else { return Vec::new() };
        if nodes.is_empty() {
            self.wrong(name, "is empty: without a secret nothing could ever be accepted");
        }
        nodes.iter().enumerate().filter_map(|(at, node)| self.entry(name, at, node)).collect()
    }

    fn entry(&self, name: &'static str, at: usize, node: &'a Node) -> Option<ActiveSecret> {
        match &node.value {
            Value::Text(text) => {
                let value = self.complete(name, text, &node.origin);
                Some(ActiveSecret { value: self.checked(name, value), expires_at: None })
            }
            Value::Table(table) => {
                let path = format!("{}[{at}]", self.path_of(name));
                let entry = Reader::new(self.context, &ENTRY, Some(table), path, self.strict).quietly();
                entry.check_keys(None);
                let value = entry.secret("value").unwrap_or_default();
                Some(ActiveSecret { value, expires_at: entry.expiry() })
            }
            other => {
                self.wrong(name, format!("holds {} where a string or a table belongs", other.describe()));
                None
            }
        }
    }

    fn expiry(&self) -> Option<OffsetDateTime> {
        // TOML has a type of its own for times; both ways of writing one are understood.
        let text = match self.node("expires").map(|node| &node.value) {
            Some(Value::Time(time)) => {
                let _ = self.key("expires");
                time.clone()
            }
            _ => self.text("expires")?,
        };
        let parsed = OffsetDateTime::parse(&text, &Rfc3339);
        parsed.map_err(|_| self.wrong("expires", "is not a moment: write it as \"2030-01-31T00:00:00Z\"")).ok()
    }

    /// `found` if it can be a secret; in a section that is not in use none is kept.
    fn checked(&self, name: &'static str, found: Option<String>) -> SecretString {
        let Some(secret) = found.filter(|_| self.strict) else { return SecretString::default() };
        if secret.trim().is_empty() {
            self.wrong(name, "is empty");
            return SecretString::default();
        }
        // It could stand in no header, and a password is never meant to have one.
        if secret.contains(char::is_control) {
            self.wrong(name, "holds a line's end or another control character: a secret is one line");
            return SecretString::default();
        }
        SecretString::from(secret)
    }

    /// A secret that claygate made itself; `None` was reported.
    pub(super) fn made_secret(&self, name: &'static str, file: &Path) -> Option<SecretString> {
        let secret = self.read_secret(name, file)?;
        if secret.trim().is_empty() {
            let file = file.display();
            self.wrong(name, format!("the secret file {file} is empty: remove it and run `claygate init`"));
            return None;
        }
        Some(self.checked(name, Some(secret)))
    }

    fn secret_of_file(&self, file_key: &str, node: &Node) -> Option<String> {
        let Value::Text(text) = &node.value else {
            self.wrong(file_key, format!("expected a path, found {}", node.value.describe()));
            return None;
        };
        self.note(file_key, Json::from(text.as_str()), &node.origin);
        let path = self.context.folder.join(self.complete(file_key, text, &node.origin)?);
        self.read_secret(file_key, &path)
    }

    /// A secret file's content without its last line's end; reports what is wrong with it under `name`.
    fn read_secret(&self, name: &str, path: &Path) -> Option<String> {
        if !self.strict {
            return None;
        }
        let shown = path.display();
        match read_file(path) {
            Ok((secret, metadata)) => {
                if is_readable_by_all(&metadata) {
                    self.context.warn(format!(
                        "{}: every user of this machine can read {shown}: chmod 600 it",
                        self.path_of(name)
                    ));
                }
                Some(secret.expose_secret().trim_end_matches(['\n', '\r']).to_owned())
            }
            Err(error) => {
                self.wrong(name, format!("the secret file {shown} cannot be read: {error}"));
                None
            }
        }
    }
}

fn read_file(path: &Path) -> io::Result<(SecretString, Metadata)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut secret = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut secret)?;
    if secret.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 64 KiB"));
    }
    Ok((SecretString::from(secret), metadata))
}

#[cfg(unix)]
fn is_readable_by_all(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o004 != 0
}

#[cfg(not(unix))]
fn is_readable_by_all(_: &Metadata) -> bool {
    false
}
