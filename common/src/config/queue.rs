//! `[queue]`: RabbitMQ, where there is one. Whoever connects sees a URL with everything spelled out but the password.

use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::read::Reader;
use super::schema::{Key, Kind, Preset, Section};
use super::values::check_name;

/// `[queue]`.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// `amqp[s]://user@host[:port]/vhost`, always with a user and a vhost (`%2f`: the default one), never with a
    /// password: `set_password` completes it. `None`: Postgres itself is the queue.
    pub url: Option<Url>,
    /// The user's password; always there beside a `url` that the process uses.
    pub password: Option<SecretString>,
    /// The first part of the names of exchange and queues in the broker, for example `claygate`.
    pub prefix: String,
}

/// RabbitMQ's built-in user and its password; the broker takes it from its own machine only.
const GUEST: &str = "guest";

/// The default vhost, `/`, as it stands in a URL.
const DEFAULT_VHOST: &str = "/%2f";

pub(super) static QUEUE: Section = Section {
    title: "[queue]",
    doc: "Where RabbitMQ (3.10 or later) is. Without `url` Postgres itself is the queue and no broker is needed. It carries \
          ids alone: leads stay in Postgres.",
    keys: &[
        Key::new(
            "url",
            Kind::Secret,
            Preset::Said("none: Postgres is the queue"),
            "`amqp://user:password@host:port/vhost`, or `amqps://` for TLS. Without a vhost: the default one, `/`. Without a \
             user: `guest`, which RabbitMQ accepts on its own machine only.",
        ),
        Key::new("password", Kind::Secret, Preset::Said("none"), "The password, where `url` has none."),
        Key::new(
            "prefix",
            Kind::Text,
            Preset::Is("claygate"),
            "First part of the names of exchange and queues in the broker. Installations that share a vhost need one each. \
             `ingest` and `worker` of one installation have the same.",
        ),
    ],
};

pub(super) fn read_queue(reader: &Reader<'_>) -> QueueConfig {
    let given = reader.secret("password");
    if given.is_some() && !reader.has("url") {
        reader.wrong("password", "has no meaning without url: remove it, or say where RabbitMQ is");
    }
    let prefix = reader.parsed("prefix", |text| check_name(text).map(|()| text.to_owned())).unwrap_or_default();
    // In a process that does not use the section, secrets come out empty.
    let text = reader.secret("url").filter(|text| !text.expose_secret().is_empty());
    let (url, password) = match text.and_then(|text| read_url(reader, &text, given)) {
        Some((url, password)) => (Some(url), password),
        None => (None, None),
    };
    QueueConfig { url, password, prefix }
}

/// The URL without its password, and the password.
fn read_url(
    reader: &Reader<'_>,
    text: &SecretString,
    given: Option<SecretString>,
) -> Option<(Url, Option<SecretString>)> {
    let wrong = |what: String| reader.wrong("url", what);
    let mut url = Url::parse(text.expose_secret()).map_err(|error| wrong(format!("is not a URL: {error}"))).ok()?;
    check_parts(&url).map_err(|what| wrong(what.to_owned())).ok()?;
    let own = match url.password().map(|password| percent_decode_str(password).decode_utf8()) {
        Some(Ok(own)) => Some(SecretString::from(own.into_owned())),
        Some(Err(_)) => {
            wrong("has a password that is not UTF-8 behind its % signs".to_owned());
            return None;
        }
        None => None,
    };
    if own.is_some() && given.is_some() {
        reader.wrong("password", "is given beside a url that has one: keep one of them");
    }
    let password = own.or(given).or_else(|| is_guest(&url).then(|| SecretString::from(GUEST)));
    if url.username().is_empty() && !is_loopback(&url) {
        wrong(
            "names no user: write amqp://user@host/vhost (guest is accepted on RabbitMQ's own machine only)".to_owned(),
        );
    } else if password.is_none() {
        reader.wrong("password", "is missing: the user of url needs one, here, in password_file or in url");
    }
    if url.username().is_empty() {
        // These fail only for URLs without a host, which were refused above.
        let _ = url.set_username(GUEST);
    }
    let _ = url.set_password(None);
    if matches!(url.path(), "" | "/") {
        url.set_path(DEFAULT_VHOST);
    }
    reader.show_as("url", url.to_string());
    Some((url, password))
}

