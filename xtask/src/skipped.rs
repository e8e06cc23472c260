//! What tests could not try on this machine: told at the end, since nextest shows nothing of a test that passed.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::Context;
use tempfile::NamedTempFile;

/// Names the file to which a test adds a line for each thing that it skips.
const VARIABLE: &str = "CLAYGATE_TEST_SKIPPED";

/// The lines of one run.
pub(crate) struct Skipped(NamedTempFile);

impl Skipped {
    /// None yet.
    pub(crate) fn none() -> anyhow::Result<Self> {
        NamedTempFile::new().map(Self).context("making a file for what tests skip")
    }

    /// What tells tests where they add theirs.
    pub(crate) fn variable(&self) -> (&'static str, &OsStr) {
        (VARIABLE, self.0.path().as_os_str())
    }

    /// Says what was skipped.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        let lines = read(self.0.path())?;
        if !lines.is_empty() {
            println!("test: {} not tried on this machine:", lines.len());
        }
        lines.iter().for_each(|line| println!("- {line}"));
        Ok(())
    }
}

/// In order, and each once: several tests may miss the same.
fn read(file: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(file).context("reading what tests skipped")?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines.dedup();
    Ok(lines)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_line_is_told_once() {
        let skipped = Skipped::none().unwrap();
        let (_, file) = skipped.variable();
        assert_eq!(read(Path::new(file)).unwrap(), [] as [&str; 0]);
        std::fs::write(file, "b: no disk\na: no clock\nb: no disk\n").unwrap();
        assert_eq!(read(Path::new(file)).unwrap(), ["a: no clock", "b: no disk"]);
    }
}
