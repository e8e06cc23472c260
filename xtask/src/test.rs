//! `cargo xtask test`: format, lints, build, and every test on one shared throw-away Postgres.

use std::ffi::OsString;
use std::process::Command;
use std::time::Instant;

use anyhow::Context;
use embedded::{Cluster, Home, Lock, Settings};

use crate::machine;
use crate::shell::{self, cargo, works};

const SERVER_VARIABLE: &str = "CLAYGATE_TEST_PG";
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

/// Runs everything; the first failure ends it. The server is stopped in any case.
fn run_all(arguments: &[OsString]) -> anyhow::Result<()> {
    machine::ensure_postgres()?;
    check("fmt", &["fmt", "--all", "--check"])?;
    check("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    // Programs and tests in one go: the tests of real processes need the former, and both share their dependencies.
    shell::run(cargo().args(["build", "--workspace", "--bins", "--tests"]))?;

    let server = Server::start()?;
    let tested = tests(arguments).and_then(|mut tests| shell::run(tests.env(SERVER_VARIABLE, server.url())));
    server.stop()?;
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

fn tests(arguments: &[OsString]) -> anyhow::Result<Command> {
    let mut command = cargo();
    if works(cargo().args(["nextest", "--version"])) {
        command.args(["nextest", "run", "--workspace"]);
    } else {
        command.args(["test", "--workspace", "--lib", "--bins", "--tests"]);
    }
    let here = std::env::current_exe().context("finding this program")?;
    command.args(arguments).env(PROGRAMS_VARIABLE, here.parent().unwrap_or(&here));
    Ok(command)
}

/// The Postgres of this run.
struct Server {
    cluster: Cluster,
    /// Others take the folder for a dead run's without it.
    _lock: Lock,
    _folder: tempfile::TempDir,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("claygate-test-").tempdir().context("making a folder")?;
        let home = Home::temporary(folder.path())?;
        let lock = Lock::take(folder.path(), "cargo xtask test")?;
        let cluster = Cluster::start(&Settings::throw_away(home))?;
        Ok(Self { cluster, _lock: lock, _folder: folder })
    }

    fn url(&self) -> String {
        let (password, port) = (self.cluster.password(), self.cluster.port());
        format!("postgres://{}:{password}@127.0.0.1:{port}/postgres?sslmode=disable", embedded::USER)
    }

    fn stop(self) -> anyhow::Result<()> {
        self.cluster.stop().context("stopping the test server")
    }
}
