//! `claygate retention`: removing what the configuration does not keep.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use common::config::{Config, Role};
use common::db::retention::{self, Done, Pace, Run};
use common::db::{Database, migrate};
use common::retention::What;
use indicatif::{ProgressBar, ProgressStyle};

use super::interrupt::stop_on_interrupt;
use super::since;
use crate::globals::{Globals, OpenDatabase};

/// Remove what is older than [retention] keeps it.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate retention run --dry-run")]
pub(crate) struct Retention {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Run(Once),
}

/// Remove at once what the configuration does not keep, as workers do every hour.
///
/// What has not ended is left, whatever its age, and so is a week of bodies or attempts that somebody reads just now; the
/// next run looks at both again. Blocks nothing, and can be interrupted: what was removed by then stays removed.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  claygate retention run --dry-run\n  CLAYGATE_RETENTION__LEADS=365d claygate retention run"
)]
struct Once {
    /// Only say what would be looked at, and how much of it there is.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Retention {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let Action::Run(once) = self.action;
        let config = globals.load(Role::Tool)?;
        let open = OpenDatabase::open(&config).await?;
        if open.is_own() {
            migrate(open.database().settings()).await?;
        }
        let done = once.run(&config, open.database()).await;
        open.close().await?;
        done
    }
}

impl Once {
    async fn run(&self, config: &Config, database: &Database) -> anyhow::Result<ExitCode> {
        let policy = &config.retention;
        if policy.is_empty() && !self.json {
            say!("Everything is kept for ever: [retention] names nothing.");
            return Ok(ExitCode::SUCCESS);
        }
        if self.dry_run {
            self.print(&retention::plan(database.settings(), policy).await?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let (stop, bar) = (stop_on_interrupt()?, progress());
        let run = retention::run(database.settings(), policy, Pace::AtOnce, &stop, |done| {
            bar.set_message(format!("{}: {} removed, {} held back", done.what.as_str(), done.removed, done.held));
        })
        .await;
        bar.finish_and_clear();
        match run? {
            Run::Ended(all) => {
                self.print(&all)?;
                Ok(ExitCode::SUCCESS)
            }
            Run::Stopped(all) => {
                self.print(&all)?;
                bail!("interrupted: the next run goes on")
            }
            Run::Elsewhere => bail!("another process runs it just now, as workers do every hour"),
        }
    }

    fn print(&self, all: &[Done]) -> anyhow::Result<()> {
        if self.json {
            return super::print_json(&all);
        }
        for done in all {
            let until = since::shown(done.until);
            let amount = amount(done.what, done.removed);
            let verb = if self.dry_run { "old enough" } else { "removed" };
            let held = if done.held > 0 {
                format!(", {} held back", self::amount(done.what, done.held))
            } else {
                String::new()
            };
            say!("{:<10} before {until}: {amount} {verb}{held}", done.what.as_str());
        }
        Ok(())
    }
}

fn amount(what: What, n: u64) -> String {
    let (one, many) = match what {
        What::Attempts | What::Bodies => ("week", "weeks"),
        What::Leads => ("lead", "leads"),
        What::Decisions => ("decision", "decisions"),
        What::Rows => ("object", "objects"),
        What::Keys => ("callback or row", "callbacks and rows"),
    };
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A line that moves, if a person watches.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
