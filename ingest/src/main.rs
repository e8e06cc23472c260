//! The `ingest` binary: parse, build, run.

use clap::Parser;
use common::process::Arguments;

/// Take callbacks in: verify, key, commit, answer.
#[derive(Parser)]
#[command(name = "ingest", version, after_help = "Example:\n  ingest --config /etc/claygate.toml")]
struct Invocation {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> anyhow::Result<()> {
    let Invocation { arguments } = Invocation::parse();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(ingest::service::run(&arguments))
}
