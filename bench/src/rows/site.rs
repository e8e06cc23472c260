//! The processes of one run: a fake Clay, workers, and `claygate send`, each of which can be killed and started again.

use std::fmt::Write;
use std::io::BufWriter;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use fake_clay::Counts;
use tokio::process::Command;
use url::Url;

use crate::measure::peak_mb;
use crate::rig::process::{Process, RoleProcess};
use crate::rig::services::{free_address, wait_until_ready};
use crate::rig::{Rig, SECRET};
use crate::roles::{Role, fake_clay as fake};

const DESTINATION: &str = "people";

/// How one run is set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    /// Rows per second and burst that the workspace allows; `None`: any number.
    pub(super) limit: Option<(u32, u32)>,
    /// Requests in flight of one worker.
    pub(super) concurrency: u32,
    pub(super) workers: usize,
}

/// What runs.
pub(super) struct Site<'a> {
    rig: &'a Rig,
    folder: PathBuf,
    database: Url,
    setup: Setup,
    clay: RoleProcess,
    url: String,
    workers: Vec<Option<Process>>,
    send: Option<Process>,
    pub(super) send_peak_mb: f64,
    pub(super) worker_peak_mb: f64,
}

impl<'a> Site<'a> {
    /// Starts the fake and the workers.
    pub(super) async fn start(rig: &'a Rig, folder: &Path, database: &Url, setup: Setup) -> anyhow::Result<Self> {
        let limit = setup.limit.map(|(per_second, burst)| (f64::from(per_second), burst));
        let role = Role::FakeClay(fake::Plan { limit, latency_ms: 0 });
        let mut clay = RoleProcess::start("fake-clay", &role, folder)?;
        let listening: fake::Listening = clay.hear().await?;
        let mut site = Self {
            rig,
            folder: folder.to_owned(),
            database: database.clone(),
            setup,
            clay,
            url: listening.url,
            workers: Vec::new(),
            send: None,
            send_peak_mb: 0.0,
            worker_peak_mb: 0.0,
        };
        for number in 0..setup.workers {
            let worker = site.start_worker(number).await?;
            site.workers.push(Some(worker));
        }
        Ok(site)
    }

    async fn start_worker(&self, number: usize) -> anyhow::Result<Process> {
        let admin = free_address()?;
        let name = format!("worker-{number}");
        let file = self.write_config(&name, admin)?;
        let mut process = Process::start(&name, self.command("worker", &file), &self.folder)?;
        wait_until_ready(&mut process, admin).await?;
        Ok(process)
    }

    /// A program on `config`, without an operator's own variables.
    fn command(&self, program: &str, config: &Path) -> Command {
        let mut command = Command::new(self.rig.program(program));
        command.arg("--config").arg(config).arg("--data").arg(config.with_extension("data"));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("CLAY") {
                command.env_remove(variable);
            }
        }
        command
    }

    fn write_config(&self, name: &str, admin: SocketAddr) -> anyhow::Result<PathBuf> {
        let (per_second, burst) = self.setup.limit.unwrap_or((100_000, 100_000));
        let mut text = String::new();
        write!(
            text,
            "[database]\nurl = \"{}\"\n[admin]\nlisten = \"{admin}\"\n[worker]\ndrain = \"2s\"\n\
             [sources.token]\npath = \"/token\"\nverify = {{ kind = \"token\", secrets = [\"{SECRET}\"] }}\n\
             [destinations.{DESTINATION}]\nkind = \"clay\"\nwebhooks = [{{ url = \"{}\" }}]\ncap = \"none\"\n\
             allow_private = true\nconcurrency = {}\ntimeout = \"5s\"\nrate = \"{per_second}/s\"\nburst = {burst}\n",
            self.database, self.url, self.setup.concurrency
        )?;
        let file = self.folder.join(format!("{name}.toml"));
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    /// Starts `claygate send`; the second time it goes on where the first one was.
    pub(super) fn start_send(&mut self, rows: &Path) -> anyhow::Result<()> {
        let file = self.write_config("send", free_address()?)?;
        let mut command = self.command("claygate", &file);
        command.arg("send").arg(rows).args(["--to", DESTINATION, "--json"]);
        self.send = Some(Process::start("send", command, &self.folder)?);
        Ok(())
    }

    /// Whether `send` has come to its good end. Looks at memory on the way.
    pub(super) fn look(&mut self) -> anyhow::Result<bool> {
        for worker in self.workers.iter_mut().flatten() {
            worker.check_runs()?;
            self.worker_peak_mb = self.worker_peak_mb.max(peak_mb(worker.pid()));
        }
        let Some(send) = &mut self.send else { return Ok(true) };
        self.send_peak_mb = self.send_peak_mb.max(peak_mb(send.pid()));
        let has_ended = send.has_ended_well()?;
        if has_ended {
            self.send = None;
        }
        Ok(has_ended)
    }

    /// Kills `send`, and starts it again. Answers whether it still ran.
    pub(super) async fn kill_send(&mut self, rows: &Path) -> anyhow::Result<bool> {
        let Some(send) = self.send.take() else { return Ok(false) };
        send.kill().await?;
        self.start_send(rows)?;
        Ok(true)
    }

    /// Kills a worker, and starts it again.
    pub(super) async fn kill_worker(&mut self, number: usize) -> anyhow::Result<()> {
        if let Some(worker) = self.workers.get_mut(number).and_then(Option::take) {
            worker.kill().await?;
        }
        let again = self.start_worker(number).await?;
        if let Some(place) = self.workers.get_mut(number) {
            *place = Some(again);
        }
        Ok(())
    }

    /// The fake's own books.
    pub(super) async fn counts(&mut self) -> anyhow::Result<Counts> {
        self.clay.go().await?;
        self.clay.hear().await
    }

    /// Stops everything, as an operator would.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        for worker in self.workers.into_iter().flatten() {
            worker.stop().await?;
        }
        self.clay.end().await
    }
}

/// Writes a file of `rows` different people.
pub(super) fn write_rows(file: &Path, rows: u64) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = BufWriter::new(std::fs::File::create(file).with_context(|| format!("writing {}", file.display()))?);
    writeln!(out, "email,first_name,last_name,company_name,icp_score")?;
    for n in 0..rows {
        writeln!(out, "person{n}@example.com,Given {n},Family,Example {},{}", n % 5_000, n % 101)?;
    }
    Ok(out.flush()?)
}
