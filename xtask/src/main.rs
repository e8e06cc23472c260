//! The repository's own commands: `cargo xtask up`, `test`, `bench`, `crash`, `fuzz` and `proof`.
//!
//! Chores live here, in Rust, and nothing of the product does. Each of them prepares the machine first, so that a fresh
//! clone on a fresh machine needs nothing else.
#![allow(clippy::print_stdout, reason = "a command talks to whoever runs it")]

mod apt;
mod bench;
mod crash;
mod fuzz;
mod machine;
mod proof;
mod servers;
mod shell;
mod skipped;
mod test;
mod up;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The repository's own commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sets up the machine, builds claygate and runs `claygate up` with the arguments that follow.
    ///
    /// Example: cargo xtask up --data /srv/claygate
    Up {
        /// For `claygate up`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Sets up the machine, checks format and lints, and runs every test against a PostgreSQL and a RabbitMQ of its own.
    ///
    /// Example: cargo xtask test -E 'package(embedded)'
    Test {
        /// For `cargo nextest run`, or for `cargo test` where nextest is not installed.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Sets up the machine, builds everything in release, and measures it beside its limits and what people use today.
    ///
    /// Example: cargo xtask bench --only intake
    #[command(disable_help_flag = true)]
    Bench {
        /// For the bench; `--help` lists them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Kills, stops and cuts off everything under load, and looks whether anything was lost or sent twice.
    ///
    /// Without arguments: what the test command runs of it, each fault once. With --full: release builds, long stops,
    /// random order, again and again; the first promise that is broken ends it, with exit code 1 and the command that
    /// repeats it.
    ///
    /// Example: cargo xtask crash --full --seed 42 --minutes 60
    Crash(crash::Crash),
    /// Gives hostile input to what reads it, and looks at what has to hold. Needs cargo-fuzz and a C++ compiler.
    ///
    /// Example: cargo xtask fuzz signature --minutes 10
    Fuzz(fuzz::Fuzz),
    /// Starts a site, and has schemathesis try whether both ports keep to their OpenAPI document. Needs Python.
    ///
    /// Example: cargo xtask proof --examples 500
    Proof(proof::Proof),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Up { arguments } => up::run(&arguments),
        Command::Test { arguments } => test::run(&arguments),
        Command::Bench { arguments } => bench::run(&arguments),
        Command::Crash(crash) => crash::run(&crash),
        Command::Fuzz(fuzz) => fuzz.run(),
        Command::Proof(proof) => proof.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