/// Whether `url` is the address of a broker; a message never repeats it.
fn check_parts(url: &Url) -> Result<(), &'static str> {
    if !matches!(url.scheme(), "amqp" | "amqps") {
        return Err("has to start with amqp:// or amqps://");
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("has no host");
    }
    if url.path().matches('/').count() > 1 {
        return Err("has more than a vhost behind the host: write a / in a vhost's name as %2f");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has parameters, which have no meaning here: remove them");
    }
    Ok(())
}

/// Whether the broker's built-in user is meant and would be let in.
fn is_guest(url: &Url) -> bool {
    matches!(url.username(), "" | GUEST) && is_loopback(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        // Of schemes that browsers do not know, addresses too are taken for names.
        Some(Host::Domain(name)) => {
            name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::super::{Config, Environment, Role, to_toml};
    use super::*;

    fn load(role: Role, text: &str) -> QueueConfig {
        let environment: Environment = [("CLAY_WEBHOOK_SECRET", "webhook-secret-0123456789")].into_iter().collect();
        Config::from_toml(role, text, &environment).unwrap_or_else(|error| panic!("{text}: {error}")).queue
    }

    /// URL, password and prefix that `text` comes to.
    fn read(text: &str) -> (String, String, String) {
        let QueueConfig { url, password, prefix } = load(Role::Up, text);
        (url.unwrap().to_string(), password.unwrap().expose_secret().to_owned(), prefix)
    }

    fn expect(url: &str, password: &str) -> (String, String, String) {
        (url.to_owned(), password.to_owned(), "claygate".to_owned())
    }

    #[test]
    fn without_a_url_postgres_is_the_queue() {
        let queue = load(Role::Up, "");
        assert!(queue.url.is_none() && queue.password.is_none());
        assert_eq!(queue.prefix, "claygate");
    }

    #[test]
    fn a_url_comes_with_user_and_vhost_and_without_its_password() {
        for host in ["localhost", "LOCALHOST:5673", "127.0.0.1:5672", "[::1]"] {
            let url = format!("amqp://guest@{host}/%2f");
            for written in [format!("amqp://{host}"), format!("amqp://{host}/"), url.clone()] {
                assert_eq!(read(&format!("[queue]\nurl = \"{written}\"")), expect(&url, "guest"), "{written}");
            }
        }
        let own = "[queue]\nurl = \"amqps://me:p%2Fw%C3%BC@mq.example.com:5671/leads%2fclay\"";
        assert_eq!(read(own), expect("amqps://me@mq.example.com:5671/leads%2fclay", "p/wü"));
        let apart = "[queue]\nurl = \"amqp://me@mq.example.com\"\npassword = \"word\"\nprefix = \"team-2\"";
        let (url, password, prefix) = read(apart);
        assert_eq!((&*url, &*password, &*prefix), ("amqp://me@mq.example.com/%2f", "word", "team-2"));
    }

    #[test]
    fn what_carries_the_queue_needs_its_password_and_nothing_else_does() {
        let text = "[database]\nurl = \"postgres://me@db.example.com/x\"\n[sources.clay]\npath = \"/c\"\n\
                    [queue]\nurl = \"amqp://me@mq.example.com\"\npassword = \"${NO_SUCH}\"";
        for role in [Role::Up, Role::Ingest, Role::Worker] {
            let error = Config::from_toml(role, text, &Environment::default()).unwrap_err().to_string();
            assert!(error.contains("queue.password (line 7): needs the environment variable NO_SUCH"), "{error}");
        }
        for role in [Role::Tool, Role::Sender] {
            let environment = [("CLAY_WEBHOOK_SECRET", "webhook-secret-0123456789")].into_iter().collect();
            assert!(Config::from_toml(role, text, &environment).unwrap().queue.url.is_none(), "{role:?}");
        }
    }

    #[test]
    fn the_password_of_a_url_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("claygate.toml");
        std::fs::write(&file, "[queue]\nurl = \"amqp://me:marked-secret@mq.example.com\"\n").unwrap();
        let environment = Environment::default();
        let locations = super::super::Locations::resolve(Some(&file), None, &environment, folder.path());
        let inspection = super::super::Inspection::of(Role::Up, &locations, &environment);
        let shown = to_toml(&inspection.settings);
        assert!(shown.contains("url = \"amqp://me@mq.example.com/%2f\"  # line 2"), "{shown}");
        assert!(!format!("{inspection:?}{shown}").contains("marked-secret"), "{shown}");
    }
}
