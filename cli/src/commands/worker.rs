//! `claygate worker`: the worker as a process of its own, the same as the `worker` binary.

use std::process::ExitCode;

use clap::Args;
use worker::service;

use crate::globals::Globals;

/// Run the worker alone: it routes what was taken in and delivers it.
///
/// It needs `database.url` and the destinations' tokens. Any number may run. SIGTERM ends it after what is under way.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate worker --config /etc/claygate.toml")]
pub(crate) struct Worker {}

impl Worker {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        service::run(globals).await?;
        Ok(ExitCode::SUCCESS)
    }
}
