//! `cargo xtask proof`: schemathesis against the OpenAPI document of a running `claygate up`, on both ports.
//!
//! schemathesis is a Python program. It lives in a folder of its own below `target/`, in the version that is named here.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::machine;
use crate::shell::{self, cargo, works};

const VERSION: &str = "4.32.5";
/// A slow machine builds a database first.
const START_MAX: Duration = Duration::from_secs(120);
const SECRET: &str = "a-secret-of-the-proof-alone";
/// One source of each kind that a request can be made for without a clock, and a table of Clay that nobody has.
const CONFIGURATION: &str = r#"
[sources.clay]
path = "/api/clay/enriched"
verify = { kind = "token", header = "X-Clay-Signature", secrets = ["a-secret-of-the-proof-alone"] }
[sources.strict]
path = "/strict"
verify = { kind = "token", header = "X-Clay-Signature", secrets = ["a-secret-of-the-proof-alone"] }
idempotency = { pointers = ["/id"], changed = "conflict" }
[sources.open]
path = "/open"
verify = { kind = "none" }
[destinations.outreach]
kind = "log"
[destinations.leads]
kind = "clay"
workspace = "nobody"
webhooks = [{ url = "http://127.0.0.1:9/nobody-listens-here" }]
[[rules]]
name = "all"
when = "true"
to = ["outreach"]
"#;

#[derive(Args)]
pub(crate) struct Proof {
    /// Requests for each operation.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    examples: u32,
    /// Repeats a run: the seed that it printed.
    #[arg(long)]
    seed: Option<u128>,
}

/// A running site; ends with this.
struct Site {
    up: Child,
    folder: tempfile::TempDir,
}

impl Proof {
    /// Starts a site and has both of its ports tried. Fails when one of them answers what is not described.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        machine::ensure_postgres()?;
        let schemathesis = ensure_schemathesis()?;
        shell::run(cargo().args(["build", "--package", "cli", "--bin", "claygate"]))?;
        let mut site = Site::start()?;
        let ports = site.wait_until_ready()?;
        let mut failed = Vec::new();
        for (name, port, method) in [("public", ports.public, "POST"), ("admin", ports.admin, "GET")] {
            let mut command = Command::new(&schemathesis);
            command.arg("run").arg(format!("http://127.0.0.1:{}/openapi.json", ports.admin));
            command.args(["--url", &format!("http://127.0.0.1:{port}"), "--include-method", method]);
            command.args(["--max-examples", &self.examples.to_string(), "--no-color"]);
            command.args(["--header", &format!("X-Clay-Signature: {SECRET}")]);
            command.args(["--header", &format!("Authorization: Bearer {SECRET}")]);
            // The header is given with every request, so that there is no request without a credential to be refused;
            // and a stranger's method is answered 405 by the test of the document.
            command.args(["--exclude-checks", "ignored_auth"]);
            if let Some(seed) = self.seed {
                command.args(["--seed", &seed.to_string()]);
            }
            if shell::run(&mut command).is_err() {
                failed.push(name);
            }
        }
        let alive = site.up.try_wait()?.is_none();
        if !alive {
            bail!("claygate ended while it was tried; its log is above");
        }
        if !failed.is_empty() {
            bail!(
                "the {} port does not keep to its document; repeat it with the seed above: cargo xtask proof --seed SEED",
                failed.join(" and the ")
            );
        }
        println!("both ports keep to their document");
        Ok(())
    }
}

/// The program, installed below `target/` where it is not there yet.
fn ensure_schemathesis() -> anyhow::Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = here.parent().unwrap_or(here).join("target").join(format!("schemathesis-{VERSION}"));
    let program = folder.join("bin").join("schemathesis");
    if works(Command::new(&program).arg("--version")) {
        return Ok(program);
    }
    if !works(Command::new("python3").args(["-c", "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))"]))
    {
        bail!(
            "schemathesis needs Python 3.10 or later with venv, and there is none here; install it (on Debian: \
             apt-get install python3-venv) and repeat the command"
        );
    }
    println!("- installing schemathesis {VERSION} into {}", folder.display());
    shell::run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    let pip = folder.join("bin").join("pip");
    shell::run(Command::new(pip).args(["install", "--quiet", &format!("schemathesis=={VERSION}")]))?;
    Ok(program)
}

struct Ports {
    public: u16,
    admin: u16,
}

impl Site {
    fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("claygate-proof-").tempdir().context("making a folder")?;
        let mut configuration = String::new();
        let listen = "listen = \"127.0.0.1:0\"";
        write!(configuration, "[ingest]\n{listen}\nrows_tokens = [\"{SECRET}\"]\n[admin]\n{listen}\n{CONFIGURATION}")?;
        std::fs::write(folder.path().join("claygate.toml"), configuration).context("writing the configuration")?;
        let here = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(here.with_file_name("claygate"));
        command.arg("up").current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let log = std::fs::File::create(folder.path().join("log")).context("making the log")?;
        let up = command.stderr(log).spawn().context("starting claygate")?;
        Ok(Self { up, folder })
    }

    /// Its ports, once it says them.
    fn wait_until_ready(&mut self) -> anyhow::Result<Ports> {
        let started = Instant::now();
        let run_file = self.folder.path().join("claygate-data").join("run.json");
        loop {
            let text = std::fs::read_to_string(&run_file).unwrap_or_default();
            if let (Some(public), Some(admin)) = (port_of(&text, "\"port\""), port_of(&text, "\"admin_port\"")) {
                return Ok(Ports { public, admin });
            }
            let log = || std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            if let Some(status) = self.up.try_wait()? {
                bail!("claygate ended ({status}):\n{}", log());
            }
            if started.elapsed() > START_MAX {
                bail!("claygate is not ready after {START_MAX:?}:\n{}", log());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The number behind a key that stands there first, in what `claygate up` writes.
fn port_of(text: &str, key: &str) -> Option<u16> {
    let (_, behind) = text.split_once(key)?;
    let digits: String = behind.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

impl Drop for Site {
    /// By its own way, so that its Postgres stops with it.
    fn drop(&mut self) {
        let pid = i32::try_from(self.up.id()).ok().and_then(Pid::from_raw);
        let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        if !asked {
            let _ = self.up.kill();
        }
        let _ = self.up.wait();
    }
}
