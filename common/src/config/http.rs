//! The requests of an `http` destination: one, or several steps.

use std::collections::BTreeMap;
use std::net::IpAddr;

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::read::Reader;
use super::schema::{Key, Kind, Preset, Section};
use super::sources::is_webhook_secret;
use super::values::{check_name, check_pointer, parse_header_name};
use super::{Auth, Body, HttpDestination, StatusSet, Step};

/// Methods of a request.
pub(super) const METHODS: &[&str] = &["POST", "PUT", "PATCH", "GET", "DELETE"];

/// Most steps of one destination.
const STEPS_MAX: usize = 16;

/// What stands either in the destination or in its steps.
const REQUEST_KEYS: [&str; 6] = ["url", "method", "headers", "body", "body_text", "content_type"];

pub(super) static STEP: Section = Section {
    title: "[[destinations.<name>.steps]]",
    doc: "One of several requests. Their keys are those of the destination.",
    keys: &[
        Key::new("url", Kind::Secret, Preset::Required, "The URL, a template."),
        Key::new("method", Kind::OneOf(METHODS), Preset::Is("POST"), "The method."),
        Key::new("headers", Kind::SecretTable, Preset::Said("none"), "Headers and their values, which are templates."),
        Key::new("body", Kind::Structure, Preset::Said("the lead plus `claygate`"), "What is sent as JSON."),
        Key::new("body_text", Kind::Text, Preset::Said("none"), "In place of `body`: one template; `\"\"` sends none."),
        Key::new("content_type", Kind::Text, Preset::Said("`text/plain`"), "The content type of `body_text`."),
        Key::new(
            "capture",
            Kind::TextTable,
            Preset::Said("none"),
            "JSON pointers into the answer, for example `id = \"/data/id\"`; later steps and retries see \
             `captured.id`. A step whose values were captured is not repeated.",
        ),
    ],
};

pub(super) static AUTH: Section = Section {
    title: "[destinations.<name>.auth]",
    doc: "Credentials; sent with every step.",
    keys: &[
        Key::new(
            "kind",
            Kind::OneOf(&["bearer", "basic", "header"]),
            Preset::Required,
            "`bearer`: `Authorization: Bearer <token>`. `basic`: HTTP Basic. `header`: a secret in a header of its own.",
        ),
        Key::new("token", Kind::Secret, Preset::Required, "The token.").only(&["bearer"]),
        Key::new("username", Kind::Text, Preset::Is(""), "The user name, may be empty.").only(&["basic"]),
        Key::new("password", Kind::Secret, Preset::Required, "The password.").only(&["basic"]),
        Key::new("name", Kind::Text, Preset::Required, "The header's name.").only(&["header"]),
        Key::new("value", Kind::Secret, Preset::Required, "The header's value.").only(&["header"]),
    ],
};

pub(super) fn read_http(reader: &Reader<'_>) -> HttpDestination {
    let auth = reader.has("auth").then(|| reader.table_of_kinds("auth")).and_then(|auth| read_auth(&auth));
    let steps = reader.tables("steps");
    let steps = if reader.has("steps") {
        for key in REQUEST_KEYS.into_iter().filter(|key| reader.has(key)) {
            reader.wrong(key, "stands beside steps: move it into the step that it belongs to");
        }
        if steps.is_empty() || steps.len() > STEPS_MAX {
            reader.wrong("steps", format!("needs 1 to {STEPS_MAX} steps"));
        }
        let read = |step: &Reader<'_>| {
            step.check_keys(None);
            read_step(step, read_capture(step))
        };
        steps.iter().map(read).collect()
    } else {
        if !reader.has("url") {
            reader.wrong("url", "is missing: where to send to, or say steps = [{ url = … }, …]");
        }
        vec![read_step(reader, BTreeMap::new())]
    };
    let names_itself = auth.as_ref().map(|auth| match auth {
        Auth::Bearer(_) | Auth::Basic { .. } => "authorization",
        Auth::Header { name, .. } => name.as_str(),
    });
    if names_itself.is_some_and(|name| steps.iter().any(|step| step.headers.contains_key(name))) {
        reader.wrong("headers", "holds the header that auth sets: keep one of them");
    }
    let (success, terminal) = (reader.statuses("success"), reader.statuses("terminal"));
    check_statuses(reader, &success, &terminal);
    HttpDestination { steps, auth, success, terminal, signing_secret: read_signing_secret(reader) }
}

fn check_statuses(reader: &Reader<'_>, success: &StatusSet, terminal: &StatusSet) {
    if let Some(status) = (100..=599).find(|status| success.contains(*status) && terminal.contains(*status)) {
        reader.wrong("terminal", format!("holds {status}, and so does success: keep it in one of them"));
    }
    if (200..=299).any(|status| terminal.contains(status)) {
        reader.wrong("terminal", "holds a 2xx status: these always count as delivered");
    }
}

