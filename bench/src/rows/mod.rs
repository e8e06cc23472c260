//! `cargo xtask bench rows`: a file of rows into a fake Clay, as fast as it goes and at the rate that Clay allows, with
//! every process alive and with some killed.
//!
//! `claygate send` and two workers run as an operator runs them; the fake counts for itself ([`site`], [`run`]). What was
//! promised is judged from both sides' counts ([`report`]): every row arrives, none twice but for what was under way in a
//! killed worker, submissions are never counted too low, no 429, at least 95 % of the allowed rate, and a `send` that
//! does not grow with its file.

mod report;
mod run;
mod site;

use std::time::Duration;

use anyhow::Context;
use clap::Args;

pub use self::report::Results;
use self::run::Plan;
use self::site::Setup;
use crate::report::Header;
use crate::rig::{Needs, Rig};
use crate::scenarios::Timing;

const WORKERS: usize = 2;
/// Requests in flight of one worker where nothing limits them.
const CONCURRENCY: u32 = 64;
/// Clay allows a burst of two seconds' rows.
const BURST_SECONDS: u32 = 2;
/// What `--quick` sends: unlimited and limited.
const QUICK: (u64, u64) = (20_000, 1_000);

/// What is asked for.
#[derive(Args)]
#[command(after_help = "Examples:\n  cargo xtask bench rows\n  cargo xtask bench rows --quick\n  \
                        cargo xtask bench rows --rows-limited 1200 --rate 10\n\n\
                        Clay allows 10 rows a second with a burst of 20; ten times both by default, so that 10,000 rows take \
                        two minutes and not a quarter of an hour. Fails with 1 where a promise is broken.")]
pub struct Rows {
    /// Rows into a Clay without limits
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(100..=100_000_000))]
    rows: u64,
    /// Rows into a Clay with its limits
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    rows_limited: u64,
    /// Rows per second that the limited one allows, with a burst of twice that
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// A few rows, to see that it works: 20,000 without limits, 1,000 with them
    #[arg(long, conflicts_with_all = ["rows", "rows_limited"])]
    quick: bool,
    /// Print everything that was measured as JSON
    #[arg(long)]
    pub json: bool,
}

impl Rows {
    /// The runs, in the order of the table.
    fn plans(&self) -> [Plan; 4] {
        let (rows, limited) = if self.quick { QUICK } else { (self.rows, self.rows_limited) };
        let flood = Setup { limit: None, concurrency: CONCURRENCY, workers: WORKERS };
        let slow = Setup { limit: Some((self.rate, self.rate * BURST_SECONDS)), concurrency: 8, workers: WORKERS };
        let plan = |name, rows, setup, kills| Plan { name, rows, setup, kills };
        [
            plan("no limits", rows, flood, false),
            plan("no limits, kill -9", rows, flood, true),
            plan("Clay's limits", limited, slow, false),
            plan("Clay's limits, kill -9", limited, slow, true),
        ]
    }

    /// The command that does the same again.
    fn command_line(&self) -> String {
        let rate = self.rate;
        if self.quick {
            return format!("cargo xtask bench rows --quick --rate {rate}");
        }
        format!("cargo xtask bench rows --rows {} --rows-limited {} --rate {rate}", self.rows, self.rows_limited)
    }
}

/// Runs all four.
///
/// # Errors
/// When something does not start, ends by itself, or hangs.
pub async fn run(arguments: &Rows) -> anyhow::Result<Results> {
    let rig = Rig::start(Needs::default(), false).await?;
    let timing = Timing { warm_up: Duration::ZERO, measured: Duration::ZERO, pieces: 1, profile: false, looks: 1 };
    let header = Header::of(&rig, 1, timing)?;
    let mut runs = Vec::new();
    for (number, plan) in arguments.plans().into_iter().enumerate() {
        let folder = rig.run_folder(&format!("rows-{number}"))?;
        let file = folder.join("people.csv");
        site::write_rows(&file, plan.rows)?;
        eprintln!("bench: {}: {} rows", plan.name, plan.rows);
        let outcome = run::run(&rig, &folder, &file, plan).await.with_context(|| plan.name.to_owned())?;
        eprintln!(
            "bench: {}: {:.0}/s stored, {:.0}/s delivered",
            plan.name, outcome.stored_per_second, outcome.delivered_per_second
        );
        std::fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        runs.push(outcome);
    }
    rig.stop().await?;
    Ok(Results { header, command: arguments.command_line(), runs })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        rows: Rows,
    }

    fn read(words: &[&str]) -> Rows {
        Command::try_parse_from([&["rows"], words].concat()).unwrap().rows
    }

    #[test]
    fn the_command_line_repeats_the_run() {
        for words in [&[][..], &["--quick"], &["--rows", "500", "--rows-limited", "100", "--rate", "10"]] {
            let rows = read(words);
            let line = rows.command_line();
            let again = read(&line.split_whitespace().skip(4).collect::<Vec<_>>());
            let sizes = |rows: &Rows| rows.plans().map(|plan| (plan.rows, plan.setup.limit, plan.kills));
            assert_eq!(sizes(&again), sizes(&rows), "{line}");
        }
        assert!(Command::try_parse_from(["rows", "--quick", "--rows", "500"]).is_err());
    }

    #[test]
    fn the_limit_is_clays_scaled_with_its_burst() {
        let limits = read(&["--rate", "10"]).plans().map(|plan| plan.setup.limit);
        assert_eq!(limits, [None, None, Some((10, 20)), Some((10, 20))]);
    }
}
