//! What `up` prints when it is ready: where it listens, and the next three things to type. No secret is printed.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use common::config::{Config, Source, Verification};

use crate::run_file::RunFile;
use crate::shell::quote;

const SAMPLE: &str = r#"{"email":"ada@example.com","first_name":"Ada","company_name":"Example","icp_score":"92"}"#;

/// Prints it.
pub(super) fn print(config: &Config, run: &RunFile) {
    say!("{}", text(config, run));
}

fn text(config: &Config, run: &RunFile) -> String {
    let local = SocketAddr::new(reachable(config.ingest.listen.ip()), run.port);
    let admin = SocketAddr::new(reachable(config.admin.listen.ip()), run.admin_port);
    let mut text = String::from("\nclaygate is running.\n");
    for (name, source) in &config.sources {
        let base = match &config.ingest.public_url {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None => format!("http://{local}"),
        };
        let _ = writeln!(text, "\n  {name:<10} POST {base}{}", source.path);
    }
    let _ = writeln!(text, "  {:<10} http://{admin}/readyz, /metrics", "admin");
    if let Some(sample) = sample(config, local) {
        let _ = writeln!(text, "\nSend a sample lead, from a second terminal:\n\n{sample}");
    }
    if let Some(name) = config.sources.keys().next() {
        let _ = writeln!(text, "\nWhat to paste into Clay:    claygate column {name}");
    }
    text.push_str("A few hundred sample leads: claygate demo\n");
    if config.ingest.public_url.is_none() {
        let _ = write!(
            text,
            "\nClay needs an HTTPS URL. Open a tunnel to this port, for example with one of\n\n    \
             cloudflared tunnel --url http://{local}\n    ngrok http {}\n\n\
             and put its address into claygate.toml ([ingest] public_url = \"https://…\"), or into \
             CLAYGATE_INGEST__PUBLIC_URL.\n",
            run.port
        );
    }
    text.push_str("\nCtrl-C stops it.\n");
    text
}

/// A curl line that reads the secret from its file, for the first source that has one.
fn sample(config: &Config, local: SocketAddr) -> Option<String> {
    let (header, source) = config.sources.values().find_map(|source| Some((token_header(source)?, source)))?;
    let file = config.data.join("secrets").join(&source.name);
    let secret = match file.exists() {
        true => format!("$(cat {})", quote(&shorten(&file))),
        false => "<the secret of this source>".to_owned(),
    };
    Some(format!(
        "curl -sS http://{local}{} \\\n  -H \"{header}: {secret}\" -H 'Content-Type: application/json' \\\n  -d '{SAMPLE}'",
        source.path
    ))
}

/// The header of a source's static secret, in the spelling people know.
fn token_header(source: &Source) -> Option<String> {
    let header = source.verify.iter().find_map(|verification| match verification {
        Verification::Token { header, .. } => Some(header),
        _ => None,
    })?;
    let words = header.split('-').map(|word| match word.split_at_checked(1) {
        Some((first, rest)) => format!("{}{rest}", first.to_uppercase()),
        None => String::new(),
    });
    Some(words.collect::<Vec<_>>().join("-"))
}

/// The path as one would type it here.
fn shorten(file: &Path) -> String {
    let here = std::env::current_dir().ok();
    here.and_then(|here| file.strip_prefix(here).ok()).unwrap_or(file).display().to_string()
}

fn reachable(ip: IpAddr) -> IpAddr {
    if ip.is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { ip }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use common::config::{Environment, Locations, Role};

    use super::*;

    fn config(public_url: Option<&str>) -> Config {
        let secret = [("CLAY_WEBHOOK_SECRET", "swordfish")];
        let url = public_url.map(|url| ("CLAYGATE_INGEST__PUBLIC_URL", url));
        let environment: Environment = secret.into_iter().chain(url).collect();
        let folder = tempfile::tempdir().unwrap();
        let locations = Locations::resolve(None, None, &environment, folder.path());
        std::fs::create_dir_all(locations.data.join("secrets")).unwrap();
        std::fs::write(locations.secret_file("admin"), "x").unwrap();
        Config::load(Role::Up, &locations, &environment).unwrap()
    }

    #[test]
    fn the_banner_says_what_to_do_next_and_shows_no_secret() {
        let run = RunFile { pid: 1, port: 18080, admin_port: 18081, postgres: None };
        let text = text(&config(None), &run);
        for part in ["http://127.0.0.1:18080/api/clay/enriched", "X-Clay-Signature", "claygate column clay", "tunnel"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
        assert!(!text.contains("swordfish"));
    }

    #[test]
    fn no_tunnel_is_needed_with_a_public_url() {
        let run = RunFile { pid: 1, port: 18080, admin_port: 18081, postgres: None };
        let text = text(&config(Some("https://leads.example.com")), &run);
        assert!(text.contains("POST https://leads.example.com/api/clay/enriched"), "{text}");
        assert!(!text.contains("tunnel"));
    }
}
