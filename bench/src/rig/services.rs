//! claygate itself: a configuration in a file, and the release binaries that run on it, as an operator would.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::process::Command;
use url::Url;

use super::process::Process;
use super::{Rig, SECRET};
use crate::measure::Group;
use crate::roles::load::Connection;

const READY_LIMIT: Duration = Duration::from_secs(60);
/// Requests in flight at one destination. The default is kind to small destinations; one that takes thousands a second
/// takes more at once.
const CONCURRENCY: usize = 64;
const POLL_EVERY: Duration = Duration::from_millis(20);
/// What a destination that fails for seconds is given, so that a run sees its end.
const IMPATIENT: &str = "retries = [\"1s\", \"2s\", \"4s\", \"4s\", \"4s\", \"4s\"]\n\
     breaker = { failures = 5, open = \"1s\", open_max = \"2s\" }\n";

/// Which processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Intakes alone.
    Ingest {
        /// How many.
        ingests: usize,
    },
    /// Intakes and workers.
    Pair {
        /// How many intakes.
        ingests: usize,
        /// How many workers.
        workers: usize,
    },
    /// `claygate up`: everything in one process.
    Up,
}

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The processes.
    pub shape: Shape,
    /// The database.
    pub database: Url,
    /// Where the destinations are, and how many.
    pub destinations: Option<(SocketAddr, usize)>,
    /// The broker's URL and the prefix of this run; `None`: Postgres is the queue.
    pub broker: Option<(String, String)>,
    /// `ingest.writers`, where it is not the default.
    pub writers: Option<usize>,
    /// Destinations are tried again within seconds, and left alone for as long.
    pub impatient: bool,
}

/// Where processes listen: below the ports that Linux gives to outgoing connections.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;

/// Running processes of claygate.
pub struct Services {
    processes: Vec<(&'static str, Process)>,
    /// The public addresses of the intakes.
    pub intakes: Vec<SocketAddr>,
    /// The admin address of the first process.
    pub admin: Option<SocketAddr>,
}

impl Services {
    /// Starts them and waits until all are ready.
    ///
    /// # Errors
    /// When one ends or does not get ready.
    pub async fn start(rig: &Rig, setup: &Setup, folder: &Path) -> anyhow::Result<Self> {
        let mut services = Self { processes: Vec::new(), intakes: Vec::new(), admin: None };
        let (ingests, workers) = match setup.shape {
            Shape::Ingest { ingests } => (ingests, 0),
            Shape::Pair { ingests, workers } => (ingests, workers),
            Shape::Up => {
                services.launch(rig, setup, folder, "claygate", 0).await?;
                return Ok(services);
            }
        };
        for number in 0..ingests {
            services.launch(rig, setup, folder, "ingest", number).await?;
        }
        for number in 0..workers {
            services.launch(rig, setup, folder, "worker", number).await?;
        }
        Ok(services)
    }

    async fn launch(
        &mut self,
        rig: &Rig,
        setup: &Setup,
        folder: &Path,
        program: &'static str,
        number: usize,
    ) -> anyhow::Result<()> {
        let name = format!("{program}-{number}");
        let (public, admin) = (free_address()?, free_address()?);
        let file = write_config(setup, folder, &name, public, admin)?;
        let mut command = Command::new(rig.program(program));
        if program == "claygate" {
            command.arg("up");
        }
        command.arg("--config").arg(file).arg("--data").arg(folder.join(&name));
        // An operator's own variables would change what is measured.
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("CLAY") {
                command.env_remove(variable);
            }
        }
        let mut process = Process::start(&name, command, folder)?;
        wait_until_ready(&mut process, admin).await?;
        self.processes.push((if program == "claygate" { "up" } else { program }, process));
        self.admin = self.admin.or(Some(admin));
        if program != "worker" {
            self.intakes.push(public);
        }
        Ok(())
    }

    /// The processes, for measuring.
    pub fn groups(&self) -> Vec<Group> {
        self.processes.iter().map(|(name, process)| Group::tree(name, process.pid())).collect()
    }

    /// Stops them one after the other, as an operator would.
    ///
    /// # Errors
    /// When one does not stop cleanly.
    pub async fn stop(self) -> anyhow::Result<()> {
        for (_, process) in self.processes {
            process.stop().await?;
        }
        Ok(())
    }
}

/// A port that is free now, and that no outgoing connection is given meanwhile: thousands are made. Whoever listens on it
/// before the process does makes that process fail, aloud.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two benches at once begin at different places.
    let offset = u16::try_from(std::process::id() % u32::from(PORTS)).unwrap_or(0);
    for _ in 0..PORTS {
        let place = (offset + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS) % PORTS;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST_PORT + place));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port from {FIRST_PORT} to {} is free", FIRST_PORT + PORTS - 1)
}

fn write_config(
    setup: &Setup,
    folder: &Path,
    name: &str,
    public: SocketAddr,
    admin: SocketAddr,
) -> anyhow::Result<PathBuf> {
    // A destination that hangs must not hold the stop up for as long as its time-out.
    let mut text = format!(
        "[database]\nurl = \"{}\"\n[worker]\ndrain = \"2s\"\n[ingest]\nlisten = \"{public}\"\n{}[admin]\nlisten = \"{admin}\"\n\
         [sources.token]\npath = \"/token\"\nverify = {{ kind = \"token\", secrets = [\"{SECRET}\"] }}\n\
         [sources.hmac]\npath = \"/hmac\"\nverify = {{ kind = \"hmac-sha256\", secrets = [\"{SECRET}\"] }}\n",
        setup.database,
        setup.writers.map(|writers| format!("writers = {writers}\n")).unwrap_or_default(),
    );
    if let Some((url, prefix)) = &setup.broker {
        write!(text, "[queue]\nurl = \"{url}\"\nprefix = \"{prefix}\"\n")?;
    }
    let (address, count) = setup.destinations.unwrap_or((public, 1));
    for number in 0..count {
        // As the example file has it, with its cool-down.
        write!(
            text,
            "[destinations.d{number}]\nkind = \"http\"\nurl = \"http://{address}/{number}\"\nallow_private = true\n\
             once_per = \"30d\"\nconcurrency = {CONCURRENCY}\n{}",
            if setup.impatient { IMPATIENT } else { "" }
        )?;
    }
    let names: Vec<String> = (0..count).map(|number| format!("\"d{number}\"")).collect();
    write!(text, "[[rules]]\nname = \"good\"\nwhen = \"lead.icp_score >= 50\"\nto = [{}]\n", names.join(", "))?;
    let file = folder.join(format!("{name}.toml"));
    std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

pub(crate) async fn wait_until_ready(process: &mut Process, admin: SocketAddr) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_LIMIT;
    let mut last = String::new();
    while Instant::now() < deadline {
        process.check_runs()?;
        match get(admin, "/readyz").await {
            Ok((200, _)) => return Ok(()),
            Ok((_, report)) => last = report,
            Err(error) => last = error.to_string(),
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    bail!("not ready after {READY_LIMIT:?} ({last}): {}", process.last_words())
}

/// The status and body of a GET.
///
/// # Errors
/// When nobody answers.
pub(crate) async fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let mut connection = Connection::open(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let answer = connection.exchange(request.as_bytes()).await?;
    Ok((answer.status, String::from_utf8_lossy(answer.body).into_owned()))
}
