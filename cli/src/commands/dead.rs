//! `claygate dead`: what was given up, why, and sending it again.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use common::config::Role;
use common::db::dead_letters::{self, DeadFilter, DeadLetter};
use common::db::events::{self, Found};
use common::db::{Database, replay};
use common::ids::DeliveryId;
use time::OffsetDateTime;
use uuid::Uuid;

use super::paging::{self, Shown};
use super::plan::{self, Confirmation};
use super::since::{self, Since};
use crate::globals::{Globals, OpenDatabase};

/// List dead letters, send one again.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate dead list --destination outreach --since 24h")]
pub(crate) struct Dead {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    List(List),
    Replay(Replay),
}

/// What was given up, the latest first: deliveries, and callbacks that could not be routed.
///
/// One page looks at 10,000 deliveries and as many callbacks at most. Where that ends it before it is full, the command
/// says how to go on.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate dead list --reason attempts_used --limit 20")]
struct List {
    /// Only for this destination.
    #[arg(long, value_name = "NAME")]
    destination: Option<String>,
    /// Only for this reason, for example attempts_used, terminal, rule_error.
    #[arg(long)]
    reason: Option<String>,
    /// Only what was given up since then: 90m, 24h, 7d, or a moment like 2030-01-31T00:00:00Z.
    #[arg(long, value_name = "WHEN")]
    since: Option<Since>,
    /// Go on behind this one, as the page before printed it.
    #[arg(long, value_name = "MOMENT/ID", value_parser = since::parse_position)]
    before: Option<(OffsetDateTime, Uuid)>,
    /// Lines of one page, at most 1000.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Print JSON. What --before takes for the page behind is on standard error.
    #[arg(long)]
    json: bool,
}

/// Send a dead letter again: a delivery to its destination, a callback through the rules of now.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate dead replay 0193a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b --yes")]
struct Replay {
    /// The id that `dead list` shows.
    id: Uuid,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Dead {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let open = OpenDatabase::reach(globals).await?;
        let done = match self.action {
            Action::List(list) => list.run(open.database()).await,
            Action::Replay(replay) => replay.run(open.database(), globals).await,
        };
        open.close().await?;
        done
    }
}

impl List {
    async fn run(self, database: &Database) -> anyhow::Result<ExitCode> {
        let filter = DeadFilter {
            destination: self.destination,
            reason: self.reason,
            since: self.since.map(|since| since.0),
            before: self.before,
        };
        let page = dead_letters::list(database, &filter, self.limit).await?;
        let shown = Shown { nothing: "No dead letters.", json: self.json };
        paging::print(&page, shown, since::written_position, print_line)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn print_line(letter: &DeadLetter) {
    let status = letter.last_status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    say!(
        "{}  {}  {:<8} {:<16} {:<20} {} attempts, last {status} {}",
        letter.id,
        since::shown(letter.ended_at),
        letter.kind,
        letter.destination.as_deref().unwrap_or("-"),
        letter.reason,
        letter.attempts,
        letter.last_error.as_deref().unwrap_or_default()
    );
}

impl Replay {
    async fn run(self, database: &Database, globals: &Globals) -> anyhow::Result<ExitCode> {
        if let Some(delivery) = replay::find_delivery(database, self.id).await? {
            let config = globals.load(Role::Tool)?;
            let Some(destination) = config.destinations.get(&delivery.destination) else {
                anyhow::bail!("the destination \"{}\" is not configured any more", delivery.destination);
            };
            say!("The delivery {} ({}) is sent again to:", delivery.id, delivery.state);
            plan::print(&[(delivery.destination.clone(), 1)]);
            if let Some(refused) = self.confirmation.ask()? {
                return Ok(refused);
            }
            let again = replay::replay_delivery(database, DeliveryId(delivery.id), destination.once_per).await?;
            say!("Queued as delivery {again}.");
            return Ok(ExitCode::SUCCESS);
        }
        let Some(Found::Callback(id)) = events::resolve(database, self.id).await? else {
            anyhow::bail!("there is no dead letter {}", self.id);
        };
        say!("Callback {id} is routed again under the rules of now.");
        if let Some(refused) = self.confirmation.ask()? {
            return Ok(refused);
        }
        replay::replay_callback(database, id).await?;
        say!("Queued. `claygate events show {id}` tells what became of it.");
        Ok(ExitCode::SUCCESS)
    }
}
