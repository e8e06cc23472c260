//! `claygate migrate`: brings the schema up to date without starting anything else.

use std::process::ExitCode;

use clap::Args;
use common::config::Role;
use common::db::{Migrated, migrate};
use serde_json::json;

use crate::globals::{Globals, OpenDatabase};

/// Bring the database's schema up to date.
///
/// `up`, `ingest` and `worker` do the same when they start; running it twice, or from many places at once, is safe.
#[derive(Args)]
#[command(after_help = "Example:\n  claygate migrate --config /etc/claygate.toml")]
pub(crate) struct Migrate {
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

impl Migrate {
    pub(crate) async fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let open = OpenDatabase::open(&globals.load(Role::Tool)?).await?;
        let done = migrate(open.database().settings()).await;
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
}
