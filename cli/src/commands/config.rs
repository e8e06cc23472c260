//! `claygate config check|show`: what is wrong with the configuration, and what is in effect.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use common::config::{
    ConfigError, Destination, Environment, Inspection, Locations, Origin, Problem, Role, Setting, Source, to_toml,
};
use serde_json::{Value, json};
use time::OffsetDateTime;
use worker::destinations::Target;

use crate::describe;
use crate::globals::Globals;

/// Check the configuration, or show what is in effect.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate config check")]
pub(crate) struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say everything that is wrong with the configuration, and what is risky; exit code 1 if it cannot be used.
    #[command(after_help = "Examples:\n  claygate config check\n  claygate config check --role ingest --json")]
    Check(Options),
    /// Print every setting in effect and where it comes from; secrets as ***.
    #[command(after_help = "Examples:\n  claygate config show\n  claygate config show --json")]
    Show(Options),
}

#[derive(Args)]
struct Options {
    /// The process to look at: it decides which variables and secret files have to be there.
    #[arg(long, value_enum, default_value = "up")]
    role: RoleName,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The processes that have a configuration.
#[derive(Clone, Copy, ValueEnum)]
enum RoleName {
    Up,
    Ingest,
    Worker,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Up => Self::Up,
            RoleName::Ingest => Self::Ingest,
            RoleName::Worker => Self::Worker,
        }
    }
}

impl Config {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let (Command::Check(options) | Command::Show(options)) = &self.command;
        let environment = Environment::from_process();
        let locations = globals.locations(&environment)?;
        let mut inspection = Inspection::before_first_start(options.role.into(), &locations, &environment);
        if !matches!(options.role, RoleName::Ingest) {
            inspection.config = inspection.config.and_then(prepare_destinations);
        }
        match &self.command {
            Command::Check(options) => print_check(&inspection, &locations, options.json)?,
            Command::Show(options) => print_settings(&inspection, &locations, options.json)?,
        }
        Ok(if inspection.config.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What only shows when the worker prepares its destinations: templates and headers.
fn prepare_destinations(config: common::config::Config) -> Result<common::config::Config, ConfigError> {
    let problem = |destination: &Destination| {
        let error = Target::prepare(destination).err()?;
        let path = format!("destinations.{}", destination.name);
        Some(Problem { path, place: String::new(), what: describe(&error.into()) })
    };
    let problems: Vec<Problem> = config.destinations.values().filter_map(problem).collect();
    if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
}

fn print_check(inspection: &Inspection, locations: &Locations, as_json: bool) -> anyhow::Result<()> {
    let warnings = all_warnings(inspection, OffsetDateTime::now_utc());
    let problems = inspection.config.as_ref().err().map(|error| error.problems.as_slice()).unwrap_or_default();
    if as_json {
        let problem =
            |problem: &Problem| json!({ "path": problem.path, "place": problem.place, "problem": problem.what });
        return super::print_json(&json!({
            "file": describe_file(locations),
            "data": locations.data,
            "usable": inspection.config.is_ok(),
            "problems": problems.iter().map(problem).collect::<Vec<_>>(),
            "warnings": warnings,
        }));
    }
    let file = match describe_file(locations) {
        Value::String(file) => file,
        _ => format!("no file (there is no {}), so what is built in", locations.file.display()),
    };
    say!("{file}");
    say!("data folder {}", locations.data.display());
    problems.iter().for_each(|problem| say!("problem: {problem}"));
    warnings.iter().for_each(|warning| say!("warning: {warning}"));
    match problems.len() {
        0 => say!("the configuration can be used"),
        1 => say!("the configuration cannot be used: 1 thing has to be changed"),
        many => say!("the configuration cannot be used: {many} things have to be changed"),
    }
    Ok(())
}

fn all_warnings(inspection: &Inspection, now: OffsetDateTime) -> Vec<String> {
    let sources = inspection.config.iter().flat_map(|config| config.sources.values());
    let expired = sources.flat_map(|source: &Source| source.warn_of_expired(now));
    inspection.warnings.iter().cloned().chain(expired).collect()
}

fn print_settings(inspection: &Inspection, locations: &Locations, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let settings: Vec<Value> = inspection.settings.iter().map(describe_setting).collect();
        return super::print_json(&json!({
            "file": describe_file(locations),
            "data": locations.data,
            "usable": inspection.config.is_ok(),
            "settings": settings,
        }));
    }
    match describe_file(locations) {
        Value::String(file) => say!("# file: {file}"),
        _ => say!("# no file; {} would be read", locations.file.display()),
    }
    say!("# data folder: {}\n", locations.data.display());
    crate::say::text(to_toml(&inspection.settings));
    if let Err(error) = &inspection.config {
        eprintln!("claygate: {error}");
    }
    Ok(())
}

/// The file's path; null where there is none.
fn describe_file(locations: &Locations) -> Value {
    if locations.file.exists() { json!(locations.file) } else { Value::Null }
}

fn describe_setting(setting: &Setting) -> Value {
    let origin = match &setting.origin {
        Origin::Default => json!({ "from": "default" }),
        Origin::File { line } => json!({ "from": "file", "line": line }),
        Origin::Variable(name) => json!({ "from": "variable", "name": name }),
    };
    let default = (!setting.words.is_empty()).then_some(setting.words);
    json!({ "setting": format!("{}.{}", setting.section, setting.key), "value": setting.shown, "default": default, "origin": origin })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn a_template_that_is_none_is_found_before_the_worker_starts() {
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let check = |email: &str| {
            let text = format!(
                "[destinations.outreach]\nkind = \"http\"\nurl = \"https://example.com\"\nonce_per = \"1d\"\n\
                 body = {{ email = \"{email}\" }}"
            );
            let variables = [("CLAY_WEBHOOK_SECRET", "0123456789abcdef")].into_iter().collect();
            let config = common::config::Config::from_toml(Role::Up, &text, &variables).unwrap();
            prepare_destinations(config).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(check("{{ lead.email }}"), Ok(()));
        let error = check("{{ lead.email ").unwrap_err();
        assert!(error.contains("destinations.outreach: ") && error.contains("body"), "{error}");
    }
}
