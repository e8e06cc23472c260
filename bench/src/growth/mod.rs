//! `cargo xtask bench growth`: what a site costs when ten thousand, a million and ten million callbacks are stored.
//!
//! Each size is a database of its own, filled once with four weeks of everything that happens ([`fill`]). Then the sizes
//! take turns over several rounds: lists, the books, the intake and `/metrics` ([`site`]). Ratios are taken within a round
//! ([`report`]). What a caller waits for must not grow with what is stored: the run fails where the intake or `/metrics`
//! lose more than a tenth.

mod fill;
mod report;
mod site;
mod sizes;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;

use self::report::{Filled, Results};
use self::site::Site;
use self::sizes::Size;
use crate::report::Header;
use crate::rig::{Needs, Rig};
use crate::scenarios::Timing;

/// What the server's own files take beside the tables: WAL, temporary files of `verify` and of index builds.
const BYTES_BESIDE: u64 = 5_000_000_000;

/// What is asked for.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask bench growth\n  cargo xtask bench growth --sizes 10k,1m --rounds 1\n\n\
                        Ten million callbacks take some 30 GB in the folder for temporary files (TMPDIR), and minutes to \
                        make. Fails with 1 where the intake or /metrics lose more than a tenth."
)]
pub struct Growth {
    /// Callbacks that are stored before, each a site of its own
    #[arg(long, value_delimiter = ',', default_value = "10k,1m,10m", value_name = "N,…")]
    sizes: Vec<Size>,
    /// How often each site has its turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of load on the intake in each turn, after a warm-up of a third of it; shorter than the time between two
    /// checkpoints of Postgres it tells where between them it fell
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Print everything that was measured, round by round, as JSON
    #[arg(long)]
    pub json: bool,
    /// Write the table into docs/growth.md
    #[arg(long)]
    pub write: bool,
}

/// What a run gave.
pub struct Outcome(Results);

impl Outcome {
    /// The table and what stands around it, in Markdown.
    pub fn to_text(&self) -> String {
        self.0.to_text()
    }

    /// Every number, as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        self.0.to_json()
    }

    /// What grows that must not.
    pub fn broken(&self) -> Vec<String> {
        self.0.broken()
    }
}

/// Fills, asks, and removes again.
///
/// # Errors
/// When there is no room, something does not start, an answer is missing, or the books do not balance.
pub async fn run(arguments: &Growth) -> anyhow::Result<Outcome> {
    let mut sizes = arguments.sizes.clone();
    sizes.sort_unstable();
    sizes.dedup();
    let measured = Duration::from_secs(arguments.seconds);
    let timing = Timing { warm_up: measured / 3, measured, pieces: 1, profile: false, looks: 1 };
    let rig = Rig::start(Needs::default(), false).await?;
    let folder = rig.run_folder("growth")?;
    check_room(&folder, &sizes)?;
    let header = Header::of(&rig, arguments.rounds, timing)?;

    let mut sites = Vec::new();
    for size in sizes {
        sites.push(Site::make(&rig, size).await?);
    }
    let mut rounds = Vec::new();
    for round in 1..=arguments.rounds {
        let mut turns = Vec::new();
        for site in &mut sites {
            let folder = rig.run_folder(&format!("growth-{}-{round}", site.size))?;
            let turn = site
                .ask(&rig, &folder, timing, round == arguments.rounds)
                .await
                .with_context(|| format!("asking {}", site.size))?;
            eprintln!(
                "bench: round {round} of {}, {}: {:.0} callbacks/s, {:.0} scrapes/s, books in {:.1} s",
                arguments.rounds,
                site.size,
                turn.answers.get("intake").copied().unwrap_or_default(),
                turn.answers.get("metrics").copied().unwrap_or_default(),
                turn.answers.get("verify").copied().unwrap_or_default(),
            );
            turns.push(turn);
        }
        rounds.push(turns);
    }
    let filled =
        sites.iter().map(|site| Filled { size: site.size, seconds: site.filled_in.as_secs_f64(), bytes: site.bytes });
    let results = Results { header, command: command_line(arguments), sites: filled.collect(), rounds };
    for site in sites {
        site.remove(&rig).await?;
    }
    rig.stop().await?;
    Ok(Outcome(results))
}

/// The command that gives the same again.
fn command_line(arguments: &Growth) -> String {
    let sizes: Vec<String> = arguments.sizes.iter().map(Size::to_string).collect();
    format!(
        "cargo xtask bench growth --sizes {} --rounds {} --seconds {}",
        sizes.join(","),
        arguments.rounds,
        arguments.seconds
    )
}

/// Bytes that `sizes` need on disk.
fn room(sizes: &[Size]) -> u64 {
    sizes.iter().fold(BYTES_BESIDE, |sum, size| sum.saturating_add(size.0.saturating_mul(fill::BYTES_EACH)))
}

/// Says what is needed, and fails early where it is not there.
fn check_room(folder: &Path, sizes: &[Size]) -> anyhow::Result<()> {
    let disk = rustix::fs::statvfs(folder).context("looking for room on the disk")?;
    let (free, needed) = (disk.f_bavail.saturating_mul(disk.f_frsize), room(sizes));
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    eprintln!(
        "bench: needs {:.0} GB of {:.0} GB that are free for temporary files",
        gigabytes(needed),
        gigabytes(free)
    );
    ensure!(
        free >= needed,
        "there is no room for that: set TMPDIR to a folder with {:.0} GB free, or choose smaller --sizes",
        gigabytes(needed)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        growth: Growth,
    }

    #[test]
    fn the_command_line_repeats_the_run() {
        let default = Command::try_parse_from(["growth"]).unwrap().growth;
        assert_eq!(default.sizes, [Size(10_000), Size(1_000_000), Size(10_000_000)]);
        let line = command_line(&default);
        let words = line.split_whitespace().skip(3);
        let again = Command::try_parse_from(words).unwrap().growth;
        assert_eq!((again.sizes, again.rounds, again.seconds), (default.sizes, default.rounds, default.seconds));
        assert!(Command::try_parse_from(["growth", "--sizes", "10k,0"]).is_err());
    }

    #[test]
    fn every_site_needs_its_room() {
        let one = room(&[Size(10_000_000)]);
        assert!(one > 30_000_000_000);
        assert_eq!(room(&[Size(10_000_000), Size(10_000_000)]), 2 * one - BYTES_BESIDE);
        assert_eq!(room(&[Size(u64::MAX)]), u64::MAX);
    }
}
