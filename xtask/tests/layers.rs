//! What ARCHITECTURE.md says of the repository itself: directions, layers, and the names of the tests that guard it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const CRATES: [&str; 11] =
    ["bench", "cli", "common", "console", "e2e", "embedded", "fake-clay", "ingest", "testkit", "worker", "xtask"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The names under `[dependencies]` (not those for tests) of one crate.
fn dependencies(name: &str) -> BTreeSet<String> {
    let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.split(['.', ' ', '=']).next()).map(str::to_owned).collect()
}

/// Every Rust file below `folder`, with its text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

#[test]
fn crates_depend_in_one_direction() {
    for (name, never) in [
        ("common", &["cli", "console", "ingest", "worker", "embedded", "fake-clay", "testkit"][..]),
        ("console", &["cli", "ingest", "worker", "fake-clay"]),
        ("ingest", &["cli", "worker", "fake-clay", "testkit"]),
        ("worker", &["cli", "ingest", "fake-clay", "testkit"]),
        ("embedded", &["cli", "common", "console", "ingest", "worker", "testkit", "tokio", "sqlx"]),
        ("fake-clay", &["cli", "common", "console", "ingest", "worker", "embedded", "testkit", "sqlx"]),
        ("cli", &["testkit"]),
        ("bench", &["cli", "console", "ingest", "worker", "testkit"]),
        ("xtask", &["bench", "cli", "common", "ingest", "worker", "testkit"]),
    ] {
        let dependencies = dependencies(name);
        assert!(!dependencies.is_empty(), "{name} has dependencies");
        for other in never {
            assert!(!dependencies.contains(*other), "{name} must not depend on {other}");
        }
    }
}

#[test]
fn libraries_stay_in_their_layer() {
    for (library, allowed) in [
        ("sqlx", &["bench", "common", "testkit"][..]),
        ("lapin", &["bench", "common", "testkit"]),
        ("refinery", &["common"]),
        ("cel", &["common"]),
        ("actix-web", &["bench", "console", "fake-clay", "ingest", "testkit"]),
        ("reqwest", &["cli", "fake-clay", "testkit", "worker"]),
        ("minijinja", &["worker"]),
    ] {
        for name in CRATES.iter().filter(|name| !allowed.contains(name)) {
            assert!(!dependencies(name).contains(library), "{name} must not depend on {library}");
        }
    }
}

#[test]
fn crash_points_are_built_into_tests_alone() {
    let feature = "crash-points";
    let naming: Vec<&str> = CRATES
        .into_iter()
        .filter(|name| std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap().contains(feature))
        .collect();
    assert_eq!(naming, ["common", "e2e"]);
    let e2e = std::fs::read_to_string(root().join("e2e/Cargo.toml")).unwrap();
    assert!(e2e.split("[dev-dependencies]").nth(1).unwrap().contains(feature), "a dependency would reach every build");
    assert!(!e2e.split("[dev-dependencies]").next().unwrap().contains(feature));
}

#[test]
fn the_outbox_is_written_by_the_database_layer_alone() {
    let statement = "INSERT INTO claygate.outbox";
    let mut writers = 0;
    for name in CRATES {
        for (path, text) in sources(&root().join(name).join("src")) {
            if text.contains(statement) {
                writers += 1;
                assert!(path.starts_with(root().join("common/src/db")), "{} writes the outbox", path.display());
            }
        }
    }
    assert!(writers > 0, "nothing contains `{statement}`: this test looks for the wrong text");
}

#[test]
fn nothing_is_published_outside_the_relay() {
    let publishers: Vec<PathBuf> = CRATES
        .iter()
        // It measures the broker without the product, and is no part of it.
        .filter(|name| **name != "bench")
        .flat_map(|name| sources(&root().join(name).join("src")))
        .filter(|(_, text)| text.contains("basic_publish("))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(publishers, [root().join("common/src/queue/rabbitmq/publisher.rs")]);
    let users: Vec<PathBuf> = sources(&root().join("common/src/queue"))
        .into_iter()
        .filter(|(_, text)| text.contains("Publisher::open("))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(users, [root().join("common/src/queue/rabbitmq/relay.rs")]);
}

#[test]
fn architecture_names_tests_that_exist() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let invariants = text.split("## Invariants").nth(1).unwrap();
    let named = invariants.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() > 2);
    let all: String = CRATES.iter().flat_map(|name| sources(&root().join(name))).map(|(_, text)| text).collect();
    let mut count = 0;
    for name in named {
        count += 1;
        assert!(
            all.contains(&format!("fn {name}(")) || all.contains(&format!("    {name},")),
            "no test is named {name}"
        );
    }
    assert!(count > 15, "only {count} tests are named");
}
