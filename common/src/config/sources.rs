//! `[sources.<name>]`: who may send callbacks, and how that is proven.

use std::collections::BTreeMap;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use super::read::Reader;
use super::schema::{Key, Kind, Preset, Section};
use super::tree::Origin;
use super::values::{check_name, check_pointer, parse_header_name};

/// One source.
#[derive(Clone, Debug)]
pub struct Source {
    /// The source's name, `[a-z][a-z0-9_-]*`.
    pub name: String,
    /// The path it listens on, starting with `/`.
    pub path: String,
    /// The verifications; any one suffices. Empty only in processes that receive nothing (then nothing passes).
    pub verify: Vec<Verification>,
    /// What callback URLs of rows are signed with, where the process sends rows that have one: the secret of `signed-url`
    /// that is accepted the longest.
    pub signing_secret: Option<SecretString>,
    /// How its callbacks are recognised.
    pub idempotency: IdempotencyConfig,
    /// JSON pointers of lead fields whose names differ: field name → pointer.
    pub fields: BTreeMap<String, String>,
    /// Largest body in bytes; `None`: `ingest.max_body`.
    pub max_body_bytes: Option<usize>,
}

/// One way of proving that a callback is the source's.
#[derive(Clone, Debug)]
pub enum Verification {
    /// A static secret in `header` (also accepted as `Authorization: Bearer`).
    Token {
        /// Header name, lower case.
        header: String,
        /// The active secrets.
        secrets: Vec<ActiveSecret>,
    },
    /// HMAC-SHA256 of the raw body in `header`, as hex, `sha256=<hex>` or base64.
    HmacSha256 {
        /// Header name, lower case.
        header: String,
        /// The active secrets.
        secrets: Vec<ActiveSecret>,
    },
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature`; secrets are `whsec_<base64>`.
    StandardWebhooks {
        /// The active secrets.
        secrets: Vec<ActiveSecret>,
    },
    /// The per-row callback URL that claygate itself signed, with its expiry in the query.
    SignedUrl {
        /// The active signing secrets.
        secrets: Vec<ActiveSecret>,
    },
    /// No proof at all; has to be spelled out and warns at every start.
    None,
}

/// A secret that is accepted until it expires.
#[derive(Clone, Debug)]
pub struct ActiveSecret {
    /// The secret; never empty.
    pub value: SecretString,
    /// Not accepted from this moment on.
    pub expires_at: Option<OffsetDateTime>,
}

/// How a source's callbacks are recognised.
#[derive(Clone, Debug, Default)]
pub struct IdempotencyConfig {
    /// JSON pointers whose values together are the key; empty: none.
    pub pointers: Vec<String>,
    /// What a changed body under the same explicit key means.
    pub changed: Changed,
}

/// What a changed body under the same explicit key means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Changed {
    /// A re-enrichment: the next revision, linked and delivered.
    #[default]
    Accept,
    /// Stored and linked, not delivered.
    Record,
    /// Refused with 409 and kept in quarantine.
    Conflict,
}

/// The header that a Clay column sends its secret in.
const HEADER: &str = "X-Clay-Signature";

pub(super) static SOURCE: Section = Section {
    title: "[sources.<name>]",
    doc: "Who may send callbacks. Without any source there is one: `clay` on `/api/clay/enriched`. The name `admin` is \
          taken.",
    keys: &[
        Key::new("path", Kind::Text, Preset::Required, "The path it listens on, unique. Not below `/v1`."),
        Key::new(
            "verify",
            Kind::TableOrTables(&VERIFY),
            Preset::Said("the token `secrets/<name>` of the data folder"),
            "How a callback is proven; of several any one suffices. Left out: the header `X-Clay-Signature` has to hold \
             the secret in `secrets/<name>` of the data folder, which `claygate up` and `claygate init` make (for `clay`: \
             of the variable `CLAY_WEBHOOK_SECRET`, where that is set).",
        ),
        Key::new("idempotency", Kind::Table(&IDEMPOTENCY), Preset::Said(""), ""),
        Key::new(
            "fields",
            Kind::TextTable,
            Preset::Said("none"),
            "JSON pointers of lead fields whose names differ, for example `email = \"/Work Email\"`.",
        ),
        Key::new(
            "max_body",
            Kind::Size { min: 1_000, max: 64 << 20 },
            Preset::Said("`ingest.max_body`"),
            "Largest body of this source.",
        ),
    ],
};

