//! Whole configurations: what they come to, and what is said about those that cannot be used.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().copied().collect()
}

fn clay_secret() -> Environment {
    environment(&[("CLAY_WEBHOOK_SECRET", "0123456789abcdef")])
}

#[test]
fn without_a_file_the_built_in_settings_hold() {
    let folder = tempfile::tempdir().unwrap();
    let locations = Locations::resolve(None, None, &Environment::default(), folder.path());
    let config = Config::load(Role::Up, &locations, &clay_secret()).unwrap();

    assert_eq!(config.data, folder.path().join("claygate-data"));
    assert_eq!(config.ingest.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.ingest.max_body_bytes, 1 << 20);
    assert_eq!(config.sources["clay"].path, "/api/clay/enriched");
    assert_eq!(config.destinations.keys().collect::<Vec<_>>(), ["alerts", "nurture", "outreach"]);
    for destination in config.destinations.values() {
        assert!(matches!(destination.kind, DestinationKind::Log));
        assert_eq!(destination.once_per, Some(Duration::from_secs(30 * 86_400)));
    }
    assert_eq!(
        config.rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>(),
        ["alerts", "outreach", "nurture"]
    );
    assert_eq!(config.warnings, [] as [&str; 0]);
}
