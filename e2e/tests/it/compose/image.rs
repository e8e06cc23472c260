//! The Dockerfile against the workspace.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::document::Document;
use super::recipe::{context, read_stages};
use super::repository;

const PACKAGES: [&str; 3] = ["cli", "ingest", "worker"];
const PROGRAMS: [&str; 3] = ["claygate", "ingest", "worker"];

/// `cargo metadata` of the workspace in `folder`.
fn metadata(folder: &Path) -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--locked", "--no-deps", "--format-version=1"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the workspace builds for a release: package, kind and name of every target that is no test.
fn targets(metadata: &Value) -> BTreeSet<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let targets = packages.flat_map(|package| {
        let targets = package["targets"].as_array().unwrap().iter();
        targets.map(|target| (text(&package["name"]), text(&target["kind"][0]), text(&target["name"])))
    });
    targets.filter(|(_, kind, _)| kind != "test").collect()
}

#[test]
fn the_context_has_every_member_and_neither_results_nor_secrets() {
    let files: BTreeSet<String> = context().iter().map(|path| path.to_str().unwrap().to_owned()).collect();
    for needed in ["Cargo.toml", "Cargo.lock", "migrations/V1__intake_and_delivery.sql"] {
        assert!(files.contains(needed), "{needed} is left out");
    }
    let workspace = metadata(&repository());
    for package in workspace["packages"].as_array().unwrap() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let manifest = manifest.strip_prefix(workspace["workspace_root"].as_str().unwrap()).unwrap();
        assert!(files.contains(manifest.to_str().unwrap()), "{} is left out", manifest.display());
        for target in package["targets"].as_array().unwrap() {
            let source = Path::new(target["src_path"].as_str().unwrap());
            let source = source.strip_prefix(workspace["workspace_root"].as_str().unwrap()).unwrap();
            assert!(files.contains(source.to_str().unwrap()), "{} is left out", source.display());
        }
    }
    for file in &files {
        let parts: Vec<&str> = file.split('/').collect();
        let is_left_out = |part: &&str| matches!(*part, "target" | ".git" | "claygate-data") || part.ends_with(".env");
        assert!(!parts.iter().any(is_left_out), "{file} goes into the build");
    }
}

/// The step that makes the layer of dependencies possible, run on a copy of the context.
#[cfg(target_os = "linux")]
#[test]
fn the_layer_of_dependencies_has_every_target_and_no_source() {
    let stages = read_stages();
    let manifests = &stages[0];
    assert_eq!(manifests.name.as_deref(), Some("manifests"));
    assert_eq!(manifests.only("COPY"), ". .");
    let folder = tempfile::tempdir().unwrap();
    for file in context() {
        let copy = folder.path().join(&file);
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(repository().join(&file), copy).unwrap();
    }
    let done = Command::new("sh").arg("-c").arg(manifests.only("RUN")).current_dir(folder.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    assert_eq!(targets(&metadata(folder.path())), targets(&metadata(&repository())));
    let mut count = 0;
    let mut folders = vec![folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                count += 1;
                assert_eq!(std::fs::read_to_string(&path).unwrap(), "fn main() { }\n", "{}", path.display());
            } else {
                let name = path.file_name().unwrap();
                assert!(name == "Cargo.toml" || name == "Cargo.lock", "{} is left", path.display());
            }
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn the_image_holds_the_programs_and_nothing_runs_as_root() {
    let stages = read_stages();
    let [_, build, image] = &stages[..] else { panic!("{} stages", stages.len()) };

    // Dependencies and sources are built alike, or the former would be built twice.
    let commands: Vec<&str> = build.all("RUN").iter().map(|run| &run[run.find("cargo build").unwrap()..]).collect();
    assert_eq!(commands.len(), 2);
    assert_eq!(commands[0], commands[1]);
    let built: Vec<&str> = commands[0].split("--package ").skip(1).map(str::trim).collect();
    assert_eq!(built, PACKAGES);
    assert_eq!(build.all("COPY"), ["--from=manifests /src .", ". ."]);
    assert!(commands[0].contains("--release") && commands[0].contains("--locked"));

    // What is copied is what is built, from a stage that exists.
    let programs: BTreeSet<String> = targets(&metadata(&repository()))
        .into_iter()
        .filter(|(package, kind, _)| kind == "bin" && built.contains(&&**package))
        .map(|(_, _, name)| name)
        .collect();
    assert_eq!(programs, PROGRAMS.map(str::to_owned).into_iter().collect());
    let copied = image.all("COPY").into_iter().find(|copy| copy.contains("/target/release/")).unwrap();
    let expected = PROGRAMS.map(|program| format!("/src/target/release/{program}")).join(" ");
    assert_eq!(copied, format!("--from=build {expected} /usr/local/bin/"));
    assert_eq!(build.only("WORKDIR"), "/src");

    assert_eq!(image.only("USER"), "10001:10001");
    assert_eq!(image.only("CMD"), "[\"claygate\", \"--help\"]");
    for stage in &stages {
        let stages: Vec<&str> = stages.iter().filter_map(|stage| stage.name.as_deref()).collect();
        for from in stage.all("COPY").into_iter().filter_map(|copy| copy.strip_prefix("--from=")) {
            assert!(stages.contains(&from.split(' ').next().unwrap()), "{from}");
        }
    }
}

#[test]
fn what_it_is_built_on_has_a_version_that_fits() {
    let stages = read_stages();
    let bases: Vec<&str> = stages.iter().map(|stage| &*stage.base).collect();
    assert_eq!(bases[0], bases[2]);
    // The C library of where it is built must not be newer than that of where it runs.
    let (rust, release) = bases[1].strip_prefix("rust:").unwrap().split_once("-slim-").unwrap();
    assert_eq!(bases[2], format!("debian:{release}-slim"));
    let manifest = std::fs::read_to_string(repository().join("Cargo.toml")).unwrap();
    let least = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    let number = |version: &str| version.split('.').map(|part| part.parse::<u32>().unwrap()).collect::<Vec<_>>();
    assert!(number(rust) >= number(least), "rust {rust} is older than {least}");
}

#[test]
fn ports_and_folders_are_those_of_the_services() {
    let stages = read_stages();
    let image = stages.last().unwrap();
    let document = Document::read();
    assert_eq!(image.only("EXPOSE"), "8080 8081");
    let install = image.only("RUN");
    let prepared: BTreeSet<&str> = install.split_whitespace().filter(|word| word.starts_with('/')).collect();
    assert_eq!(install.matches("--owner=10001 --group=10001").count(), 2);
    let volumes = document.own().flat_map(|(_, service)| &service.volumes).filter(|mount| mount.file().is_none());
    let mounted: BTreeSet<&str> = volumes.map(|mount| &*mount.target).collect();
    assert_eq!(prepared, mounted, "a fresh volume would belong to root");
    for (name, service) in document.own() {
        assert_eq!(service.user.as_deref(), Some(image.only("USER")), "{name}");
        assert!(PROGRAMS.contains(&&*service.command[0]), "{name}: {:?} is not in the image", service.command);
    }
}
