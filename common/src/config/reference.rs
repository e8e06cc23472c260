//! The reference page `docs/configuration.md`, made from the tables of [`super::schema`].

use std::collections::HashSet;
use std::fmt::Write;

use super::schema::{Key, Kind, Preset, Section};
use super::{ROOT, read_secrets};

const INTRODUCTION: &str = r#"# Configuration

<!-- Made from the tables in common/src/config by `UPDATE_DOCS=1 cargo test -p common --lib configuration_page`. -->

One TOML file: `--config FILE`, else the variable `CLAYGATE_CONFIG`, else `claygate.toml` in the working folder. Without
any file `claygate up` and the tools use what is built in. The data folder is `--data DIR`, else `CLAYGATE_DATA`, else
`claygate-data` beside the file. `claygate config check` says what is wrong, `claygate config show` what is in effect and
where it comes from; `claygate.example.toml` is a file to start from.

- **Variables.** `CLAYGATE_<SECTION>__<KEY>` overrides the file, with `__` between the parts of a path and `_` for `-`:
  `CLAYGATE_INGEST__LIMITS__IN_FLIGHT=2048`, `CLAYGATE_DESTINATIONS__CRM_SYNC__TIMEOUT=10s`. Strings, numbers, true and
  false only, taken as they are; lists and tables stand in the file. The source or destination has to exist already. An
  unknown variable that starts with `CLAYGATE_` is an error (those by which Kubernetes describes services are not). No settings are `CLAYGATE_CONFIG`, `CLAYGATE_DATA` and `CLAYGATE_PG_BIN` (the
  folder of the Postgres binaries).
- **`${VARIABLE}`** in any string of the file is replaced by the environment's. An unset or empty one is an error in the
  sections that the process uses: `ingest` needs no tokens of destinations, `worker` no secrets of sources. `$$` stands
  for one `$`.
- **Secrets** can be named by file: for every key that is a secret there is `<key>_file` (`token_file`, `url_file`). The
  last line's end is not part of the secret. `up` and `init` make `secrets/<source>` and `secrets/admin` in the data
  folder.
- **Paths** that are relative start at the file's folder. **Durations** are written `"250ms"`, `"5s"`, `"2m"`, `"2h"`,
  `"30d"`, `"1w"`, **sizes** `"100KB"`, `"1MiB"`, **rates** `"10/s"`, `"300/m"`, `"400/h"`, `"2000/d"`.
- **Names** of sources, destinations and rules match `[a-z][a-z0-9_-]*`.
"#;

/// The whole page.
pub fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for section in sections() {
        write_section(&mut page, section);
    }
    page
}

/// Every section that can be used, parents first.
pub(super) fn sections() -> Vec<&'static Section> {
    let mut sections = Vec::new();
    collect(&ROOT, &mut sections);
    sections.retain(|section| section.keys.iter().any(is_usable));
    sections.retain(|section| !section.title.is_empty());
    let mut titles = HashSet::new();
    sections.retain(|section| titles.insert(section.title));
    sections
}

fn collect(section: &'static Section, sections: &mut Vec<&'static Section>) {
    sections.push(section);
    for key in section.keys {
        match key.kind {
            Kind::Table(inner) | Kind::Tables(inner) | Kind::TableOrTables(inner) | Kind::Named(inner) => {
                collect(inner, sections);
            }
            Kind::Secrets => sections.push(&read_secrets::ENTRY),
            _ => {}
        }
    }
}

fn is_usable(key: &Key) -> bool {
    !matches!(key.kind, Kind::NotYet(_))
}

fn write_section(page: &mut String, section: &Section) {
    // Writing to a String cannot fail.
    let _ = write!(page, "\n## `{}`\n\n{}\n\n", section.title.replace('`', ""), section.doc);
    page.push_str("| key | value | default | meaning |\n|---|---|---|---|\n");
    for key in section.keys.iter().filter(|key| is_usable(key) && !matches!(key.kind, Kind::Table(_))) {
        let file = if key.takes_file() { format!(", `{}_file`", key.name) } else { String::new() };
        let only = match key.only {
            [] => String::new(),
            kinds => format!(" *({})*", kinds.join(", ")),
        };
        let preset = match key.preset {
            Preset::Required => "required".to_owned(),
            Preset::Is(text) => format!("`{}`", show_preset(text, key.kind)),
            Preset::Said(words) => words.to_owned(),
        };
        let row = [format!("`{}`{file}{only}", key.name), key.kind.describe(), preset, key.doc.to_owned()];
        let _ = writeln!(page, "| {} |", row.map(|cell| cell.replace('|', "\\|")).join(" | "));
    }
}

/// A default as it would be written in the file.
fn show_preset(text: &str, kind: Kind) -> String {
    match kind {
        Kind::Integer { .. } | Kind::Limit { .. } | Kind::Price | Kind::Bool => text.to_owned(),
        Kind::Durations { .. } => format!("[\"{}\"]", text.replace(", ", "\", \"")),
        _ => format!("\"{text}\""),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::page;

    #[test]
    fn configuration_page_is_what_the_tables_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap();
        assert!(
            committed == page(),
            "docs/configuration.md is not what the tables say: UPDATE_DOCS=1 cargo test -p common --lib configuration_page"
        );
    }
}
