//! `cargo xtask up`: machine, build, run.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::Context;

use crate::{machine, shell};

/// Which program is run. Another choice of packages would be another choice of features, and another build of minutes.
const CLAYGATE: [&str; 5] = ["--release", "--package", "cli", "--bin", "claygate"];

/// Becomes `claygate up`, so that signals reach it and its exit code is ours.
pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<()> {
    machine::ensure_postgres()?;
    let mut cargo = shell::cargo();
    cargo.arg("run").args(CLAYGATE).args(["--", "up"]).args(arguments);
    Err(cargo.exec()).context("starting cargo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_readme_runs_is_what_was_built() {
        let readme = include_str!("../../README.md");
        let choice = format!("cargo run --quiet {} --", CLAYGATE.join(" "));
        assert!(readme.contains(&choice), "README.md has no `{choice}`");
        assert_eq!(readme.matches("cargo run").count(), readme.matches(&choice).count());
    }
}
