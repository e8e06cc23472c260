//! `claygate doctor`: looks at everything that can be wrong on this machine, and says what to do about it.
//!
//! It repairs nothing and stays away from people's data. It runs beside a live `up` as well as without one.

mod broker;
mod checks;
mod database;

use std::fmt;
use std::process::ExitCode;

use clap::Args;
use common::config::{Environment, Inspection, Role};
use serde::Serialize;

use crate::globals::Globals;
use crate::run_file::RunFile;

/// Check this machine, the configuration and the database, and say what to do.
///
/// Exits with 1 if something is broken; warnings do not count.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate doctor --json")]
pub(crate) struct Doctor {
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// What one look found.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    what: &'static str,
    detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, detail: impl Into<String>) -> Self {
        Self { level: Level::Ok, what, detail: detail.into(), remedy: None }
    }

    fn warn(what: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Warn, what, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    fn fail(what: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { level: Level::Fail, what, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok  ",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        write!(f, "{level}  {:<14} {}", self.what, self.detail)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n{:21}{remedy}", ""),
            None => Ok(()),
        }
    }
}

impl Doctor {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let findings = examine(globals).await?;
        if self.json {
            super::print_json(&findings)?;
        } else {
            findings.iter().for_each(|finding| say!("{finding}"));
        }
        let failed = findings.iter().any(|finding| finding.level == Level::Fail);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

async fn examine(globals: &Globals) -> anyhow::Result<Vec<Finding>> {
    let environment = Environment::from_process();
    let locations = globals.locations(&environment)?;
    let inspection = Inspection::before_first_start(Role::Up, &locations, &environment);
    let mut findings = vec![checks::configuration(&inspection, &locations)];
    findings.extend(checks::data_folder(&locations.data));
    // What the broken parts do not concern can still be looked at.
    let config = match inspection.config {
        Ok(config) => config,
        Err(_) => match globals.load(Role::Tool) {
            Ok(config) => config,
            Err(_) => return Ok(findings),
        },
    };
    let running = RunFile::of_live(&config.data)?;
    findings.push(checks::process(running.as_ref(), &config.data));
    findings.extend(checks::ports(&config, running.as_ref()));
    findings.push(checks::spool(&config));
    if config.database.url.is_none() {
        findings.push(checks::binaries());
    }
    findings.extend(database::check(&config, running.as_ref()).await);
    findings.extend(broker::check(&config).await);
    Ok(findings)
}
