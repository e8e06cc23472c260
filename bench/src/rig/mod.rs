//! What a scenario runs on: a Postgres, a broker, claygate's processes, the baselines.

pub mod baseline;
pub mod postgres;
pub mod process;
pub mod services;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::TempDir;

use self::baseline::Baselines;
use self::postgres::Postgres;

/// The secret of every source.
pub const SECRET: &str = "a-secret-of-the-bench-that-guards-nothing";

/// Everything that outlives a scenario. Dropping it ends all of it.
pub struct Rig {
    /// The server; a database of its own for each run.
    pub postgres: Postgres,
    /// The Express handlers, where Node is there.
    pub baselines: Option<Baselines>,
    folder: TempDir,
    programs: PathBuf,
}

impl Rig {
    /// Starts what `needs` says.
    ///
    /// # Errors
    /// When the release binaries are missing, or Postgres does not start.
    pub async fn start(needs_baselines: bool) -> anyhow::Result<Self> {
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
        let baselines = if needs_baselines { Baselines::prepare(&programs).await? } else { None };
        Ok(Self { postgres, baselines, folder, programs })
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
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    /// Ends everything.
    ///
    /// # Errors
    /// When Postgres does not stop.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.postgres.stop().await
    }
}

fn open_to_others(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711)).context("opening the folder to Postgres")
}
