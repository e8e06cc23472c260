//! The `claygate` command: parses, runs one subcommand, and answers with an exit code (0 ok, 1 failed, 2 usage).

#[macro_use]
mod say;

mod commands;
mod globals;
mod run_file;
mod shell;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Command;
use crate::globals::Globals;

/// A durable gateway between Clay and the rest of a go-to-market stack.
#[derive(Parser)]
#[command(name = "claygate", version, arg_required_else_help = true)]
struct Invocation {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    let Invocation { globals, command } = Invocation::parse();
    match run(&globals, command) {
        Ok(_) if say::has_failed() => ExitCode::FAILURE,
        Ok(code) => code,
        Err(error) => {
            eprintln!("claygate: {}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(globals: &Globals, command: Command) -> anyhow::Result<ExitCode> {
    // A second installation in one process is refused; the first stays.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(command.run(globals));
    // A read of standard input that waits for somebody to type holds nothing up.
    runtime.shutdown_background();
    done
}

/// The error and its causes; causes that the text above already contains are left out.
fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}
