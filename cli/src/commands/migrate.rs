//! `claygate migrate`: brings the schema up to date without starting anything else.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use common::config::Role;
use common::db::{ConnectSettings, MigrateError, Migrated, migrate};
use serde_json::json;

use super::since::parse_limit;
use crate::globals::{Globals, OpenDatabase};

/// Between two tries at least, so that what waited behind the first one gets its turn.
const AGAIN: Duration = Duration::from_secs(1);

/// Bring the database's schema up to date.
///
/// `up`, `ingest` and `worker` do the same when they start; running it twice, or from many places at once, is safe.
///
/// A migration that changes a table needs it for itself. It waits two seconds for those who use it, since callbacks wait
/// behind it, and then gives way to them, says whose sessions are in the way, and tries again when one of these is done.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    claygate migrate --config /etc/claygate.toml\n  \
    claygate migrate --wait 2h   # until the backup is done")]
pub(crate) struct Migrate {
    /// Go on trying for so long while others use a table that is to be changed: 90s, 10m, 1h.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = parse_limit)]
    wait: Duration,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

impl Migrate {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let open = OpenDatabase::open(&globals.load(Role::Tool)?).await?;
        let done = self.migrate(open.database().settings()).await;
        open.close().await?;
        match (done?, self.json) {
            (Migrated::Current { version, applied }, false) => {
                say!("The schema is at version {version}; {applied} migrations were applied.");
            }
            (Migrated::Newer { schema, binary }, false) => {
                say!("The schema (version {schema}) is newer than this binary (version {binary}); left as it is.");
            }
            (Migrated::Current { version, applied }, true) => {
                super::print_json(&json!({ "schema_version": version, "applied": applied, "newer": false }))?;
            }
            (Migrated::Newer { schema, .. }, true) => {
                super::print_json(&json!({ "schema_version": schema, "applied": 0, "newer": true }))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn migrate(&self, settings: &ConnectSettings) -> Result<Migrated, MigrateError> {
        let began = Instant::now();
        loop {
            let error = match migrate(settings).await {
                Err(error @ MigrateError::InUse(_)) => error,
                done => return done,
            };
            let left = self.wait.saturating_sub(began.elapsed() + AGAIN);
            if left.is_zero() {
                return Err(error);
            }
            eprintln!("claygate: {error}; trying again when that is over");
            if let Ok(done) = tokio::time::timeout(left, error.wait_for_holders(settings)).await {
                done?;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
