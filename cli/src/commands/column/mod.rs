//! `claygate column <source>`: what to paste into Clay's HTTP API column, field by field, with the secret.

mod body;

use std::fmt::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use common::config::{Config, Role, Source, Verification};
use secrecy::ExposeSecret;
use serde::Serialize;
use time::OffsetDateTime;

use crate::globals::Globals;
use crate::run_file::RunFile;

/// Clay's own list is 408, 413, 429 and broken connections, once. What is written here replaces it.
const RETRY_ON: &str = "408, 429, 500-599";
const RETRIES: u32 = 5;
const TIMEOUT_SECONDS: u32 = 30;
const EXTRACT: [&str; 4] = ["received", "id", "status", "duplicate"];

/// Print what to paste into Clay for a source, with its secret.
#[derive(Args)]
#[command(after_help = "Examples:\n  claygate column clay\n  claygate column clay --json")]
pub(crate) struct Column {
    /// The source, for example clay.
    source: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Column {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let config = globals.load(Role::Sender)?;
        let source = config.sources.get(&self.source).with_context(|| {
            let names: Vec<&str> = config.sources.keys().map(String::as_str).collect();
            format!("there is no source \"{}\" (there are: {})", self.source, names.join(", "))
        })?;
        let port = RunFile::of_live(&config.data)?.map(|run| run.port);
        let fields = describe_column(&config, source, port, OffsetDateTime::now_utc());
        if self.json {
            super::print_json(&fields)?;
        } else {
            crate::say::text(write_column(&fields));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What the column's form asks for.
#[derive(Debug, Serialize)]
struct ColumnFields {
    source: String,
    method: &'static str,
    /// The URL; none where the public URL is not known yet.
    url: Option<String>,
    /// The path under whatever URL Clay will reach.
    path: String,
    /// Where this machine listens.
    local: SocketAddr,
    /// None where a Clay column can send without one, or cannot prove itself at all (then `problem` says why).
    header: Option<Header>,
    problem: Option<String>,
    body: String,
    retry_on: &'static str,
    retries: u32,
    timeout_seconds: u32,
    extract: [&'static str; 4],
}

#[derive(Debug, Serialize)]
struct Header {
    name: String,
    value: String,
}

/// `running_port`: the port of a running `up`, which may differ from the configured one.
fn describe_column(config: &Config, source: &Source, running_port: Option<u16>, now: OffsetDateTime) -> ColumnFields {
    let mut local = config.ingest.listen;
    if let Some(port) = running_port {
        local.set_port(port);
    }
    if local.ip().is_unspecified() {
        local.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let (header, problem) = match find_header(source, now) {
        Ok(header) => (header, None),
        Err(problem) => (None, Some(problem)),
    };
    let public = config.ingest.public_url.as_ref().map(|url| url.as_str().trim_end_matches('/'));
    ColumnFields {
        source: source.name.clone(),
        method: "POST",
        url: public.map(|url| format!("{url}{}", source.path)),
        path: source.path.clone(),
        local,
        header,
        problem,
        body: body::write_body(source),
        retry_on: RETRY_ON,
        retries: RETRIES,
        timeout_seconds: TIMEOUT_SECONDS,
        extract: EXTRACT,
    }
}

/// The header that a column can send: a static one. `None`: the source asks for nothing.
fn find_header(source: &Source, now: OffsetDateTime) -> Result<Option<Header>, String> {
    let mut expired = false;
    for verification in &source.verify {
        let Verification::Token { header, secrets } = verification else { continue };
        // The one that lasts longest: a column is set up once.
        let lasting = secrets.iter().filter(|secret| !secret.has_expired(now));
        match lasting.max_by_key(|secret| secret.expires_at.map_or((1, now), |end| (0, end))) {
            Some(secret) => {
                let value = secret.value.expose_secret().to_owned();
                return Ok(Some(Header { name: write_header_name(header), value }));
            }
            None => expired = true,
        }
    }
    if source.verify.iter().any(|verification| matches!(verification, Verification::None)) {
        return Ok(None);
    }
    if expired {
        return Err("every secret of this source has expired: add a new one to its verify".to_owned());
    }
    Err(format!(
        "a Clay column cannot prove itself to this source: it cannot sign a body, only send a static header. Let \
         sources.{}.verify be a list and add {{ kind = \"token\", secrets = […] }}",
        source.name
    ))
}

/// `x-clay-signature` as people write it.
fn write_header_name(name: &str) -> String {
    let capital = |part: &str| {
        part.chars().next().map(|c| c.to_ascii_uppercase()).into_iter().chain(part.chars().skip(1)).collect()
    };
    name.split('-').map(capital).collect::<Vec<String>>().join("-")
}

/// The form, top to bottom. Writing to a String cannot fail.
fn write_column(fields: &ColumnFields) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "Set up the column in Clay: Add enrichment → HTTP API. What follows is its form, top to bottom.\n"
    );
    let _ = writeln!(text, "Method\n  {}\n", fields.method);
    write_url(&mut text, fields);
    write_header(&mut text, fields);
    let body = fields.body.replace('\n', "\n  ");
    let _ = writeln!(
        text,
        "Body (JSON)\n  {body}\n\n  Replace each {{{{…}}}}, inside its quotes, by the chip of your column: delete it, type / and choose the \
         column.\n  Typed text such as {{{{ICP Score}}}} or /ICP Score would arrive as just that, and counts as missing. Leave \
         out lines\n  that your table has no column for; add others: what rules do not know is kept.\n"
    );
    let _ = writeln!(
        text,
        "Retry\n  status codes  {}\n  retries       {}\n  A list given here replaces Clay's own, which leaves out 5xx.\n",
        fields.retry_on, fields.retries
    );
    let _ = writeln!(text, "Timeout\n  {} s\n", fields.timeout_seconds);
    let _ = writeln!(
        text,
        "Fields to extract from the answer\n  {}\n  status is accepted, duplicate, spooled or recorded; with id you find the lead \
         again (claygate events show <id>).\n",
        fields.extract.join(", ")
    );
    let _ = writeln!(text, "To send rows again that are the same as before, add ?run=2 to the URL (then ?run=3, …).");
    text
}

fn write_url(text: &mut String, fields: &ColumnFields) {
    if let Some(url) = &fields.url {
        let _ = writeln!(text, "URL\n  {url}\n");
        return;
    }
    let _ = writeln!(
        text,
        "URL\n  https://<your public address>{}\n\n  The public address is not set. Clay has to reach http://{} by HTTPS: by a \
         reverse proxy, or for\n  a trial by a tunnel, for example with one of\n\n    cloudflared tunnel --url http://{}\n    ngrok \
         http {}\n\n  Then say [ingest] public_url = \"https://…\" in claygate.toml, or set CLAYGATE_INGEST__PUBLIC_URL.\n",
        fields.path,
        fields.local,
        fields.local,
        fields.local.port()
    );
}

fn write_header(text: &mut String, fields: &ColumnFields) {
    if let Some(problem) = &fields.problem {
        let _ = writeln!(text, "Header\n  {problem}\n");
        return;
    }
    let Some(header) = &fields.header else {
        let _ = writeln!(text, "Header\n  none: this source accepts anyone (kind = \"none\")\n");
        return;
    };
    let _ = writeln!(
        text,
        "Header\n  {}: {}\n\n  Put it into an account, not into the column: Select account → Add account → HTTP API (Headers). \
         There it is\n  encrypted; headers that stand in the column can be read by everyone who can open the table.\n",
        header.name, header.value
    );
}

#[cfg(test)]
mod tests;
