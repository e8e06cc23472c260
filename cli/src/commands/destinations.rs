//! `claygate destinations`: which run, which are held and why; pause and resume.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use common::config::{Config, DestinationKind, Role};
use common::db::{Database, destination_state};
use serde_json::json;

use super::since;
use crate::globals::{Globals, OpenDatabase};

/// List destinations, pause one, let one go on.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate destinations list")]
pub(crate) struct Destinations {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    List(List),
    Pause(Pause),
    Resume(Resume),
}

/// Every configured destination, whether it is sent to, and why not.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate destinations list --json")]
struct List {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Stop sending to a destination; its deliveries wait and use up no attempts.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate destinations pause outreach --reason \"new campaign on Monday\"")]
struct Pause {
    /// The destination's name.
    name: String,
    /// Why, for whoever looks next.
    #[arg(long, default_value = "paused by an operator")]
    reason: String,
}

/// Send to a destination again, whatever held it.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate destinations resume outreach")]
struct Resume {
    /// The destination's name.
    name: String,
}

impl Destinations {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let config = globals.load(Role::Tool)?;
        let open = OpenDatabase::reach(globals).await?;
        let done = match self.action {
            Action::List(list) => list.run(&config, open.database()).await,
            Action::Pause(pause) => pause.run(&config, open.database()).await,
            Action::Resume(resume) => resume.run(open.database()).await,
        };
        open.close().await?;
        done
    }
}

impl List {
    async fn run(self, config: &Config, database: &Database) -> anyhow::Result<ExitCode> {
        let held = destination_state::list(database).await?;
        let mut lines = Vec::new();
        for (name, destination) in &config.destinations {
            let status = held.iter().find(|status| status.destination == *name);
            lines.push(json!({
                "destination": name,
                "kind": kind(&destination.kind),
                "state": status.map_or("running", |status| status.state.as_str()),
                "reason": status.map(|status| &status.reason),
                "since": status.map(|status| since::shown(status.since)),
            }));
        }
        if self.json {
            super::print_json(&lines)?;
            return Ok(ExitCode::SUCCESS);
        }
        let text = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        for line in &lines {
            println!(
                "{:<20} {:<6} {:<9} {} {}",
                text(line, "destination"),
                text(line, "kind"),
                text(line, "state"),
                text(line, "since"),
                text(line, "reason")
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn kind(kind: &DestinationKind) -> &'static str {
    match kind {
        DestinationKind::Http(_) => "http",
        DestinationKind::Slack(_) => "slack",
        DestinationKind::Clay(_) => "clay",
        DestinationKind::Log => "log",
    }
}

impl Pause {
    async fn run(self, config: &Config, database: &Database) -> anyhow::Result<ExitCode> {
        if !config.destinations.contains_key(&self.name) {
            anyhow::bail!("no destination is named \"{}\"; `claygate destinations list` shows them", self.name);
        }
        if destination_state::pause(database, &self.name, &self.reason).await? {
            println!("{} is paused; its deliveries wait.", self.name);
        } else {
            println!("{} is held already.", self.name);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Resume {
    async fn run(self, database: &Database) -> anyhow::Result<ExitCode> {
        if destination_state::resume(database, &self.name).await? {
            println!("{} goes on.", self.name);
        } else {
            println!("{} was not held.", self.name);
        }
        Ok(ExitCode::SUCCESS)
    }
}