fn read_signing_secret(reader: &Reader<'_>) -> Option<SecretString> {
    let secret = reader.secret("signing_secret")?;
    if !secret.expose_secret().is_empty() && !is_webhook_secret(secret.expose_secret()) {
        reader.wrong("signing_secret", "is not whsec_ and the base64 of at least 16 bytes");
    }
    Some(secret)
}

fn read_step(reader: &Reader<'_>, capture: BTreeMap<String, String>) -> Step {
    let url = reader.secret("url").unwrap_or_default();
    check_url(reader, "url", &url);
    let method = reader.choice("method").unwrap_or_default();
    Step { url, headers: read_headers(reader), body: read_body(reader, &method), method, capture }
}

fn read_headers(reader: &Reader<'_>) -> BTreeMap<String, SecretString> {
    let mut headers = BTreeMap::new();
    for (name, value) in reader.secret_table("headers") {
        match parse_header_name(&name) {
            Err(what) => reader.wrong("headers", format!("\"{name}\" {what}")),
            Ok(lower) if matches!(lower.as_str(), "host" | "content-length" | "transfer-encoding" | "connection") => {
                reader.wrong("headers", format!("\"{name}\" is set by the connection itself: remove it"));
            }
            Ok(lower) => {
                if headers.insert(lower, value).is_some() {
                    reader.wrong("headers", format!("\"{name}\" is given twice, in different spelling"));
                }
            }
        }
    }
    headers
}

fn read_body(reader: &Reader<'_>, method: &str) -> Body {
    if reader.has("body") && reader.has("body_text") {
        reader.wrong("body_text", "is given beside body: keep one of them");
    }
    if reader.has("content_type") && !reader.has("body_text") {
        reader.wrong("content_type", "belongs to body_text: for another JSON type set headers.content-type");
    }
    let is_bare = matches!(method, "GET" | "DELETE");
    let text = reader.text("body_text");
    let content_type = reader.text("content_type").unwrap_or_else(|| "text/plain; charset=utf-8".to_owned());
    match (reader.structure("body"), text) {
        (Some(body), _) => Body::Json(body),
        (None, Some(text)) if text.is_empty() => Body::Empty,
        (None, Some(template)) => Body::Text { template, content_type },
        (None, None) if is_bare => Body::Empty,
        (None, None) => Body::Lead,
    }
}

fn read_capture(reader: &Reader<'_>) -> BTreeMap<String, String> {
    let capture = reader.text_table("capture");
    for (name, pointer) in &capture {
        if let Err(what) = check_name(name) {
            reader.wrong("capture", format!("\"{name}\" {what}"));
        }
        if let Err(what) = check_pointer(pointer) {
            reader.wrong("capture", format!("{name}: \"{pointer}\" {what}"));
        }
    }
    capture
}

fn read_auth(reader: &Reader<'_>) -> Option<Auth> {
    let kind = reader.choice("kind");
    reader.check_keys(kind.as_deref());
    Some(match kind?.as_str() {
        "bearer" => Auth::Bearer(reader.secret("token").unwrap_or_default()),
        "basic" => Auth::Basic {
            username: reader.text("username").unwrap_or_default(),
            password: reader.secret("password").unwrap_or_default(),
        },
        _ => Auth::Header {
            name: reader.parsed("name", parse_header_name).unwrap_or_default(),
            value: reader.secret("value").unwrap_or_default(),
        },
    })
}

/// Checks a URL as far as it is known before a lead fills it in; says nothing of its content.
pub(super) fn check_url(reader: &Reader<'_>, name: &str, url: &SecretString) {
    let text = url.expose_secret();
    if text.is_empty() {
        return;
    }
    if !text.starts_with("https://") && !text.starts_with("http://") {
        reader.wrong(name, "has to start with https:// or http://");
        return;
    }
    // What stands before the path; a template there is known only when a lead fills it in.
    let origin_end = text.find("://").map_or(0, |at| at + 3);
    let authority = text[origin_end..].split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains("{{") {
        return;
    }
    let Ok(parsed) = Url::parse(&text[..origin_end + authority.len()]) else {
        reader.wrong(name, "is not a URL");
        return;
    };
    if !parsed.username().is_empty() || parsed.password().is_some() {
        reader.wrong(name, "holds a user name or password: give them as auth = { kind = \"basic\", … }");
    }
    reader.show_as(name, format!("{}/***", parsed.origin().ascii_serialization()));
    if parsed.scheme() == "http" && !is_local(&parsed) {
        let path = reader.path_of(name);
        reader.context.warn(format!("{path}: plain http: leads and tokens can be read on the way; use https"));
    }
}

/// Warns of a URL that will always be refused.
pub(super) fn warn_of_private<'u>(reader: &Reader<'_>, mut urls: impl Iterator<Item = &'u SecretString>) {
    let is_private = |url: &SecretString| Url::parse(url.expose_secret()).is_ok_and(|url| is_local(&url));
    if urls.any(is_private) {
        let path = reader.path_of("url");
        reader.context.warn(format!("{path}: a private address, which is refused without allow_private = true"));
    }
}

fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback() || address.is_private() || address.is_link_local(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback() || address.is_unique_local(),
        None => false,
    }
}
