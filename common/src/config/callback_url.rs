//! `[destinations.<name>.callback_url]`: the signed URL that goes with every row of a `clay` destination. The source that
//! it names checks it; the process that sends rows signs with that source's secret, and needs no other of its secrets.

use std::collections::BTreeSet;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::read::{Context, Reader};
use super::schema::{Key, Kind, Preset, Section};
use super::tree::{Table, Value};
use super::{Config, DestinationKind, Role};

/// Characters of a field's name.
const FIELD_MAX: usize = 64;
const DAY: u64 = 86_400;
/// What a signature adds to a URL: expiry, row and signature in the query.
const SIGNED_BYTES: usize = 160;
/// The longest that a source's public URL can be: a host's name and a path.
const BASE_BYTES: usize = 530;

/// A URL to call back to, different in each row.
#[derive(Clone, Debug)]
pub struct CallbackUrl {
    /// The source that it belongs to.
    pub source: String,
    /// The field of the row that it is put into.
    pub field: String,
    /// How long it is accepted, from the moment on which the row is sent.
    pub expires: Duration,
    /// What signs it; `None` in a process that sends nothing.
    pub signer: Option<UrlSigner>,
}

/// What signs callback URLs.
#[derive(Clone, Debug)]
pub struct UrlSigner {
    /// The source's public URL.
    pub base: Url,
    /// The source's secret of the verification `signed-url`.
    pub secret: SecretString,
}

impl CallbackUrl {
    /// How many bytes it adds to a row, at most.
    pub fn added_bytes(&self) -> usize {
        let base = self.signer.as_ref().map_or(BASE_BYTES, |signer| signer.base.as_str().len());
        // `,"<field>":"<url>"`
        self.field.len() + base + SIGNED_BYTES + 6
    }
}

pub(super) static CALLBACK_URL: Section = Section {
    title: "[destinations.<name>.callback_url]",
    doc: "A signed, expiring URL of its own goes with every row of a `clay` destination, for the table's HTTP API column to \
          call: what comes to it is known to be of this row, whatever its body says. Needs `ingest.public_url`.",
    keys: &[
        Key::new(
            "source",
            Kind::Text,
            Preset::Required,
            "The source that it belongs to; its `verify` holds `{ kind = \"signed-url\", secrets = [\"${…}\"] }`, whose \
             longest accepted secret signs.",
        ),
        Key::new("field", Kind::Text, Preset::Is("callback_url"), "The field of the row that it is put into."),
        Key::new(
            "expires",
            Kind::Duration { min: Duration::from_secs(60), max: Duration::from_secs(366 * DAY) },
            Preset::Is("30d"),
            "How long it is accepted after the row was sent.",
        ),
    ],
};

pub(super) fn read_callback_url(reader: &Reader<'_>) -> Option<CallbackUrl> {
    if !reader.has("callback_url") {
        return None;
    }
    let table = reader.table("callback_url");
    table.check_keys(None);
    let source = table.text("source");
    if source.is_none() {
        table.wrong("source", "is missing: name the source that Clay calls back to, for example \"clay\"");
    }
    let field = table.parsed("field", |text| match text {
        "claygate_id" => Err("is taken: choose another, for example \"callback_url\"".to_owned()),
        _ if text.is_empty()
            || text.len() > FIELD_MAX
            || text.contains(|c: char| c.is_control() || c == '"' || c == '\\') =>
        {
            Err(format!("is not a field's name of 1 to {FIELD_MAX} plain characters"))
        }
        _ => Ok(text.to_owned()),
    });
    let expires = table.duration("expires").unwrap_or_default();
    Some(CallbackUrl { source: source?, field: field.unwrap_or_default(), expires, signer: None })
}

/// The sources whose secrets a process that sends rows needs, though it receives nothing.
pub(super) fn signing_sources(tree: &Table) -> BTreeSet<String> {
    let source = |destination: &Value| {
        let Value::Table(destination) = destination else { return None };
        let Value::Table(callback_url) = &destination.get("callback_url")?.value else { return None };
        match &callback_url.get("source")?.value {
            Value::Text(source) => Some(source.clone()),
            _ => None,
        }
    };
    match tree.get("destinations").map(|node| &node.value) {
        Some(Value::Table(destinations)) => destinations.values().filter_map(|node| source(&node.value)).collect(),
        _ => BTreeSet::new(),
    }
}

