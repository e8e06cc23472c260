//! `claygate quota`: what is left of the webhook URLs of Clay tables, and until when.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use common::db::clay_webhooks::{self, Webhook};
use common::db::{Database, clay_usage};
use common::quota::{self, Forecast, Usage};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::since;
use crate::globals::{Globals, OpenDatabase};

/// What is left of the webhook URLs of Clay tables, how fast they are used, and the day on which they run out.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate quota --json")]
pub(crate) struct Quota {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A URL and how long it lasts.
struct Line {
    webhook: Webhook,
    forecast: Forecast,
}

impl Quota {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let open = OpenDatabase::reach(globals).await?;
        let lines = read(open.database()).await;
        open.close().await?;
        let lines = lines?;
        if self.json {
            super::print_json(&lines.iter().map(as_json).collect::<Vec<_>>())?;
        } else {
            print(&lines);
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn read(database: &Database) -> anyhow::Result<Vec<Line>> {
    let lately: BTreeMap<String, clay_usage::Usage> =
        clay_usage::lately(database, quota::DAYS).await?.into_iter().map(|one| (one.webhook.clone(), one)).collect();
    let webhooks = clay_webhooks::list(database).await?;
    Ok(webhooks
        .into_iter()
        .map(|webhook| {
            let known = lately.get(&webhook.webhook);
            let forecast = quota::forecast(&Usage {
                used: webhook.used,
                cap: webhook.cap,
                lately: known.map_or(0, |usage| u64::try_from(usage.n).unwrap_or_default()),
                first_used_at: webhook.first_used_at,
                // Without a pace no moment matters.
                now: known.map_or(OffsetDateTime::UNIX_EPOCH, |usage| usage.now),
            });
            Line { webhook, forecast }
        })
        .collect())
}

fn as_json(Line { webhook, forecast }: &Line) -> Value {
    json!({
        "webhook": webhook.webhook,
        "destination": webhook.destination,
        "workspace": webhook.workspace,
        "configured": webhook.is_configured,
        "used": webhook.used,
        "cap": webhook.cap,
        "left": forecast.left,
        "per_day": (forecast.per_day * 10.0).round() / 10.0,
        "runs_out": forecast.runs_out.map(|day| day.to_string()),
        "state": webhook.state.as_str(),
        "reason": webhook.reason,
        "since": since::shown(webhook.since),
    })
}

fn print(lines: &[Line]) {
    if lines.is_empty() {
        say!("No webhook URL of Clay is known. A worker makes them known when it starts.");
        return;
    }
    say!(
        "{:<16}  {:<20} {:<16} {:>8} {:>8} {:>9}  {:<10}  state",
        "webhook",
        "destination",
        "workspace",
        "used",
        "left",
        "per day",
        "runs out"
    );
    for Line { webhook, forecast } in lines {
        let state = if webhook.is_configured { webhook.state.as_str() } else { "not configured any more" };
        say!(
            "{:<16}  {:<20} {:<16} {:>8} {:>8} {:>9.1}  {:<10}  {state} {}",
            webhook.webhook,
            webhook.destination,
            webhook.workspace.as_deref().unwrap_or_default(),
            webhook.used,
            forecast.left.map_or_else(|| "no cap".to_owned(), |left| left.to_string()),
            forecast.per_day,
            forecast.runs_out.map_or_else(|| "-".to_owned(), |day| day.to_string()),
            webhook.reason.as_deref().unwrap_or_default(),
        );
    }
}
