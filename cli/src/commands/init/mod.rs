//! `claygate init`: a configuration file to start from, and the secrets. Never overwrites anything.

mod services;

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use common::config::{Environment, make_secret, missing_secrets};
use serde_json::json;

use crate::globals::Globals;

/// The file that is written where there is none.
pub(crate) const TEMPLATE: &str = include_str!("template.toml");

/// Write a configuration file to start from and make the secrets; what is there is left alone.
///
/// With --services also the passwords of a Postgres and a RabbitMQ that are run beside claygate, as docker-compose.yml
/// does: secrets/postgres.password and secrets/rabbitmq.password in the data folder for claygate, and for the servers,
/// which read them when they start for the first time, DIR/postgres/password and DIR/rabbitmq/90-claygate.conf. Any user
/// can read these two: give each server its own folder and nobody else either.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  claygate init\n  claygate init --config /etc/claygate/claygate.toml --data /var/lib/claygate\n  \
                  claygate init --services /services"
)]
pub(crate) struct Init {
    /// Make the passwords of the servers beside claygate, in folders here.
    #[arg(long, value_name = "DIR")]
    services: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Init {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let environment = Environment::from_process();
        let locations = globals.locations(&environment)?;
        let mut made: Vec<PathBuf> = Vec::new();
        if write_template(&locations.file).with_context(|| format!("writing {}", locations.file.display()))? {
            made.push(locations.file.clone());
        }
        for secret in missing_secrets(&locations, &environment)? {
            if make_secret(&secret).with_context(|| format!("making the secret {}", secret.display()))? {
                made.push(secret);
            }
        }
        if let Some(folder) = &self.services {
            made.extend(services::make_passwords(&locations, folder)?);
        }
        if self.json {
            super::print_json(&json!({ "file": locations.file, "data": locations.data, "made": made }))?;
            return Ok(ExitCode::SUCCESS);
        }
        for file in &made {
            say!("made {}", file.display());
        }
        if made.is_empty() {
            say!("nothing to do: {} and its secrets are there", locations.file.display());
        } else {
            let start =
                if self.services.is_some() { "start the servers, `ingest` and `worker`" } else { "`claygate up`" };
            say!("next: {start}, then `claygate column clay` shows what to paste into Clay");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes the template unless there is a file; answers whether it did.
fn write_template(file: &Path) -> std::io::Result<bool> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match OpenOptions::new().write(true).create_new(true).open(file) {
        Ok(mut opened) => {
            opened.write_all(TEMPLATE.as_bytes())?;
            opened.sync_all()?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::os::unix::fs::PermissionsExt;

    use common::config::{Config, Locations, Role};

    use super::*;

    fn globals(folder: &Path) -> Globals {
        Globals { config: Some(folder.join("etc/claygate.toml")), data: Some(folder.join("data")) }
    }

    #[tokio::test]
    async fn what_init_writes_can_be_used_at_once_and_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let globals = globals(folder.path());
        Init { services: None, json: false }.run(&globals).await.unwrap();

        let environment = Environment::default();
        let locations =
            Locations::resolve(globals.config.as_deref(), globals.data.as_deref(), &environment, Path::new("/"));
        let config = Config::load(Role::Up, &locations, &environment).unwrap();
        assert_eq!(config.warnings, [] as [&str; 0]);
        assert_eq!(config.rules.len(), 3);
        assert!(config.admin.token.is_some());
        for name in ["clay", "admin"] {
            let mode = locations.secret_file(name).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }

        let secret = std::fs::read(locations.secret_file("clay")).unwrap();
        std::fs::write(&locations.file, "# mine\n").unwrap();
        Init { services: None, json: true }.run(&globals).await.unwrap();
        assert_eq!(std::fs::read_to_string(&locations.file).unwrap(), "# mine\n");
        assert_eq!(std::fs::read(locations.secret_file("clay")).unwrap(), secret);
    }

    #[test]
    fn what_the_template_leaves_out_by_a_comment_is_right_too() {
        // The alternatives of one key stand below each other.
        let uncommented: String = TEMPLATE
            .replace("kind = \"log\"\n#kind", "#kind")
            .lines()
            .map(|line| line.strip_prefix('#').filter(|line| !line.starts_with(' ')).unwrap_or(line))
            .fold(String::new(), |text, line| text + line + "\n");
        let variables = [
            ("CLAY_WEBHOOK_SECRET", "0123456789abcdef"),
            ("SLACK_WEBHOOK_URL", "https://hooks.slack.example.com/x"),
            ("OUTREACH_TOKEN", "token"),
        ];
        let config = Config::from_toml(Role::Up, &uncommented, &variables.into_iter().collect());
        let config = config.unwrap_or_else(|error| panic!("{error}\n{uncommented}"));
        assert!(config.ingest.public_url.is_some());
    }
}