const WITH_SECRETS: &[&str] = &["token", "hmac-sha256", "standard-webhooks", "signed-url"];

pub(super) static VERIFY: Section = Section {
    title: "[sources.<name>.verify]",
    doc: "One table, or a list of them (`verify = [{ … }, { … }]`).",
    keys: &[
        Key::new(
            "kind",
            Kind::OneOf(&["token", "hmac-sha256", "standard-webhooks", "signed-url", "none"]),
            Preset::Required,
            "`token`: a static secret in a header, which is what a Clay column can send. `hmac-sha256`: a signature of \
             the raw body as hex, `sha256=<hex>` or base64. `standard-webhooks`: `webhook-id`, `-timestamp` and \
             `-signature`; secrets are `whsec_<base64>`. `signed-url`: a callback URL that claygate signed. `none`: \
             anyone may send; warns at every start.",
        ),
        Key::new("header", Kind::Text, Preset::Is(HEADER), "The header that holds the secret or the signature.")
            .only(&["token", "hmac-sha256"]),
        Key::new("secrets", Kind::Secrets, Preset::Required, "The secrets that are accepted.").only(WITH_SECRETS),
    ],
};

pub(super) static IDEMPOTENCY: Section = Section {
    title: "[sources.<name>.idempotency]",
    doc: "How a callback that comes again is recognised. An `Idempotency-Key` or `webhook-id` header comes first, then \
          the pointers, then the content of the body.",
    keys: &[
        Key::new(
            "pointers",
            Kind::Texts,
            Preset::Said("none"),
            "JSON pointers whose values, all of them together, are the key, for example `[\"/claygate_id\"]`.",
        ),
        Key::new(
            "changed",
            Kind::OneOf(&["accept", "record", "conflict"]),
            Preset::Is("accept"),
            "What a changed body under the same explicit key means. `accept`: the next revision, delivered again. \
             `record`: stored, not delivered. `conflict`: answered 409, kept in quarantine.",
        ),
    ],
};

/// Reads one source; `data` holds the secrets that claygate makes itself. `signs`: URLs are signed with its secret.
pub(super) fn read_source(name: &str, reader: &Reader<'_>, data: &Path, signs: bool) -> Source {
    reader.check_keys(None);
    let path = reader.parsed("path", |text| check_path(text).map(|()| text.to_owned())).unwrap_or_default();
    let verify = if reader.has("verify") {
        check_source_name(name, reader);
        reader.tables("verify").iter().map(|one| read_verification(name, one, signs)).collect::<Vec<_>>()
    } else if check_source_name(name, reader) {
        vec![read_default_verification(name, reader, data)]
    } else {
        // No secret of an unusable name is looked for.
        vec![Verification::None]
    };
    if verify.is_empty() {
        reader.wrong("verify", "is empty: name a verification, or kind = \"none\" if anyone may send");
    }
    let signing_secret = verify.iter().filter(|_| signs).find_map(signing_secret);
    Source {
        name: name.to_owned(),
        path,
        signing_secret,
        verify: if reader.strict { verify } else { Vec::new() },
        idempotency: read_idempotency(&reader.table("idempotency")),
        fields: read_fields(reader),
        max_body_bytes: reader.size("max_body").map(|bytes| bytes as usize),
    }
}

