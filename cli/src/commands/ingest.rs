//! `claygate ingest`: the intake as a process of its own, the same as the `ingest` binary.

use std::process::ExitCode;

use clap::Args;
use ingest::service;

use crate::globals::Globals;

/// Run the intake alone: it answers Clay, commits to Postgres, and spools while Postgres is away.
///
/// It needs `database.url`, a data folder (or `spool.dir`) of its own, and the sources' secrets. SIGTERM ends it after
/// everything that it has taken is answered.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate ingest --config /etc/claygate.toml --data /srv/claygate-1")]
pub(crate) struct Ingest {}

impl Ingest {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        service::run(globals).await?;
        Ok(ExitCode::SUCCESS)
    }
}
