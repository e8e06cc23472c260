//! `claygate verify`: whether the books balance.

mod report;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use common::db::books::{self, Scope, Verdict, spools};
use indicatif::{ProgressBar, ProgressStyle};

use super::since::{Since, parse_limit};
use crate::globals::{Globals, OpenDatabase};

/// Ids that one difference names.
const NAMED_MAX: u16 = 20;

/// Check that everything that came in is where it has to be, and that nothing is there twice.
///
/// Holds what the intake counted against the callbacks that are stored, every callback against its decision, its
/// deliveries and their attempts, and looks for work that nobody would ever do; all of it at one moment. A difference
/// names the rows. The books are incomplete while an intake's spool has not been heard of: it may hold callbacks that
/// were answered and are not in the database yet.
///
/// Exits with 0 if the books balance and are complete, else with 1.
#[derive(Args)]
#[command(after_help = "Examples:\n  claygate verify --since 2d\n  \
                        claygate verify --forget 0193a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b")]
pub(crate) struct Verify {
    /// Only what came in since then, by whole hours: 90m, 24h, 7d, or a moment like 2030-01-31T00:00:00Z.
    #[arg(long, value_name = "WHEN", default_value = "30d")]
    since: Since,
    /// Give up after so long: 90s, 10m, 1h. Vacuum has to wait meanwhile.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_limit)]
    limit: Duration,
    /// Take note that nothing will come out of this spool any more: its disk is lost, or it was emptied by hand.
    #[arg(long, value_name = "INSTANCE", conflicts_with_all = ["since", "limit", "json"])]
    forget: Option<String>,
    /// Print JSON, with every hour.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let open = OpenDatabase::reach(globals).await?;
        let done = match &self.forget {
            Some(instance) => forget(&open, instance).await,
            None => self.verify(&open).await,
        };
        open.close().await?;
        done
    }

    async fn verify(&self, open: &OpenDatabase) -> anyhow::Result<ExitCode> {
        let bar = progress();
        let scope = Scope { since: self.since.0, limit: self.limit, named_max: NAMED_MAX };
        let read = books::verify(open.database().settings(), scope, |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        })
        .await;
        bar.finish_and_clear();
        let report = read?;
        if self.json {
            super::print_json(&report)?;
        } else {
            crate::say::text(report::Text(&report));
        }
        Ok(if report.verdict == Verdict::Balanced { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

async fn forget(open: &OpenDatabase, instance: &str) -> anyhow::Result<ExitCode> {
    if !spools::forget(open.database(), instance).await? {
        bail!("no spool {instance} is known; `claygate verify --json` lists them");
    }
    say!("Forgotten. It is known again as soon as an intake runs on it.");
    Ok(ExitCode::SUCCESS)
}

/// A progress bar, if a person watches.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style).with_message("reading the books")
}
