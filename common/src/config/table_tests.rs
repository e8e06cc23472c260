//! The tables of keys against what is read: nothing is declared in vain, read undeclared, or ignored.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

use super::schema::{Kind, Section};
use super::tests::{EVERY_KEY, full_environment};
use super::tree::{Node, Table, Value};
use super::*;

#[test]
fn the_tables_name_exactly_the_keys_that_are_read() {
    let environment = full_environment();
    let mut asked = BTreeSet::new();
    for text in EVERY_KEY {
        let mut tree = build_tree(Some(text), &environment).unwrap();
        overrides::apply(&mut tree, &ROOT, &environment);
        let context = Context::new(&environment, Path::new("/"), false);
        read_config(Role::Up, &tree, Path::new("/nowhere"), &context);
        // A key that is read but not declared would be among the problems.
        assert_eq!(context.problems.into_inner(), []);
        asked.extend(context.asked.into_inner());
    }
    for section in reference::sections() {
        for key in section.keys.iter().filter(|key| !matches!(key.kind, Kind::NotYet(_))) {
            assert!(
                asked.contains(&(section.title, key.name)),
                "{} {} is declared and never read",
                section.title,
                key.name
            );
        }
    }
}

#[test]
fn no_key_is_ignored_and_no_unknown_key_is_accepted() {
    let environment = full_environment();
    let tree = build_tree(Some(EVERY_KEY[0]), &environment).unwrap();
    let mut mutants = Vec::new();
    mutate(&tree, &mut Vec::new(), &mut mutants);
    assert!(mutants.len() > 100, "{}", mutants.len());
    for (path, mutant) in mutants {
        let context = Context::new(&environment, Path::new("/"), false);
        read_config(Role::Up, &mutant, Path::new("/nowhere"), &context);
        assert!(!context.problems.borrow().is_empty(), "{path} is ignored");
    }
}

/// One tree per key with that key's value made nonsense, and one per table with an unknown key.
fn mutate(root: &Table, path: &mut Vec<String>, mutants: &mut Vec<(String, Table)>) {
    let nonsense = || Node { value: Value::Float(-0.5), origin: Origin::Default };
    let table = find(&mut root.clone(), path).clone();
    let mut with_unknown = root.clone();
    let is_free = path.last().is_some_and(|key| ["body", "fields", "capture", "headers"].contains(&key.as_str()));
    if !is_free {
        find(&mut with_unknown, path).insert("zzz".to_owned(), nonsense());
        mutants.push((format!("{}.zzz", path.join(".")), with_unknown));
    }
    for (key, node) in table {
        path.push(key.clone());
        let is_body = path.contains(&"body".to_owned());
        if !is_body {
            let mut mutant = root.clone();
            let parent = &path[..path.len() - 1];
            find(&mut mutant, parent).insert(key, nonsense());
            mutants.push((path.join("."), mutant));
        }
        if matches!(node.value, Value::Table(_)) && !is_body {
            mutate(root, path, mutants);
        }
        path.pop();
    }
}

fn find<'a>(table: &'a mut Table, path: &[String]) -> &'a mut Table {
    path.iter().fold(table, |table, key| match &mut table.get_mut(key).unwrap().value {
        Value::Table(inner) => inner,
        _ => panic!("{path:?} is no table"),
    })
}

/// Sections and what they hold must be found by one title each: the tables are compared by it.
#[test]
fn titles_are_unique() {
    let titles: Vec<&str> = reference::sections().iter().map(|section: &&'static Section| section.title).collect();
    assert_eq!(titles.iter().collect::<BTreeSet<_>>().len(), titles.len());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    /// Whatever is cut out of a file, or written into it, reading ends with an answer.
    #[test]
    fn no_file_makes_reading_panic(from in 0_usize..4_000, length in 0_usize..80, text in "[a-z=\\[\\]{}\"\n$0-9/. ]{0,12}") {
        let whole = EVERY_KEY[0];
        let at = |index: usize| whole.char_indices().map(|(at, _)| at).nth(index).unwrap_or(whole.len());
        let mutant = format!("{}{text}{}", &whole[..at(from)], &whole[at(from + length)..]);
        if let Err(error) = Config::from_toml(Role::Up, &mutant, &full_environment()) {
            assert!(!error.problems.is_empty());
        }
    }
}
