//! The table in `docs/performance.md`, between two marks; what stands around it is written by hand.

use std::path::Path;

use anyhow::{Context, ensure};

use super::{Results, to_text};

const BEGIN: &str = "<!-- begin: written by `cargo xtask bench --write` -->";
const END: &str = "<!-- end -->";

/// Puts the report of `results` into `file`.
///
/// # Errors
/// When something failed (half a table would look like a whole one), or the file has no marks.
pub fn write_into(file: &Path, results: &Results) -> anyhow::Result<()> {
    ensure!(results.failures.is_empty(), "scenarios failed, so {} is left as it is", file.display());
    let page = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let page = replace(&page, &to_text(results)).with_context(|| format!("{} has no marks", file.display()))?;
    std::fs::write(file, page).with_context(|| format!("writing {}", file.display()))
}

fn replace(page: &str, report: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", report.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_around_the_table_stays() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n");
        assert_eq!(replace(&page, "new\n"), Some(new));
        assert_eq!(replace("no marks", "new"), None);
    }
}
