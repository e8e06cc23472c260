//! `claygate destinations`: which run, which are held and why; pause and resume.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use common::config::{Config, Destination, DestinationKind, Rate, Role};
use common::db::Database;
use common::db::clay_webhooks::{self, Webhook};
use common::db::destination_state::{self, Status};
use common::states::{DestinationState, WebhookState};
use serde_json::{Value, json};

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

/// Send to a destination again, whatever held it or its webhook URLs.
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
        let webhooks = clay_webhooks::list(database).await?;
        let describe = |(name, destination): (&String, &Destination)| {
            let status = held.iter().find(|status| status.destination == *name);
            let webhooks: Vec<&Webhook> =
                webhooks.iter().filter(|one| one.destination == *name && one.is_configured).collect();
            describe(destination, status, &webhooks)
        };
        let lines: Vec<Value> = config.destinations.iter().map(describe).collect();
        if self.json {
            super::print_json(&lines)?;
            return Ok(ExitCode::SUCCESS);
        }
        lines.iter().for_each(print_line);
        Ok(ExitCode::SUCCESS)
    }
}

/// One destination as the list shows it. `webhooks`: its URLs, where it is a table of Clay.
fn describe(destination: &Destination, status: Option<&Status>, webhooks: &[&Webhook]) -> Value {
    let is_running = status.is_none_or(|status| status.state == DestinationState::Running);
    let is_dry = is_running && !webhooks.is_empty() && !webhooks.iter().any(|webhook| webhook.is_usable());
    let is_clay = matches!(destination.kind, DestinationKind::Clay(_));
    let mut line = json!({
        "destination": destination.name,
        "kind": kind(&destination.kind),
        "state": if is_dry { "waiting" } else { status.map_or("running", |status| status.state.as_str()) },
        "reason": status.map(|status| &status.reason),
        "since": status.map(|status| since::shown(status.since)),
        "rate": destination.rate.map(shown_rate),
        "workspace": destination.workspace,
        "webhooks": is_clay.then(|| count_states(webhooks)),
    });
    if is_dry {
        line["reason"] = json!("no webhook URL takes rows any more: add one, or see `claygate quota`");
        line["since"] = json!(webhooks.iter().map(|webhook| webhook.since).max().map(since::shown));
    }
    line
}

fn shown_rate(rate: Rate) -> String {
    format!("{}/s, burst {}", (rate.per_second * 1000.0).round() / 1000.0, rate.burst)
}

/// How many URLs are in each state. One that has reached its cap is full, whether Clay has said so yet or not.
fn count_states(webhooks: &[&Webhook]) -> Value {
    let state = |webhook: &Webhook| match webhook.state {
        WebhookState::Active if !webhook.is_usable() => WebhookState::Full,
        state => state,
    };
    let count = |of: WebhookState| webhooks.iter().filter(|webhook| state(webhook) == of).count();
    Value::Object(WebhookState::ALL.iter().map(|of| (of.as_str().to_owned(), json!(count(*of)))).collect())
}

fn print_line(line: &Value) {
    let text = |key: &str| line[key].as_str().unwrap_or_default();
    say!("{:<20} {:<6} {:<9} {} {}", text("destination"), text("kind"), text("state"), text("since"), text("reason"));
    let Some(states) = line["webhooks"].as_object() else { return };
    let counts: Vec<String> = states
        .iter()
        .filter(|(_, n)| n.as_u64().is_some_and(|n| n > 0))
        .map(|(state, n)| format!("{n} {state}"))
        .collect();
    let counts = if counts.is_empty() { "not seen by a worker yet".to_owned() } else { counts.join(", ") };
    say!("{:<20} workspace {}, {}, webhook URLs: {counts}", "", text("workspace"), text("rate"));
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
            say!("{} is paused; its deliveries wait.", self.name);
        } else {
            say!("{} is held already.", self.name);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Resume {
    async fn run(self, database: &Database) -> anyhow::Result<ExitCode> {
        // The URLs first: a destination that goes on without them would only be held again.
        let revived = clay_webhooks::revive(database, &self.name).await?;
        let resumed = destination_state::resume(database, &self.name).await?;
        match (resumed, revived) {
            (false, 0) => say!("{} was not held.", self.name),
            (_, 0) => say!("{} goes on.", self.name),
            (_, 1) => say!("{} goes on; 1 webhook URL is tried again.", self.name),
            (_, n) => say!("{} goes on; {n} webhook URLs are tried again.", self.name),
        }
        Ok(ExitCode::SUCCESS)
    }
}
