//! `cargo xtask crash`: the tests that kill everything, once as in the test command, or again and again in release.

use std::ffi::OsString;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;

use crate::shell::{self, cargo};
use crate::{machine, test};

/// What the tests take from here.
const SEED_VARIABLE: &str = "CLAYGATE_CRASH_SEED";
const MINUTES_VARIABLE: &str = "CLAYGATE_CRASH_MINUTES";
/// The crash matrix, the kills of `claygate up`, and the named crash points; with nextest, and without.
const TESTS: [&str; 4] =
    ["--success-output", "immediate", "-E", "package(e2e) & test(/^(matrix|crash|crash_points)::/)"];
const TESTS_WITHOUT_NEXTEST: [&str; 5] = ["--", "--nocapture", "matrix::", "crash::", "crash_points::"];
const EVERYTHING: &str = "matrix::every_fault_in_random_order_loses_nothing";
/// The tests, with the programs that they start: built together, these have the crash points.
const PACKAGES: [&str; 8] = ["--package", "cli", "--package", "ingest", "--package", "worker", "--package", "e2e"];

#[derive(Args)]
pub(crate) struct Crash {
    /// Release builds, stops of 30 s, every fault in random order, again and again until the time is over.
    #[arg(long)]
    full: bool,
    /// The order of the faults, as an earlier run printed it.
    #[arg(long, value_name = "N", requires = "full")]
    seed: Option<u64>,
    /// How long; the fault that is under way then is finished.
    #[arg(long, value_name = "M", requires = "full", default_value_t = 20)]
    minutes: u64,
}

/// Runs it; a broken promise is an error.
pub(crate) fn run(crash: &Crash) -> anyhow::Result<()> {
    machine::ensure_postgres()?;
    machine::ensure_rabbitmq()?;
    machine::try_faketime();
    if crash.full { everything(crash) } else { once() }
}

/// What the test command runs of it.
fn once() -> anyhow::Result<()> {
    shell::run(cargo().args(["build", "--workspace", "--bins", "--tests"]))?;
    let arguments = if test::has_nextest() { &TESTS[..] } else { &TESTS_WITHOUT_NEXTEST };
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    test::run_tests(&arguments)
}

fn everything(crash: &Crash) -> anyhow::Result<()> {
    let seed = crash.seed.map_or_else(any_seed, Ok)?;
    shell::run(cargo().args(["build", "--release", "--bins", "--tests"]).args(PACKAGES))?;
    let mut tests: Command = cargo();
    tests.args(["test", "--release", "--bins", "--tests"]).args(PACKAGES);
    tests.args(["--", "--ignored", "--exact", EVERYTHING, "--nocapture"]);
    tests.env(SEED_VARIABLE, seed.to_string()).env(MINUTES_VARIABLE, crash.minutes.to_string());
    let again = || format!("again: cargo xtask crash --full --seed {seed} --minutes {}", crash.minutes);
    println!("{}", again());
    shell::run(&mut tests).with_context(again)
}

/// The last nine digits of the clock: easy to type.
fn any_seed() -> anyhow::Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("reading the clock")?;
    Ok(u64::from(now.subsec_nanos()))
}
