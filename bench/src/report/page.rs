//! Tables in pages of `docs/`, between two marks; what stands around them is written by hand.

use anyhow::{Context, ensure};

const END: &str = "<!-- end -->";

/// A place for a table.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The file, from the project's root.
    pub file: &'static str,
    /// The command that writes it, as its first mark names it.
    pub command: &'static str,
}

impl Page {
    /// What `cargo xtask bench` compares.
    pub const PERFORMANCE: Self = Self { file: "docs/performance.md", command: "cargo xtask bench --write" };
    /// What `cargo xtask bench load` counts.
    pub const PROOF: Self = Self { file: "docs/proof.md", command: "cargo xtask bench load --write" };
    /// What a soak counts; in the same file.
    pub const SOAK: Self = Self { file: "docs/proof.md", command: "cargo xtask bench load --minutes M --write" };
    /// What `cargo xtask bench growth` asks.
    pub const GROWTH: Self = Self { file: "docs/growth.md", command: "cargo xtask bench growth --write" };

    fn begin(self) -> String {
        format!("<!-- begin: written by `{}` -->", self.command)
    }
}

/// Puts `report` into `page`.
///
/// # Errors
/// When something failed (half a table would look like a whole one), or the file has no marks.
pub fn write_into(page: Page, report: &str, failures: &[String]) -> anyhow::Result<()> {
    ensure!(failures.is_empty(), "something failed, so {} is left as it is", page.file);
    let text = std::fs::read_to_string(page.file).with_context(|| format!("reading {}", page.file))?;
    let text = replace(&text, &page.begin(), report).with_context(|| format!("{} has no marks", page.file))?;
    std::fs::write(page.file, text).with_context(|| format!("writing {}", page.file))
}

fn replace(page: &str, begin: &str, report: &str) -> Option<String> {
    let (before, rest) = page.split_once(begin)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{begin}\n\n{}\n\n{END}{after}", report.trim()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_around_the_table_stays() {
        let begin = Page::PROOF.begin();
        let page = format!("before\n{begin}\nold\n{END}\nafter\n");
        let new = format!("before\n{begin}\n\nnew\n\n{END}\nafter\n");
        assert_eq!(replace(&page, &begin, "new\n"), Some(new));
        assert_eq!(replace("no marks", &begin, "new"), None);
    }

    #[test]
    fn the_pages_have_their_marks() {
        for page in [Page::PERFORMANCE, Page::PROOF, Page::SOAK, Page::GROWTH] {
            let file = format!("{}/../{}", env!("CARGO_MANIFEST_DIR"), page.file);
            let text = std::fs::read_to_string(file).unwrap();
            assert!(replace(&text, &page.begin(), "new").is_some(), "{}", page.file);
        }
    }
}