fn check_source_name(name: &str, reader: &Reader<'_>) -> bool {
    let checked = match name {
        // Its secret would be the console's token.
        "admin" => Err("is a taken name: choose another".to_owned()),
        _ => check_name(name),
    };
    checked.map_err(|what| reader.context.problem(reader.path(), String::new(), format!("\"{name}\" {what}"))).is_ok()
}

/// Paths stand in a router's pattern and in URLs that people paste: plain characters only.
fn check_path(path: &str) -> Result<(), String> {
    let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/".contains(&b));
    let segments_are_real = path.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | ".."));
    if !path.starts_with('/') || !plain || !segments_are_real || path.len() > 256 {
        return Err("is not a usable path: start with /, then segments of a-z, 0-9, -, ., _ or ~, for example \
                    \"/api/clay/enriched\""
            .to_owned());
    }
    if path == "/v1" || path.starts_with("/v1/") {
        return Err("is taken: /v1 belongs to claygate's own interface (/v1/rows/…)".to_owned());
    }
    Ok(())
}

/// The secret that a new URL is signed with: of those that are accepted the longest the last, which a rotation added.
fn signing_secret(verification: &Verification) -> Option<SecretString> {
    let Verification::SignedUrl { secrets } = verification else { return None };
    let usable = secrets.iter().filter(|secret| !secret.value.expose_secret().is_empty());
    let longest = usable.max_by_key(|secret| secret.expires_at.map_or(i64::MAX, OffsetDateTime::unix_timestamp));
    longest.map(|secret| secret.value.clone())
}

fn read_verification(source: &str, reader: &Reader<'_>, signs: bool) -> Verification {
    let kind = reader.choice("kind");
    reader.check_keys(kind.as_deref());
    let Some(kind) = kind else { return Verification::None };
    let strict = reader.strict || (signs && kind == "signed-url");
    let reader = &reader.clone().with_strict(strict);
    if kind == "none" {
        if reader.strict {
            reader.context.warn(format!(
                "{}: kind = \"none\": anyone who knows the URL can send leads as `{source}`",
                reader.path()
            ));
        }
        return Verification::None;
    }
    let header = match kind.as_str() {
        "token" | "hmac-sha256" => reader.parsed("header", parse_header_name).unwrap_or_default(),
        _ => String::new(),
    };
    let secrets = reader.secrets("secrets");
    check_secrets(reader, &kind, &secrets);
    match kind.as_str() {
        "token" => Verification::Token { header, secrets },
        "hmac-sha256" => Verification::HmacSha256 { header, secrets },
        "standard-webhooks" => Verification::StandardWebhooks { secrets },
        _ => Verification::SignedUrl { secrets },
    }
}

fn check_secrets(reader: &Reader<'_>, kind: &str, secrets: &[ActiveSecret]) {
    for secret in secrets.iter().map(|secret| secret.value.expose_secret()).filter(|secret| !secret.is_empty()) {
        if kind == "standard-webhooks" {
            if !is_webhook_secret(secret) {
                reader.wrong("secrets", "holds one that is not whsec_ and the base64 of at least 16 bytes");
            }
        } else if kind == "token" && secret.trim() != secret {
            reader.wrong("secrets", "holds one that starts or ends with a space, which no header can: remove it");
        } else if secret.len() < 16 {
            reader.context.warn(format!("{}: a secret is shorter than 16 characters: use a longer one", reader.path()));
        }
    }
}

/// Whether `secret` is one of the Standard Webhooks: `whsec_` and the base64 of at least 16 bytes.
pub(super) fn is_webhook_secret(secret: &str) -> bool {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let decoded = secret.strip_prefix("whsec_").and_then(|encoded| STANDARD.decode(encoded).ok());
    decoded.is_some_and(|bytes| bytes.len() >= 16)
}

