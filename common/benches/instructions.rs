//! Counts the instructions of the pure parts that every callback passes: `cargo bench -p common --bench instructions`, with
//! a word behind `--` to choose by name.
//!
//! The same program gives nearly the same counts whatever else the machine does, so that a change of one in a hundred can be
//! seen. This program runs itself with a part done a number of times, and again with more of them; the difference is the
//! part's. The processor counts (`perf stat`), where it may. Elsewhere `valgrind` does, which has no SHA instructions, so that
//! signatures and digests are counted as an old processor would make them.
#![allow(clippy::unwrap_used, missing_docs, clippy::print_stdout)]

mod parts;

use std::env::{args, current_exe};
use std::process::{Command, ExitCode};

use parts::Part;

/// The first argument of a run that is counted: a part's name and how often follow.
const RUN: &str = "--run";
/// How often a part is done in the shorter run.
const FEW: u64 = 20;
/// Instructions that the longer run has more, or about: what a program needs for its start differs by thousands.
const MORE: u64 = 50_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = args().skip(1).collect();
    if let [RUN, name, times] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        let times: u64 = times.parse().unwrap();
        let part = parts::all().into_iter().find(|part| full_name(part) == name).unwrap();
        (0..times).for_each(|_| (part.run)());
        return ExitCode::SUCCESS;
    }
    let Some(counter) =
        [Counter::Processor, Counter::Valgrind].into_iter().find(|counter| counter.count(&[]).is_some())
    else {
        eprintln!("instructions: neither `perf stat` nor `valgrind` can count here (Debian: apt-get install valgrind)");
        return ExitCode::FAILURE;
    };
    println!("Instructions of one callback, counted by {}:\n", counter.name());
    println!("| {:<32} | instructions | per byte |\n|{}|--------------|----------|", "part", "-".repeat(34));
    let chosen = arguments.iter().find(|argument| !argument.starts_with("--"));
    for part in parts::all() {
        let name = full_name(&part);
        if chosen.is_some_and(|word| !name.contains(word.as_str())) {
            continue;
        }
        let counted = |times: u64| counter.count(&[RUN, &name, &times.to_string()]);
        let Some(each) = count_one(counted) else {
            eprintln!("instructions: {name} could not be counted");
            return ExitCode::FAILURE;
        };
        let per_byte = part.bytes.map_or_else(|| "–".to_owned(), |bytes| format!("{:.1}", each as f64 / bytes as f64));
        println!("| {name:<32} | {each:>12} | {per_byte:>8} |");
    }
    ExitCode::SUCCESS
}

/// What one time takes, by what `counted` gives for a number of times.
fn count_one(counted: impl Fn(u64) -> Option<u64>) -> Option<u64> {
    let (once, few) = (counted(1)?, counted(FEW)?);
    let about = (few.saturating_sub(once) / (FEW - 1)).max(100);
    let times = (MORE / about).max(FEW);
    Some((counted(FEW + times)?.saturating_sub(few) + times / 2) / times)
}

fn full_name(part: &Part) -> String {
    format!("{}/{}", part.group, part.name)
}

/// Who counts.
#[derive(Clone, Copy)]
enum Counter {
    Processor,
    Valgrind,
}

impl Counter {
    fn name(self) -> &'static str {
        match self {
            Self::Processor => "the processor (`perf stat`)",
            Self::Valgrind => "`valgrind`, without SHA instructions",
        }
    }

    /// Instructions of this program with `arguments`, or of `true` where there are none; `None` where it cannot count.
    fn count(self, arguments: &[&str]) -> Option<u64> {
        let mut command = match self {
            Self::Processor => Command::new("perf"),
            Self::Valgrind => Command::new("valgrind"),
        };
        match self {
            Self::Processor => command.args(["stat", "-x", ",", "-e", "instructions:u"]),
            Self::Valgrind => command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]),
        };
        if arguments.is_empty() {
            command.arg("true");
        } else {
            command.arg(current_exe().ok()?).args(arguments);
        }
        let output = command.output().ok().filter(|output| output.status.success())?;
        let said = String::from_utf8_lossy(&output.stderr);
        said.lines().find_map(|line| match self {
            Self::Processor => line.split(',').next().filter(|_| line.contains("instructions"))?.parse().ok(),
            Self::Valgrind => line.split_once("Collected : ")?.1.trim().parse().ok(),
        })
    }
}
