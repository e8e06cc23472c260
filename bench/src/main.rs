//! The `bench` binary: parse, run, print. `cargo xtask bench` builds what it needs and calls it.
#![allow(clippy::print_stdout, reason = "a command talks to whoever runs it")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bench::profile;
use bench::report::{self, Header, Results};
use bench::rig::{Needs, Rig};
use bench::roles::{Role, play};
use bench::scenarios::{Scenario, Timing, all, run_rounds, select};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Measure claygate beside its limits and beside what people use today.
#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench --only intake-pg --only limit --rounds 1\n  \
                  cargo xtask bench --only delivered --seconds 2 --json\n\n\
                  An idle machine gives the best numbers; rounds that others disturbed are repeated and marked."
)]
struct Arguments {
    #[command(subcommand)]
    hidden: Option<Hidden>,
    /// Only scenarios of this name, or whose names begin so; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// How often each scenario has its turn [default: 3; with --only or --profile 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Seconds of load of one run, after a warm-up of a third of it [default: 5; with --only or --profile 2]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: Option<u64>,
    /// The intake at every combination of connections, length, repeats and proof
    #[arg(long)]
    each: bool,
    /// Draw a flame graph of each process, with `perf`, and keep it with the logs; the numbers are worth less then
    #[arg(long, conflicts_with = "write")]
    profile: bool,
    /// List the scenarios
    #[arg(long)]
    list: bool,
    /// Print everything that was measured, round by round, as JSON
    #[arg(long)]
    json: bool,
    /// Write the tables into docs/performance.md
    #[arg(long, conflicts_with = "only")]
    write: bool,
}

#[derive(Subcommand)]
enum Hidden {
    /// One of the processes of a run
    #[command(hide = true)]
    Role { plan: String },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.hidden {
        Some(Hidden::Role { plan }) => play_role(plan).map(|()| ExitCode::SUCCESS),
        None => run(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn play_role(plan: &str) -> anyhow::Result<()> {
    let role: Role = serde_json::from_str(plan).context("reading the role's plan")?;
    play(role)
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.list {
        for scenario in all(arguments.each) {
            println!("{:<26} {}", scenario.name, scenario.title);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let scenarios = select(&arguments.only, arguments.each)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let results = runtime.block_on(async {
        // Dropping what runs ends its processes.
        tokio::select! {
            results = measure(arguments, scenarios) => results,
            signal = wait_for_signal() => Err(signal.map_or_else(anyhow::Error::from, |()| anyhow::anyhow!("interrupted"))),
        }
    })?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report::to_json(&results))?);
    } else {
        println!("{}", report::to_text(&results));
    }
    if arguments.write {
        let file = PathBuf::from("docs/performance.md");
        report::write_into(&file, &results)?;
        eprintln!("bench: wrote {}", file.display());
    }
    Ok(if results.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits for SIGINT or SIGTERM.
async fn wait_for_signal() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn measure(arguments: &Arguments, scenarios: Vec<Scenario>) -> anyhow::Result<Results> {
    let working = !arguments.only.is_empty() || arguments.profile;
    let measured = Duration::from_secs(arguments.seconds.unwrap_or(if working { 2 } else { 5 }));
    let timing = Timing { warm_up: measured / 3, measured, profile: arguments.profile };
    let rounds = arguments.rounds.unwrap_or(if working { 1 } else { 3 });
    let needs = Needs {
        rabbitmq: scenarios.iter().any(|scenario| scenario.needs().rabbitmq),
        node: scenarios.iter().any(|scenario| scenario.needs().node),
    };
    if arguments.profile {
        profile::check().await?;
    }
    let rig = Rig::start(needs, arguments.profile).await?;
    let scenarios: Vec<Scenario> =
        scenarios.into_iter().filter(|scenario| rig.baselines.is_some() || !scenario.needs().node).collect();
    let header = Header::of(&rig, rounds, timing)?;
    let (rounds, failures) = run_rounds(&rig, &scenarios, timing, rounds).await;
    rig.stop().await?;
    Ok(Results { header, scenarios, rounds, failures })
}
