//! The `bench` binary: parse, run, print. `cargo xtask bench` builds what it needs and calls it.
#![allow(clippy::print_stdout, reason = "a command talks to whoever runs it")]

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use bench::growth;
use bench::profile;
use bench::report::{self, Header, Page, Results};
use bench::rig::{Needs, Rig};
use bench::roles::{Role, play};
use bench::rows;
use bench::scenarios::{Queue, Scenario, Timing, all, loads, run_rounds, select};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// How often memory is looked at under a load.
const LOOKS: u32 = 10;
/// The longest warm-up of a load.
const WARM_UP_MAX: Duration = Duration::from_secs(20);

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
    command: Option<Command>,
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
enum Command {
    /// Load it steadily, in a burst, in a storm, and before bad destinations, and count what is lost or sent again
    Load(Load),
    /// Fill sites with callbacks, and measure what grows with them
    Growth(growth::Growth),
    /// Send files of rows into a fake Clay, with and without its limits, and kill what sends them
    Rows(rows::Rows),
    /// One of the processes of a run
    #[command(hide = true)]
    Role { plan: String },
}

#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask bench load\n  cargo xtask bench load --only steady --minutes 30 --write\n\n\
                  Every callback has a number, and the two ends are compared, number by number."
)]
struct Load {
    /// Only scenarios whose names begin so: steady, burst, storm, slow, failing, hung; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Callbacks per second
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Seconds of load of one run, after a warm-up of a third of it
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=3600))]
    seconds: u64,
    /// A soak: minutes of load of one run instead
    #[arg(long, conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: Option<u64>,
    /// How often each scenario has its turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Print everything that was measured, round by round, as JSON
    #[arg(long)]
    json: bool,
    /// Write the tables into docs/proof.md, where a soak has a place of its own
    #[arg(long)]
    write: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Some(Command::Role { plan }) => play_role(plan).map(|()| ExitCode::SUCCESS),
        Some(Command::Load(load)) => run_load(load),
        Some(Command::Growth(growth)) => run_growth(growth),
        Some(Command::Rows(rows)) => run_rows(rows),
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
        let line = |scenario: Scenario| format!("{:<26} {}\n", scenario.name, scenario.title);
        let lines: String = all(arguments.each).into_iter().map(line).collect();
        // In one piece, for readers that go after the first lines.
        std::io::stdout().write_all(lines.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let scenarios = select(&arguments.only, arguments.each)?;
    let working = !arguments.only.is_empty() || arguments.profile;
    let measured = Duration::from_secs(arguments.seconds.unwrap_or(if working { 2 } else { 5 }));
    let timing = Timing { warm_up: measured / 3, measured, pieces: 1, profile: arguments.profile, looks: 1 };
    let rounds = arguments.rounds.unwrap_or(if working { 1 } else { 3 });
    let results = measure(scenarios, timing, rounds)?;
    finish(&results, &report::to_text(&results), arguments.json, arguments.write.then_some(Page::PERFORMANCE))
}

fn run_load(arguments: &Load) -> anyhow::Result<ExitCode> {
    let rate = f64::from(arguments.rate);
    let mut scenarios: Vec<Scenario> =
        [Queue::Postgres, Queue::RabbitMq].into_iter().flat_map(|queue| loads(queue, rate)).collect();
    for name in &arguments.only {
        let known = scenarios.iter().any(|scenario| is_load(scenario, name));
        ensure!(known, "no load is called {name}; there are steady, burst, storm, slow, failing and hung");
    }
    scenarios.retain(|scenario| arguments.only.is_empty() || arguments.only.iter().any(|name| is_load(scenario, name)));
    let measured = Duration::from_secs(arguments.minutes.map_or(arguments.seconds, |minutes| minutes * 60));
    let warm_up = (measured / 3).min(WARM_UP_MAX);
    let results =
        measure(scenarios, Timing { warm_up, measured, pieces: 1, profile: false, looks: LOOKS }, arguments.rounds)?;
    let mut again = vec!["cargo xtask bench".to_owned()];
    again.extend(std::env::args().skip(1));
    finish(
        &results,
        &report::proof_to_text(&results, &again.join(" ")),
        arguments.json,
        arguments.write.then_some(if arguments.minutes.is_some() { Page::SOAK } else { Page::PROOF }),
    )
}

fn is_load(scenario: &Scenario, name: &str) -> bool {
    scenario.name.strip_prefix("load-").is_some_and(|rest| rest.starts_with(name))
}

fn finish(results: &Results, text: &str, json: bool, page: Option<Page>) -> anyhow::Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string_pretty(&report::to_json(results))?);
    } else {
        println!("{text}");
    }
    if let Some(page) = page {
        report::write_into(page, text, &results.failures)?;
        eprintln!("bench: wrote {}", page.file);
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

fn measure(scenarios: Vec<Scenario>, timing: Timing, rounds: u32) -> anyhow::Result<Results> {
    block_on(measure_all(scenarios, timing, rounds))
}

fn run_growth(arguments: &growth::Growth) -> anyhow::Result<ExitCode> {
    let outcome = block_on(growth::run(arguments))?;
    let text = outcome.to_text();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&outcome.to_json())?);
    } else {
        println!("{text}");
    }
    if arguments.write {
        report::write_into(Page::GROWTH, &text, &[])?;
        eprintln!("bench: wrote {}", Page::GROWTH.file);
    }
    Ok(if outcome.broken().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_rows(arguments: &rows::Rows) -> anyhow::Result<ExitCode> {
    let results = block_on(rows::run(arguments))?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&results.to_json())?);
    } else {
        println!("{}", results.to_text());
    }
    Ok(if results.broken().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs `work` to its end, or until a signal.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Dropping what runs ends its processes.
        tokio::select! {
            done = work => done,
            signal = wait_for_signal() => Err(signal.map_or_else(anyhow::Error::from, |()| anyhow::anyhow!("interrupted"))),
        }
    })
}

async fn measure_all(scenarios: Vec<Scenario>, timing: Timing, rounds: u32) -> anyhow::Result<Results> {
    let needs = Needs {
        rabbitmq: scenarios.iter().any(|scenario| scenario.needs().rabbitmq),
        node: scenarios.iter().any(|scenario| scenario.needs().node),
    };
    if timing.profile {
        profile::check().await?;
    }
    let rig = Rig::start(needs, timing.profile).await?;
    let scenarios: Vec<Scenario> =
        scenarios.into_iter().filter(|scenario| rig.baselines.is_some() || !scenario.needs().node).collect();
    let header = Header::of(&rig, rounds, timing)?;
    let (rounds, failures) = run_rounds(&rig, &scenarios, timing, rounds).await;
    rig.stop().await?;
    Ok(Results { header, scenarios, rounds, failures })
}
