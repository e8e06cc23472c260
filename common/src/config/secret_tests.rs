//! Where secrets come from, who needs which, and that none is shown.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::tests::{EVERY_KEY, environment, expose, full_environment, up};
use super::*;

#[test]
fn a_secret_in_a_variable_replaces_one_in_a_file() {
    let text = "[database]\nurl = \"postgres://db.example.com/x\"\npassword_file = \"/nowhere\"";
    let config = up(text, &[("CLAYGATE_DATABASE__PASSWORD", "secret")]);
    assert_eq!(config.database.password.as_ref().map(expose), Some("secret"));
}

#[test]
fn each_role_needs_only_the_secrets_that_it_uses() {
    let with = |names: &[(&str, &str)]| environment(names);
    let text = EVERY_KEY[0];
    let database = ("PG_PASSWORD", "pg-secret");
    let broker = ("MQ_PASSWORD", "mq-secret");

    let ingest =
        with(&[database, broker, ("CLAY_SECRET", "clay-secret-0123456789"), ("FORM_SECRET", "form-secret-0123456789")]);
    let config = Config::from_toml(Role::Ingest, text, &ingest).unwrap();
    assert_eq!(config.sources["website-form"].verify.len(), 3);
    let DestinationKind::Http(crm) = &config.destinations["crm"].kind else { panic!("no http") };
    assert_eq!(expose(&crm.steps[0].url), "");

    let worker = with(&[
        database,
        broker,
        ("CRM_TOKEN", "crm-secret"),
        ("TEAM", "team"),
        ("SLACK_URL", "https://hooks.slack.example.com/x"),
    ]);
    let config = Config::from_toml(Role::Worker, text, &worker).unwrap();
    assert!(config.sources.values().all(|source| source.verify.is_empty()));
    assert_eq!(config.sources["clay"].fields["email"], "/Work Email");

    let config = Config::from_toml(Role::Tool, text, &with(&[database])).unwrap();
    assert_eq!(config.destinations.len(), 5);

    let config = Config::from_toml(Role::Sender, text, &ingest).unwrap();
    assert_eq!(config.sources["clay"].verify[0].secrets().len(), 1);

    for (role, environment) in
        [(Role::Sender, &worker), (Role::Ingest, &worker), (Role::Worker, &ingest), (Role::Tool, &with(&[]))]
    {
        assert!(Config::from_toml(role, text, environment).is_err(), "{role:?}");
    }
}

#[test]
fn secrets_come_from_files_without_their_last_line_end() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("pg", " pg secret \r\n", 0o600);
    write("clay", "clay-secret-0123456789\n", 0o644);
    let text = "[database]\nurl = \"postgres://db.example.com/x\"\npassword_file = \"pg\"\n[sources.clay]\npath = \"/c\"\n\
                verify = { kind = \"token\", secrets = [{ value_file = \"${FOLDER}/clay\", expires = 2030-01-31T00:00:00Z }] }";
    write("claygate.toml", text, 0o600);
    let environment = environment(&[("FOLDER", folder.path().to_str().unwrap())]);
    let locations = Locations::resolve(Some(&folder.path().join("claygate.toml")), None, &environment, Path::new("/"));
    let config = Config::load(Role::Up, &locations, &environment).unwrap();

    assert_eq!(config.database.password.as_ref().map(expose), Some(" pg secret "));
    let Verification::Token { secrets, .. } = &config.sources["clay"].verify[0] else { panic!("no token") };
    assert_eq!(expose(&secrets[0].value), "clay-secret-0123456789");
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].contains("every user of this machine can read"), "{:?}", config.warnings);
}

#[test]
fn secrets_that_were_made_are_found_in_the_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let environment = Environment::default();
    let locations = Locations::resolve(None, None, &environment, folder.path());
    let error = Config::load(Role::Up, &locations, &environment).unwrap_err();
    assert!(error.to_string().contains("secrets/clay does not exist: run `claygate init`"), "{error}");
    let inspection = Inspection::before_first_start(Role::Up, &locations, &environment);
    assert!(inspection.config.is_ok() && inspection.warnings[0].contains("will make"), "{inspection:?}");

    for file in missing_secrets(&locations, &environment).unwrap() {
        make_secret(&file).unwrap();
    }
    assert_eq!(missing_secrets(&locations, &environment).unwrap(), [] as [PathBuf; 0]);
    let config = Config::load(Role::Up, &locations, &environment).unwrap();
    let made = std::fs::read_to_string(locations.secret_file("clay")).unwrap();
    let Verification::Token { header, secrets } = &config.sources["clay"].verify[0] else { panic!("no token") };
    assert_eq!((header.as_str(), expose(&secrets[0].value)), ("x-clay-signature", made.trim_end()));
    let admin = std::fs::read_to_string(locations.secret_file("admin")).unwrap();
    assert_eq!(config.admin.token.as_ref().map(expose), Some(admin.trim_end()));
}

#[test]
fn expired_secrets_are_told() {
    let secret = |end: &str| format!("{{ value = \"0123456789abcdef\", expires = \"{end}\" }}");
    let text = |second: &str| {
        format!(
            "[sources.a]\npath = \"/a\"\nverify = {{ kind = \"token\", secrets = [{}, {}] }}",
            secret("2020-01-01T00:00:00Z"),
            secret(second)
        )
    };
    let now = time::OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
    let warnings = |second: &str| up(&text(second), &[]).sources["a"].warn_of_expired(now);
    assert!(
        warnings("2030-01-01T00:00:00Z")[0].ends_with("1 of 2 secrets of kind \"token\" have expired: remove them")
    );
    assert!(warnings("2021-01-01T00:00:00Z")[0].ends_with("none is left and nothing is accepted"));
    assert_eq!(up("", &[]).sources["clay"].warn_of_expired(now), [] as [&str; 0]);
}

#[test]
fn nothing_that_is_shown_holds_a_secret() {
    let environment = full_environment();
    let locations = Locations::resolve(None, None, &environment, Path::new("/nowhere"));
    let inspection = interpret(Role::Up, Some(EVERY_KEY[0]), &locations, &environment, false);
    let shown = to_toml(&inspection.settings);
    let everything = format!("{inspection:?}\n{environment:?}\n{shown}");
    for secret in [
        "pg-secret",
        "mq-secret",
        "clay-secret",
        "form-secret",
        "crm-secret",
        "team-secret",
        "slack-secret",
        "-of-mine\"",
    ] {
        assert!(!everything.contains(secret), "{secret} is shown");
    }
    for literal in ["admin-token", "password-of-mine", "key-of-mine", "signed-url-secret", "MDEyMzQ1"] {
        assert!(!everything.contains(literal), "{literal} is shown");
    }
}
