//! What a list says behind its last line: how to go on.

use common::db::page::{LOOKED_AT_MAX, Page, Position};
use serde::Serialize;

use super::since;
use crate::shell::quote;

/// Prints a page: as a JSON array, else line by line with `nothing` where there is none. `cursor` is what `--before` takes.
///
/// Where the page ends before it is full, though more may follow, standard error says so, with the command that goes on.
/// Beside JSON it also has what lies behind a full page.
pub(crate) fn print<L: Serialize>(
    page: &Page<L>,
    shown: Shown<'_>,
    cursor: impl Fn(Position) -> String,
    print_line: impl Fn(&L),
) -> anyhow::Result<()> {
    let next = page.next.map(&cursor);
    if shown.json {
        super::print_json(&serde_json::to_value(&page.lines)?)?;
    } else {
        if page.lines.is_empty() && !page.is_cut {
            say!("{}", shown.nothing);
        }
        page.lines.iter().for_each(print_line);
    }
    match (&next, page.next) {
        (Some(next), Some((moment, _))) if page.is_cut => eprintln!(
            "The page ends after {LOOKED_AT_MAX} that were looked at, back to {}; more may match. Go on with\n  {}",
            since::shown(moment),
            going_on(std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()), next)
        ),
        (Some(next), _) if shown.json => eprintln!("More: --before {next}"),
        (Some(next), _) => say!("\nMore: --before {next}"),
        _ => {}
    }
    Ok(())
}

/// How a page is shown.
#[derive(Clone, Copy)]
pub(crate) struct Shown<'a> {
    /// What is said where there are none.
    pub(crate) nothing: &'a str,
    pub(crate) json: bool,
}

/// The command line `arguments` for the page behind `next`.
fn going_on(arguments: impl Iterator<Item = String>, next: &str) -> String {
    let (mut words, mut is_value) = (Vec::new(), false);
    for argument in arguments {
        let is_option = argument == "--before";
        if !(is_option || is_value || argument.starts_with("--before=")) {
            words.push(quote(&argument));
        }
        is_value = is_option;
    }
    words.extend(["--before".to_owned(), next.to_owned()]);
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_command_goes_on_behind_the_page() {
        let next = "0193a1b2-7c3d-7e4f-8a5b-6c7d8e9f0a1b";
        let line = |words: &[&str]| going_on(words.iter().map(|word| (*word).to_owned()), next);
        let expected = format!("claygate events list --source 'a b' --limit 5 --before {next}");
        assert_eq!(line(&["claygate", "events", "list", "--source", "a b", "--limit", "5"]), expected);
        for before in [&["--before", "old"][..], &["--before=old"]] {
            let words = [&["claygate", "events", "list"][..], before, &["--source", "a b", "--limit", "5"]].concat();
            assert_eq!(line(&words), expected);
        }
    }
}
