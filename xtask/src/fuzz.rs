//! `cargo xtask fuzz`: each fuzz target for its share of the time, from its committed corpus on.
//!
//! What a run finds goes to `fuzz/target/corpus`, never into the committed corpus: that one is small, and a person says what
//! enters it. A crash is a file, and the command that repeats it is printed with it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::Args;

use crate::shell::{self, cargo, works};

const FOLDER: &str = "fuzz";
/// The largest input, in bytes: what is interesting is odd, not long.
const INPUT_BYTES_MAX: u32 = 4096;
/// One input may take this long. The rules' own deadline is shorter.
const INPUT_SECONDS_MAX: u32 = 30;
const MEMORY_MIB_MAX: u32 = 2048;
/// Lines of a crash that are shown.
const TAIL_LINES: usize = 30;

#[derive(Args)]
pub(crate) struct Fuzz {
    /// One target instead of all of them: body, configuration, lead, retry_after, rule, signature.
    #[arg(value_parser = known_target)]
    target: Option<String>,
    /// Minutes for all targets together.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
}

/// How a run of one target went.
#[derive(Default)]
struct Outcome {
    runs: u64,
    coverage: u64,
    new_inputs: u64,
    /// What the run ended with, where it did not end by itself.
    crash: Option<Crash>,
}

#[derive(Default)]
struct Crash {
    file: Option<PathBuf>,
    tail: VecDeque<String>,
}

impl Fuzz {
    /// Builds the targets and runs them, one after the other. Fails when one of them crashed, after all of them ran.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        ensure_tools()?;
        let targets = match &self.target {
            Some(target) => vec![target.clone()],
            None => targets()?,
        };
        shell::run(fuzz("build").args(self.target.as_deref()))?;
        let seconds = self.minutes * 60 / targets.len() as u64;
        println!("{seconds} s for each of {}", targets.join(", "));
        let mut crashed = Vec::new();
        for target in &targets {
            let outcome = run_target(target, seconds)?;
            let Outcome { runs, coverage, new_inputs, .. } = outcome;
            println!("{target:<14} {runs:>10} runs, coverage {coverage:>6}, {new_inputs:>5} new inputs");
            if let Some(crash) = outcome.crash {
                report(target, &crash);
                crashed.push(target.as_str());
            }
        }
        if !crashed.is_empty() {
            bail!(
                "{} broke a promise: {}",
                if crashed.len() == 1 { "a target" } else { "targets" },
                crashed.join(", ")
            );
        }
        println!("no target broke a promise; new inputs lie in {}", found(Path::new(FOLDER), "<target>").display());
        Ok(())
    }
}

/// Nothing is installed here: these are a developer's tools, which no other command needs.
fn ensure_tools() -> anyhow::Result<()> {
    if !works(cargo().args(["fuzz", "--version"])) {
        bail!("cargo-fuzz is not installed here; install it with: cargo install cargo-fuzz --locked");
    }
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    if !works(Command::new(&compiler).arg("--version")) {
        bail!("libFuzzer is built with a C++ compiler, and there is no `c++` here; install g++ or clang, or set CXX");
    }
    Ok(())
}

/// `cargo fuzz` for the stable toolchain, which has no sanitizers.
fn fuzz(command: &str) -> Command {
    let mut fuzz = cargo();
    fuzz.args(["fuzz", command, "--sanitizer", "none"]).current_dir(root());
    fuzz
}

fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// Where the inputs of a target go that its runs find.
fn found(fuzz: &Path, target: &str) -> PathBuf {
    fuzz.join("target").join("corpus").join(target)
}

fn targets() -> anyhow::Result<Vec<String>> {
    let folder = root().join(FOLDER).join("fuzz_targets");
    let mut targets = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        targets.extend(entry?.path().file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    targets.sort_unstable();
    Ok(targets)
}

fn known_target(name: &str) -> Result<String, String> {
    let known = targets().map_err(|error| error.to_string())?;
    if known.iter().any(|target| target == name) {
        Ok(name.to_owned())
    } else {
        Err(format!("there is no such target (there are {})", known.join(", ")))
    }
}

fn run_target(target: &str, seconds: u64) -> anyhow::Result<Outcome> {
    let found = found(&root().join(FOLDER), target);
    std::fs::create_dir_all(&found).with_context(|| format!("making {}", found.display()))?;
    let mut command = fuzz("run");
    // libFuzzer writes into the first corpus and only reads the other.
    command.arg(target).arg(&found).arg(root().join(FOLDER).join("corpus").join(target)).arg("--");
    command.args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={INPUT_BYTES_MAX}"),
        format!("-timeout={INPUT_SECONDS_MAX}"),
        format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
        "-print_final_stats=1".to_owned(),
    ]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("starting cargo fuzz")?;
    let mut outcome = Outcome::default();
    let mut crash = Crash::default();
    if let Some(said) = child.stderr.take() {
        for line in BufReader::new(said).split(b'\n') {
            hear(&String::from_utf8_lossy(&line?), &mut outcome, &mut crash);
        }
    }
    if !child.wait()?.success() {
        outcome.crash = Some(crash);
    }
    Ok(outcome)
}

/// Takes out of one of libFuzzer's lines what it says.
fn hear(line: &str, outcome: &mut Outcome, crash: &mut Crash) {
    let number = |text: &str| text.split_whitespace().next().and_then(|word| word.parse().ok());
    // `#1024	pulse  cov: 310 ft: 480 corp: 12/1k …`
    if let Some((_, coverage)) = line.split_once(" cov: ") {
        outcome.coverage = number(coverage).unwrap_or(outcome.coverage);
    }
    if let Some(runs) = line.strip_prefix("stat::number_of_executed_units:") {
        outcome.runs = number(runs).unwrap_or_default();
    }
    if let Some(inputs) = line.strip_prefix("stat::new_units_added:") {
        outcome.new_inputs = number(inputs).unwrap_or_default();
    }
    if let Some((_, file)) = line.split_once("Test unit written to ") {
        crash.file = Some(PathBuf::from(file.trim()));
    }
    if !line.starts_with('#') && !line.trim().is_empty() {
        crash.tail.push_back(line.to_owned());
        if crash.tail.len() > TAIL_LINES {
            crash.tail.pop_front();
        }
    }
}

fn report(target: &str, crash: &Crash) {
    crash.tail.iter().for_each(|line| println!("  {line}"));
    match &crash.file {
        Some(file) => {
            println!("the input is {}", file.display());
            println!("repeat it:   cargo fuzz run --sanitizer none {target} {}", file.display());
            println!("once it is repaired, keep it in fuzz/corpus/{target}, under a name that says what it is");
        }
        None => println!("it left no input: it did not start, or was ended from outside"),
    }
}
