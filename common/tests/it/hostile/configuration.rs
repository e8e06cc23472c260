//! A configuration is refused, in words that hold no secret, or is one that a process can run with.

use common::config::{Config, ConfigError, Environment, Inspection, Locations, Role, to_toml};
use common::rules::RuleSet;

/// The value of a variable that a file may use anywhere, and nothing may show.
const MARKED: &str = "marked-secret-7c1f93e0";

const ROLES: [Role; 5] = [Role::Up, Role::Ingest, Role::Worker, Role::Tool, Role::Sender];

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if text.contains(MARKED) {
        return;
    }
    for role in ROLES {
        let read = Config::from_toml(role, text, &environment());
        let again = Config::from_toml(role, text, &environment());
        assert_eq!(problems(&read), problems(&again), "read twice, read differently");
        match &read {
            Ok(config) => {
                assert_hidden(&format!("{config:?}"));
                check_usable(role, config);
            }
            Err(error) => {
                assert!(!error.problems.is_empty(), "refused without a reason");
                assert_hidden(&error.to_string());
            }
        }
    }
    check_shown(text);
}

fn environment() -> Environment {
    [("MARKED", MARKED), ("CLAY_WEBHOOK_SECRET", "webhook-secret-0123456789")].into_iter().collect()
}

fn problems(read: &Result<Config, ConfigError>) -> Vec<String> {
    match read {
        Ok(config) => config.warnings.clone(),
        Err(error) => error.problems.iter().map(ToString::to_string).collect(),
    }
}

fn assert_hidden(text: &str) {
    assert!(!text.contains(MARKED), "shows a secret: {text}");
}

/// What the parts of a process rely on.
fn check_usable(role: Role, config: &Config) {
    config.warnings.iter().for_each(|warning| assert_hidden(warning));
    let mut paths = Vec::new();
    for (name, source) in &config.sources {
        assert!(is_name(name), "a source is called {name:?}");
        assert!(
            source.path.starts_with('/') && !source.path.starts_with("/v1/"),
            "{name} listens on {:?}",
            source.path
        );
        assert!(!matches!(role, Role::Up | Role::Ingest) || !source.verify.is_empty(), "nothing proves {name}");
        paths.push(&source.path);
    }
    paths.sort_unstable();
    assert!(paths.windows(2).all(|pair| pair[0] != pair[1]), "two sources on one path");
    assert!(config.destinations.keys().all(|name| is_name(name)));
    if matches!(role, Role::Up | Role::Worker) {
        let destinations: Vec<String> = config.destinations.keys().cloned().collect();
        let sources: Vec<String> = config.sources.keys().cloned().collect();
        let compiled = RuleSet::compile(&config.rules, &destinations, &sources);
        assert!(compiled.is_ok(), "the worker refuses its rules: {:?}", compiled.err());
    }
}

/// As the configuration's own documentation says it: `[a-z][a-z0-9_-]*`.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte))
}

/// What `config show` prints is TOML, without a secret.
fn check_shown(text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("claygate.toml");
    std::fs::write(&file, text).unwrap();
    let locations = Locations::resolve(Some(&file), None, &environment(), folder.path());
    let inspection = Inspection::of(Role::Up, &locations, &environment());
    let shown = to_toml(&inspection.settings);
    assert_hidden(&shown);
    let read = shown.parse::<toml::Table>();
    assert!(
        read.is_ok(),
        "`config show` prints no TOML: {}\n{shown}",
        read.err().map(|e| e.to_string()).unwrap_or_default()
    );
}