/// Gives every callback URL what signs it, and reports what is missing for it.
pub(super) fn resolve(config: &mut Config, role: Role, context: &Context<'_>) {
    let public_url = config.ingest.public_url.clone();
    for (name, destination) in &mut config.destinations {
        let DestinationKind::Clay(clay) = &mut destination.kind else { continue };
        let Some(callback_url) = &mut clay.callback_url else { continue };
        let report = |key: &str, what: String| {
            context.problem(format!("destinations.{name}.callback_url.{key}"), String::new(), what);
        };
        let Some(source) = config.sources.get(&callback_url.source) else {
            let known = config.sources.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            report("source", format!("no source is named \"{}\" (there are: {known})", callback_url.source));
            continue;
        };
        if !role.uses("destinations") {
            continue;
        }
        let base = public_url.as_ref().and_then(|url| url.join(&source.path).ok());
        if base.is_none() {
            report("source", "needs ingest.public_url: Clay has to reach the URL that goes with each row".to_owned());
        }
        if source.signing_secret.is_none() {
            report(
                "source",
                format!(
                    "needs verify = {{ kind = \"signed-url\", secrets = [\"${{…}}\"] }} at sources.{}, beside others if it has any",
                    source.name
                ),
            );
        }
        callback_url.signer = base.zip(source.signing_secret.clone()).map(|(base, secret)| UrlSigner { base, secret });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::{ConfigError, Environment};
    use super::*;
    use secrecy::ExposeSecret;

    const DATABASE: &str = "[database]\nurl = \"postgres://me@db.example.com/x\"\n";
    const LEADS: &str =
        "[destinations.leads]\nkind = \"clay\"\nwebhooks = [{ url = \"https://clay.example.com/1\" }]\n";
    const PUBLIC: &str = "[ingest]\npublic_url = \"https://leads.example.com\"\n";
    const SOURCE: &str = "[sources.back]\npath = \"/back\"\nverify = [{ kind = \"token\", secrets = [\"${NOT_SET}\"] }, \
        { kind = \"signed-url\", secrets = [\"the older secret\", { value = \"a secret that ends\", expires = \
        \"2999-01-01T00:00:00Z\" }, \"the newer secret\"] }]\n";

    fn read(role: Role, parts: &[&str]) -> Result<Config, ConfigError> {
        Config::from_toml(role, &parts.concat(), &Environment::default())
    }

    fn callback_url(config: &Config) -> CallbackUrl {
        let DestinationKind::Clay(clay) = &config.destinations["leads"].kind else { panic!("no clay") };
        clay.callback_url.clone().unwrap()
    }

    #[test]
    fn a_worker_signs_with_the_newest_secret_of_the_source_and_needs_no_other() {
        let url = "callback_url = { source = \"back\" }\n";
        let config = read(Role::Worker, &[LEADS, url, SOURCE, PUBLIC, DATABASE]).unwrap();
        assert!(config.sources["back"].verify.is_empty());
        let callback_url = callback_url(&config);
        assert_eq!((callback_url.field.as_str(), callback_url.expires.as_secs()), ("callback_url", 30 * DAY));
        let signer = callback_url.signer.clone().unwrap();
        assert_eq!(signer.base.as_str(), "https://leads.example.com/back");
        assert_eq!(signer.secret.expose_secret(), "the newer secret");
        assert!(!format!("{callback_url:?}").contains("newer"));
    }

    #[test]
    fn a_url_is_never_longer_than_it_is_counted() {
        let url = "callback_url = { source = \"back\", field = \"back_to\" }\n";
        let config = read(Role::Worker, &[LEADS, url, SOURCE, PUBLIC, DATABASE]).unwrap();
        let callback_url = callback_url(&config);
        let signer = callback_url.signer.as_ref().unwrap();
        let expires_at = time::OffsetDateTime::from_unix_timestamp(99_999_999_999).unwrap();
        let signed = crate::signature::sign_url(&signer.base, crate::ids::RowId::new(), expires_at, &signer.secret);
        let member = format!(",\"back_to\":\"{signed}\"");
        assert!(member.len() <= callback_url.added_bytes(), "{} of {}", member.len(), callback_url.added_bytes());
    }

    #[test]
    fn what_is_missing_is_named_where_rows_are_sent_and_only_there() {
        let url = "callback_url = { source = \"back\" }\n";
        let unsigned = "[sources.back]\npath = \"/back\"\nverify = { kind = \"none\" }\n";
        for (parts, expected) in [
            (&[LEADS, url, SOURCE, DATABASE][..], "ingest.public_url"),
            (&[LEADS, url, unsigned, PUBLIC, DATABASE], "signed-url"),
        ] {
            let problem = read(Role::Worker, parts).unwrap_err().to_string();
            assert!(problem.contains("callback_url") && problem.contains(expected), "{problem}");
            read(Role::Tool, parts).unwrap();
        }
        for (table, expected) in [
            ("callback_url = { source = \"nobody\" }\n", "\"nobody\""),
            ("callback_url = { field = \"x\" }\n", "source"),
            ("callback_url = { source = \"back\", field = \"claygate_id\" }\n", "is taken"),
            ("callback_url = { source = \"back\", expires = \"1s\" }\n", "out of range"),
        ] {
            let problem = read(Role::Tool, &[LEADS, table, SOURCE, PUBLIC, DATABASE]).unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
