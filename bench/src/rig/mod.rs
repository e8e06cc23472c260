//! What a scenario runs on: a Postgres, a broker, claygate's processes, the baselines.

pub mod baseline;
mod filling;
pub mod postgres;
pub mod process;
pub mod rabbitmq;
pub mod services;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::TempDir;

use self::baseline::Baselines;
use self::postgres::Postgres;
use self::rabbitmq::RabbitMq;

/// The secret of every source.
pub const SECRET: &str = "a-secret-of-the-bench-that-guards-nothing";

/// What scenarios need beside Postgres.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// A broker.
    pub rabbitmq: bool,
    /// Node.
    pub node: bool,
}

/// Everything that outlives a scenario. Dropping it ends all of it.
pub struct Rig {
    /// The server; a database of its own for each run.
    pub postgres: Postgres,
    /// The broker, where a scenario needs one.
    pub rabbitmq: Option<RabbitMq>,
    /// The Express handlers, where Node is there.
    pub baselines: Option<Baselines>,
    _folder: TempDir,
    /// Where runs leave what they write.
    runs: PathBuf,
    programs: PathBuf,
}

impl Rig {
    /// Starts what `needs` says. `keep`: what runs write stays, beside the release binaries.
    ///
    /// # Errors
    /// When the release binaries are missing, or a server does not start.
    pub async fn start(needs: Needs, keep: bool) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("finding this program")?;
        let programs = own.parent().map(Path::to_owned).unwrap_or_default();
        for name in ["ingest", "worker", "claygate"] {
            if !programs.join(name).is_file() {
                bail!("{} has no `{name}`; run it as `cargo xtask bench`, which builds everything", programs.display());
            }
        }
        let folder = tempfile::Builder::new().prefix("claygate-bench-").tempdir().context("making a folder")?;
        // Postgres runs as another user where this is root.
        open_to_others(folder.path())?;
        let postgres = Postgres::start(&folder.path().join("postgres")).await?;
        let rabbitmq = if needs.rabbitmq { Some(RabbitMq::start().await?) } else { None };
        let baselines = if needs.node { Baselines::prepare(&programs).await? } else { None };
        let runs = if keep { programs.join("profiles") } else { folder.path().join("runs") };
        Ok(Self { postgres, rabbitmq, baselines, _folder: folder, runs, programs })
    }

    /// The broker.
    ///
    /// # Errors
    /// When none was started: the scenario does not say that it needs one.
    pub fn rabbitmq(&self) -> anyhow::Result<&RabbitMq> {
        self.rabbitmq.as_ref().context("RabbitMQ was not started")
    }

    /// A release binary.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A fresh folder for one run.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn run_folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.runs.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    /// Ends everything.
    ///
    /// # Errors
    /// When a server does not stop.
    pub async fn stop(self) -> anyhow::Result<()> {
        if let Some(rabbitmq) = self.rabbitmq {
            rabbitmq.stop().await?;
        }
        self.postgres.stop().await
    }
}

fn open_to_others(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).context("opening the folder to Postgres")
}
