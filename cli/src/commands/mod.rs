//! One file per subcommand. Each has `--help` with an example, and `--json` where it prints data.

mod column;
mod config;
mod counted;
mod dead;
mod demo;
mod destinations;
mod doctor;
mod events;
mod health;
mod ingest;
mod init;
mod interrupt;
mod r#loop;
mod migrate;
mod paging;
mod plan;
mod quota;
mod retention;
mod send;
mod since;
mod up;
mod verify;
mod worker;

use std::process::ExitCode;

use clap::Subcommand;

use crate::globals::Globals;

/// The subcommands.
#[derive(Subcommand)]
pub(crate) enum Command {
    Up(up::Up),
    Ingest(ingest::Ingest),
    Worker(worker::Worker),
    Init(init::Init),
    Loop(r#loop::Loop),
    Config(config::Config),
    Column(column::Column),
    Dead(dead::Dead),
    Demo(demo::Demo),
    Destinations(destinations::Destinations),
    Doctor(doctor::Doctor),
    Events(events::Events),
    Health(health::Health),
    Migrate(migrate::Migrate),
    Quota(quota::Quota),
    Retention(retention::Retention),
    Send(send::Send),
    Verify(verify::Verify),
}

impl Command {
    /// Runs it to its end.
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        match self {
            Self::Up(command) => Box::pin(command.run(globals)).await,
            Self::Ingest(command) => Box::pin(command.run(globals)).await,
            Self::Worker(command) => Box::pin(command.run(globals)).await,
            Self::Init(command) => Box::pin(command.run(globals)).await,
            Self::Loop(command) => Box::pin(command.run(globals)).await,
            Self::Config(command) => Box::pin(command.run(globals)).await,
            Self::Column(command) => Box::pin(command.run(globals)).await,
            Self::Dead(command) => Box::pin(command.run(globals)).await,
            Self::Destinations(command) => Box::pin(command.run(globals)).await,
            Self::Events(command) => Box::pin(command.run(globals)).await,
            Self::Demo(command) => Box::pin(command.run(globals)).await,
            Self::Doctor(command) => Box::pin(command.run(globals)).await,
            Self::Health(command) => Box::pin(command.run(globals)).await,
            Self::Migrate(command) => Box::pin(command.run(globals)).await,
            Self::Quota(command) => Box::pin(command.run(globals)).await,
            Self::Retention(command) => Box::pin(command.run(globals)).await,
            Self::Send(command) => Box::pin(command.run(globals)).await,
            Self::Verify(command) => Box::pin(command.run(globals)).await,
        }
    }
}

/// Prints `value` as JSON, for `--json`.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
