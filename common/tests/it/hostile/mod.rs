//! Hostile input: what a stranger, a destination or a hurried operator can hand in, and what has to be true of it.
//!
//! Each module has one function `check`, which takes any bytes and panics when something is not as it has to be. The
//! targets in `fuzz/` call nothing else, so whatever they find is a file that the test below repeats: the corpora in
//! `fuzz/corpus` are replayed with every run of the tests, without a fuzzer.

mod body;
mod configuration;
mod lead;
mod retry_after;
mod rule;
mod signature;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

/// What a target calls.
type Check = fn(&[u8]);

/// Every target, with what it calls.
const TARGETS: [(&str, Check); 6] = [
    ("body", body::check),
    ("configuration", configuration::check),
    ("lead", lead::check),
    ("retry_after", retry_after::check),
    ("rule", rule::check),
    ("signature", signature::check),
];

/// An input above this belongs to a person's disk, not into the repository.
const INPUT_BYTES_MAX: u64 = 8 * 1024;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fuzz")
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn replay(target: &str) {
    let (_, check) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let folder = fuzz().join("corpus").join(target);
    let names = names_in(&folder);
    assert!(names.len() >= 8, "{} has {} inputs: a corpus is not to wither", folder.display(), names.len());
    for name in names {
        let path = folder.join(&name);
        assert!(path.metadata().unwrap().len() <= INPUT_BYTES_MAX, "{} is too large to be kept", path.display());
        let input = std::fs::read(&path).unwrap();
        // The name of the file is what a failure is looked for by.
        if let Err(panic) = std::panic::catch_unwind(|| check(&input)) {
            eprintln!("the input is {}", path.display());
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn hostile_bodies_are_refused_or_have_one_form_and_one_key() {
    replay("body");
}

#[test]
fn hostile_configurations_are_refused_or_hold_what_they_promise() {
    replay("configuration");
}

#[test]
fn hostile_leads_are_read_once_and_for_all() {
    replay("lead");
}

#[test]
fn hostile_retry_after_values_are_bounded() {
    replay("retry_after");
}

#[test]
fn hostile_rules_are_refused_or_end_in_time() {
    replay("rule");
}

#[test]
fn hostile_signatures_pass_only_where_the_secret_made_them() {
    replay("signature");
}

/// A target without a corpus, or a corpus without a target, is looked at by nobody.
#[test]
fn every_fuzz_target_is_replayed_here() {
    let known: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names_in(&fuzz().join("corpus")), known);
    let sources: BTreeSet<String> = known.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names_in(&fuzz().join("fuzz_targets")), sources);
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &known {
        let source = std::fs::read_to_string(fuzz().join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(source.contains(&format!("{name}::check(")), "fuzz_targets/{name}.rs calls something else");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml does not build {name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// What no corpus thought of: a little of it with every run.
    #[test]
    fn no_bytes_break_a_promise(input in prop::collection::vec(any::<u8>(), 0..120)) {
        TARGETS.iter().for_each(|(_, check)| check(&input));
    }
}
