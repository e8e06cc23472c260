//! `cargo xtask bench`: machine, release builds, run.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::Context;

use crate::{machine, shell};

/// Becomes the bench, so that signals reach it and its exit code is ours.
pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    machine::ensure_postgres()?;
    machine::ensure_rabbitmq()?;
    // First what is measured, as it is shipped: built together, it would have the bench's features.
    let shipped = ["--package", "cli", "--package", "ingest", "--package", "worker"];
    shell::run(shell::cargo().args(["build", "--release", "--bins"]).args(shipped))?;
    let mut cargo = shell::cargo();
    cargo.args(["run", "--release", "--package", "bench", "--bin", "bench", "--"]).args(arguments);
    Err(cargo.exec()).context("starting cargo")
}