fn read_default_verification(name: &str, reader: &Reader<'_>, data: &Path) -> Verification {
    let variable = reader.context.environment.get("CLAY_WEBHOOK_SECRET").filter(|_| name == "clay");
    let (value, from) = match variable.filter(|secret| !secret.trim().is_empty()) {
        Some(secret) => (Some(SecretString::from(secret)), "${CLAY_WEBHOOK_SECRET}".to_owned()),
        None => {
            let file = data.join("secrets").join(name);
            (read_made_secret(reader, &file), file.display().to_string())
        }
    };
    let shown = serde_json::json!({ "kind": "token", "header": HEADER, "secrets": [format!("*** ({from})")] });
    reader.note("verify", shown, &Origin::Default);
    let secret = ActiveSecret { value: value.unwrap_or_default(), expires_at: None };
    Verification::Token { header: HEADER.to_ascii_lowercase(), secrets: vec![secret] }
}

fn read_made_secret(reader: &Reader<'_>, file: &Path) -> Option<SecretString> {
    if reader.strict && !file.exists() {
        let file = file.display();
        if reader.context.secrets_are_made {
            reader.context.warn(format!("{}: `claygate up` will make the secret file {file}", reader.path()));
            return None;
        }
        reader.wrong(
            "verify",
            format!("the secret file {file} does not exist: run `claygate init`, or say verify = {{ … }}"),
        );
        return None;
    }
    reader.made_secret("verify", file)
}

fn read_idempotency(reader: &Reader<'_>) -> IdempotencyConfig {
    let pointers = reader.parsed_list("pointers", |text| check_pointer(text).map(|()| text.to_owned()));
    let changed = match reader.choice("changed").as_deref() {
        Some("record") => Changed::Record,
        Some("conflict") => Changed::Conflict,
        _ => Changed::Accept,
    };
    IdempotencyConfig { pointers: pointers.unwrap_or_default(), changed }
}

fn read_fields(reader: &Reader<'_>) -> BTreeMap<String, String> {
    // Those who receive and those who route read leads by them.
    let fields = reader.clone().with_strict(true).text_table("fields");
    for (field, pointer) in &fields {
        if let Err(what) = check_name(field) {
            reader.wrong("fields", format!("\"{field}\" {what}"));
        }
        if let Err(what) = check_pointer(pointer) {
            reader.wrong("fields", format!("{field}: \"{pointer}\" {what}"));
        }
    }
    fields
}

impl Source {
    /// What is no longer accepted at `now`: a warning for each secret that has expired.
    pub fn warn_of_expired(&self, now: OffsetDateTime) -> Vec<String> {
        let mut warnings = Vec::new();
        for verification in &self.verify {
            let expired = verification.secrets().iter().filter(|secret| secret.has_expired(now)).count();
            let (all, kind) = (verification.secrets().len(), verification.kind());
            if expired > 0 {
                let rest = if expired == all { "none is left and nothing is accepted" } else { "remove them" };
                warnings.push(format!(
                    "sources.{}.verify: {expired} of {all} secrets of kind \"{kind}\" have expired: {rest}",
                    self.name
                ));
            }
        }
        warnings
    }
}

impl ActiveSecret {
    /// Whether it is no longer accepted at `now`.
    pub fn has_expired(&self, now: OffsetDateTime) -> bool {
        self.expires_at.is_some_and(|end| now >= end)
    }
}

impl Verification {
    /// The kind as it is written in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::HmacSha256 { .. } => "hmac-sha256",
            Self::StandardWebhooks { .. } => "standard-webhooks",
            Self::SignedUrl { .. } => "signed-url",
            Self::None => "none",
        }
    }

    /// The secrets that it accepts, until they expire.
    pub fn secrets(&self) -> &[ActiveSecret] {
        match self {
            Self::Token { secrets, .. }
            | Self::HmacSha256 { secrets, .. }
            | Self::StandardWebhooks { secrets }
            | Self::SignedUrl { secrets } => secrets,
            Self::None => &[],
        }
    }
}
