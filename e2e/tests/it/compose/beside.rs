//! What stands beside docker-compose.yml: its head, the files in `deploy/`, and what the documents tell people to type.

use std::collections::BTreeSet;
use std::process::Command;

use common::config::{Config, Environment, Locations, Role};

use super::document::Document;
use super::files::configured;
use super::repository;
use crate::site::{finish, program};

/// Documents with commands in them.
const DOCUMENTS: [&str; 5] =
    ["README.md", "docs/production.md", "docker-compose.yml", "deploy/claygate.toml", "docs/configuration.md"];

/// Every `docker compose …` that a document says, as words without its comment.
fn documented() -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(repository().join(document)).unwrap().replace("\\\n", " ");
        for line in text.lines() {
            for (at, start) in line.match_indices("docker compose ") {
                let command = &line[at + start.len()..];
                // In running text it stands between backticks, in a block before a comment or an explanation.
                let end = ["`", "    ", " #", " <", " >", "; "].iter().filter_map(|end| command.find(end)).min();
                let words = command[..end.unwrap_or(command.len())].split_whitespace();
                commands.push(words.map(str::to_owned).collect());
            }
        }
    }
    commands
}

/// Every command of Compose names services and profiles that there are, and what runs in one is understood by claygate.
#[test]
fn what_the_documents_tell_people_to_type_is_understood() {
    let document = Document::read();
    let profiles: BTreeSet<&String> = document.services.values().flat_map(|service| &service.profiles).collect();
    let (mut parsed, mut seen) = (0, BTreeSet::new());
    for command in documented() {
        let said = command.join(" ");
        let mut words = command.iter();
        let mut plain: Vec<&String> = Vec::new();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--profile" => assert!(profiles.contains(words.next().unwrap()), "{said}"),
                "--scale" => {
                    let (service, _) = words.next().unwrap().split_once('=').unwrap();
                    assert_eq!(service, "worker", "{said}");
                }
                option if option.starts_with('-') && plain.len() < 2 => {}
                _ => plain.push(word),
            }
        }
        let Some((verb, rest)) = plain.split_first() else { continue };
        seen.insert(verb.to_string());
        let (services, inside) = match verb.as_str() {
            "exec" | "run" => rest.split_at(1),
            _ => (rest, &[][..]),
        };
        assert!(services.iter().all(|service| document.services.contains_key(*service)), "{said}");
        if inside.first().is_some_and(|program| *program == "claygate") {
            let output = Command::new(program("claygate")).args(&inside[1..]).arg("--help").output().unwrap();
            assert!(output.status.success(), "{said}: {}", String::from_utf8_lossy(&output.stderr));
            parsed += 1;
        }
    }
    assert!(parsed >= 8, "{parsed}");
    for verb in ["up", "exec", "run", "build", "stop", "restart", "logs", "ps"] {
        assert!(seen.contains(verb), "{verb}");
    }
}

#[test]
fn caddy_serves_the_public_url_and_finds_every_intake() {
    let document = Document::read();
    let text = std::fs::read_to_string(repository().join("deploy/Caddyfile")).unwrap();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines[0], "{$PUBLIC_URL} {");
    assert!(document.services["caddy"].environment.contains_key("PUBLIC_URL"));
    let upstream = lines.iter().find_map(|line| line.strip_prefix("dynamic a ")).unwrap();
    assert_eq!(upstream, "ingest 8080 {");
    assert!(lines.contains(&"keepalive 60s"), "ingest closes idle connections after 75 s");
    let count = |sign| lines.iter().filter(|line| line.ends_with(sign)).count();
    assert_eq!(count("{"), lines.iter().filter(|line| **line == "}").count());
    for service in ["ingest", "ingest-2"] {
        assert!(document.services[service].networks().contains("front"));
    }
}

/// The variables that the head of the file explains are those that it reads.
#[test]
fn the_head_of_the_file_names_its_variables() {
    let text = std::fs::read_to_string(repository().join("docker-compose.yml")).unwrap();
    let (head, rest) = text.split_once("\nname: ").unwrap();
    let mut variables: BTreeSet<&str> =
        rest.split("${").skip(1).map(|after| after.split(":-").next().unwrap()).collect();
    variables.insert("CLAYGATE_INGEST__PUBLIC_URL");
    for variable in &variables {
        assert!(head.contains(variable), "{variable} is not explained");
    }
    assert_eq!(variables.len(), 6);
    let document = Document::read();
    let files: BTreeSet<&str> =
        document.services.values().flat_map(|service| &service.env_file).map(|file| &*file.path).collect();
    assert_eq!(files, ["ingest.env", "worker.env"].into());
    for file in files {
        assert!(head.contains(file), "{file} is not explained");
    }
}

/// The file that is mounted where the user names none does what `claygate init` writes.
#[tokio::test]
async fn the_configuration_is_the_one_of_init() {
    let (_machine, configured) = configured().await;
    let folder = tempfile::tempdir().unwrap();
    let mut init = Command::new(program("claygate"));
    init.arg("init").current_dir(folder.path()).env_clear();
    assert!(finish(init).await.status.success());
    let environment = Environment::default();
    let locations = Locations::resolve(None, None, &environment, folder.path());
    let of_init = Config::load(Role::Up, &locations, &environment).unwrap();
    let (_, ours) = configured.iter().find(|(container, _)| container.service.command == ["worker"]).unwrap();
    assert_eq!(format!("{:?}", ours.destinations), format!("{:?}", of_init.destinations));
    assert_eq!(format!("{:?}", ours.rules), format!("{:?}", of_init.rules));
    assert_eq!(ours.sources.keys().collect::<Vec<_>>(), of_init.sources.keys().collect::<Vec<_>>());
    assert_eq!(ours.sources["clay"].path, of_init.sources["clay"].path);
}
