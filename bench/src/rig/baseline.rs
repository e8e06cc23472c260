//! What people use today: the Express handlers of `bench/baselines`, on the Node of this machine.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::process::Command;
use url::Url;

use super::SECRET;
use super::process::Process;
use crate::roles::load::Connection;

const OLDEST_NODE: u32 = 20;
const START_LIMIT: Duration = Duration::from_secs(20);
const POLL_EVERY: Duration = Duration::from_millis(20);
const FILES: [(&str, &str); 3] = [
    ("package.json", include_str!("../../baselines/package.json")),
    ("package-lock.json", include_str!("../../baselines/package-lock.json")),
    ("server.js", include_str!("../../baselines/server.js")),
];

/// How far a handler goes before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// A `Map`.
    Memory,
    /// `INSERT … ON CONFLICT`.
    Postgres,
    /// The same, and a confirmed publish.
    PostgresRabbitMq,
}

impl Store {
    fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Postgres => "pg",
            Self::PostgresRabbitMq => "pg-amqp",
        }
    }
}

/// The installed handlers.
pub struct Baselines {
    folder: PathBuf,
    /// `v20.1.2`, for the header.
    pub node: String,
}

impl Baselines {
    /// Installs them, once, beside the release binaries. `None`, said aloud: there is no Node.
    ///
    /// # Errors
    /// When npm fails.
    pub async fn prepare(programs: &Path) -> anyhow::Result<Option<Self>> {
        let Some(node) = node_version().await else {
            eprintln!(
                "bench: Node {OLDEST_NODE} or later with npm is not here, so the Express rows are left out; \
                 install it (https://nodejs.org, or the package manager's `nodejs` and `npm`) to have them"
            );
            return Ok(None);
        };
        let folder = programs.join("baselines");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let installed = folder.join("installed");
        let lock = FILES.iter().find(|(name, _)| *name == "package-lock.json").map_or("", |(_, text)| text);
        for (name, text) in FILES {
            std::fs::write(folder.join(name), text).with_context(|| format!("writing {name}"))?;
        }
        if std::fs::read_to_string(&installed).unwrap_or_default() != lock {
            eprintln!("bench: installing the Express baselines (npm ci)");
            let mut npm = Command::new("npm");
            npm.args(["ci", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(&folder);
            // It says how many packages there are: that is no part of the results, which may be JSON.
            npm.stdout(std::io::stderr());
            if !npm.status().await.context("starting npm")?.success() {
                bail!("`npm ci` failed in {}", folder.display());
            }
            std::fs::write(&installed, lock)?;
        }
        Ok(Some(Self { folder, node }))
    }

    /// Starts a handler and waits until it listens.
    ///
    /// # Errors
    /// When it ends instead.
    pub async fn start(
        &self,
        store: Store,
        database: &Url,
        broker: Option<&str>,
        folder: &Path,
    ) -> anyhow::Result<(Process, SocketAddr)> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr())?;
        let mut command = Command::new("node");
        command.arg("server.js").current_dir(&self.folder).env("NODE_ENV", "production");
        command.env("STORE", store.as_str()).env("PORT", address.port().to_string());
        command.env("SECRET", SECRET).env("DATABASE_URL", database.as_str());
        command.env("AMQP_URL", broker.unwrap_or_default());
        let mut process = Process::start("express", command, folder)?;
        let deadline = Instant::now() + START_LIMIT;
        while Connection::open(address).await.is_err() {
            process.check_runs()?;
            if Instant::now() > deadline {
                bail!("Express does not listen: {}", process.last_words());
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok((process, address))
    }
}

async fn node_version() -> Option<String> {
    let text = |program: &'static str| async move {
        let output = Command::new(program).arg("--version").output().await.ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let (node, _npm) = (text("node").await?, text("npm").await?);
    let major: u32 = node.trim_start_matches('v').split('.').next()?.parse().ok()?;
    (major >= OLDEST_NODE).then_some(node)
}
