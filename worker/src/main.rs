//! The `worker` binary: parse, build, run.

use clap::Parser;
use common::process::Arguments;

/// Route stored callbacks and deliver what comes of them.
#[derive(Parser)]
#[command(name = "worker", version, after_help = "Example:\n  worker --config /etc/claygate.toml")]
struct Invocation {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> anyhow::Result<()> {
    let Invocation { arguments } = Invocation::parse();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(worker::service::run(&arguments))
}
