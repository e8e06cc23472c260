//! The `worker` binary: parse, build, run.

use clap::Parser;
use worker::service::{Arguments, run};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(arguments))
}
