//! `cargo xtask test`: format, lints, build, and every test on shared throw-away servers.

use std::ffi::OsString;
use std::process::Command;
use std::time::Instant;

use anyhow::Context;

use crate::machine;
use crate::servers::Servers;
use crate::shell::{self, cargo, works};
use crate::skipped::Skipped;

const PROGRAMS_VARIABLE: &str = "CLAYGATE_TEST_BIN_DIR";

/// Runs it all and says how it went.
pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    let started = Instant::now();
    let done = run_all(arguments);
    let seconds = started.elapsed().as_secs();
    match &done {
        Ok(()) => println!("test: ok ({seconds} s)"),
        Err(_) => println!("test: FAILED ({seconds} s)"),
    }
    done
}

/// Runs everything; the first failure ends it. The servers are stopped in any case.
fn run_all(arguments: &[OsString]) -> anyhow::Result<()> {
    machine::ensure_postgres()?;
    machine::ensure_rabbitmq()?;
    machine::try_faketime();
    check("fmt", &["fmt", "--all", "--check"])?;
    check("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    // Programs and tests in one go: the tests of real processes need the former, and both share their dependencies.
    shell::run(cargo().args(["build", "--workspace", "--bins", "--tests"]))?;

    run_tests(arguments)
}

/// Runs the tests that are built, on servers of their own, and says what they could not try here.
pub(crate) fn run_tests(arguments: &[OsString]) -> anyhow::Result<()> {
    let (servers, skipped) = (Servers::start()?, Skipped::none()?);
    let tested =
        tests(arguments).and_then(|mut tests| shell::run(tests.envs(servers.variables()).envs([skipped.variable()])));
    servers.stop()?;
    skipped.print()?;
    tested
}

/// A check by a component of the toolchain, skipped aloud where the toolchain lacks it.
fn check(component: &str, arguments: &[&str]) -> anyhow::Result<()> {
    if !works(cargo().args([component, "--version"])) {
        println!("- cargo {component} is not installed here (rustup component add {component}); skipped");
        return Ok(());
    }
    shell::run(cargo().args(arguments))
}

pub(crate) fn has_nextest() -> bool {
    works(cargo().args(["nextest", "--version"]))
}

/// The command that runs the tests.
fn tests(arguments: &[OsString]) -> anyhow::Result<Command> {
    let mut command = cargo();
    if has_nextest() {
        command.args(["nextest", "run", "--workspace"]);
    } else {
        command.args(["test", "--workspace", "--lib", "--bins", "--tests"]);
    }
    let here = std::env::current_exe().context("finding this program")?;
    command.args(arguments).env(PROGRAMS_VARIABLE, here.parent().unwrap_or(&here));
    Ok(command)
}
