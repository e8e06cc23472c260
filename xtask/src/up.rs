//! `cargo xtask up`: machine, build, run.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::Context;

use crate::{machine, shell};

/// Becomes `claygate up`, so that signals reach it and its exit code is ours.
pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    machine::ensure_postgres()?;
    let mut cargo = shell::cargo();
    cargo.args(["run", "--release", "--package", "cli", "--bin", "claygate", "--", "up"]).args(arguments);
    Err(cargo.exec()).context("starting cargo")
}
