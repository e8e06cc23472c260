//! Processes of a run: started with their output in a file, ended with it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::roles::Role;

/// A clean stop waits for requests in flight.
const STOP_LIMIT: Duration = Duration::from_secs(40);
const LOG_TAIL_MAX: usize = 2000;

/// A process that is killed when it is dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it writes goes to `<name>.log` in `folder`, except a stdout that is piped already.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        // Its last words are to say what was wrong, not where.
        command.env("RUST_BACKTRACE", "0");
        Self::spawn(name, command, log)
    }

    fn spawn(name: &str, mut command: Command, log: PathBuf) -> anyhow::Result<Self> {
        let child = command.kill_on_drop(true).spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its pid; 0 when it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    /// What it wrote last, for an error.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let from = text.char_indices().rev().nth(LOG_TAIL_MAX).map_or(0, |(at, _)| at);
        text.get(from..).unwrap_or_default().trim().to_owned()
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// With its last words.
    pub fn check_runs(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended ({status}): {}", self.name, self.last_words()),
            None => Ok(()),
        }
    }

    /// Whether it has ended well.
    ///
    /// # Errors
    /// When it has ended badly, with its last words.
    pub fn has_ended_well(&mut self) -> anyhow::Result<bool> {
        match self.child.try_wait()? {
            Some(status) if !status.success() => {
                bail!("{} ended badly ({status}): {}", self.name, self.last_words())
            }
            ended => Ok(ended.is_some()),
        }
    }

    /// Kills it, with no chance to say anything, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("killing {}", self.name))
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// When it does not end in time (it is killed then), or badly.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.check_runs()?;
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).with_context(|| format!("stopping {}", self.name))?;
        }
        let Ok(ended) = timeout(STOP_LIMIT, self.child.wait()).await else {
            self.child.kill().await?;
            bail!("{} did not stop within {STOP_LIMIT:?}: {}", self.name, self.last_words());
        };
        let status = ended?;
        if !status.success() && status.code().is_some() {
            bail!("{} ended badly ({status}): {}", self.name, self.last_words());
        }
        Ok(())
    }
}

/// A process that plays a role, and the way to talk with it.
pub struct RoleProcess {
    process: Process,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl RoleProcess {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(name: &str, role: &Role, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).with_context(|| format!("opening {}", log.display()))?;
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.arg("role").arg(serde_json::to_string(role)?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        let mut process = Process::spawn(name, command, log)?;
        let stdin = process.child.stdin.take().context("no stdin")?;
        let stdout = process.child.stdout.take().context("no stdout")?;
        Ok(Self { process, stdin, lines: BufReader::new(stdout).lines() })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it says next.
    ///
    /// # Errors
    /// When it ends instead.
    pub async fn hear<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        match self.lines.next_line().await? {
            Some(line) => serde_json::from_str(&line).with_context(|| format!("{} said {line:?}", self.process.name)),
            None => bail!("{} ended early: {}", self.process.name, self.process.last_words()),
        }
    }

    /// Tells it to go on.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn go(&mut self) -> anyhow::Result<()> {
        let line = format!("{}\n", crate::roles::GO);
        self.stdin.write_all(line.as_bytes()).await.with_context(|| format!("talking to {}", self.process.name))
    }

    /// Ends it, by closing its stdin, and waits until it has ended.
    ///
    /// # Errors
    /// When it ends badly.
    pub async fn end(self) -> anyhow::Result<()> {
        let Self { mut process, stdin, lines } = self;
        drop((stdin, lines));
        let status = timeout(STOP_LIMIT, process.child.wait()).await.context("a role does not end")??;
        if !status.success() {
            bail!("{} ended badly ({status}): {}", process.name, process.last_words());
        }
        Ok(())
    }
}
