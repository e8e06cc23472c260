//! The machine's set-up: the programs of PostgreSQL and RabbitMQ. Nothing else is needed, and nothing of it is started here.

use std::process::Command;

use anyhow::{Context, anyhow, bail};

use crate::apt;
use crate::shell::works;

/// A server whose programs the repository's commands need.
struct Package {
    name: &'static str,
    version: &'static str,
    /// The variable that names the folder of its programs.
    variable: &'static str,
    locate: fn() -> anyhow::Result<()>,
    install_by_apt: fn(apt::Root) -> anyhow::Result<()>,
    /// The package managers that are known, with what to type.
    by_hand: &'static [(&'static str, &'static str)],
}

const POSTGRES: Package = Package {
    name: "PostgreSQL",
    version: "13 or later",
    variable: "CLAYGATE_PG_BIN",
    locate: || Ok(embedded::locate().map(drop)?),
    install_by_apt: apt::install_postgres,
    by_hand: &[
        (
            "apt-get",
            "sudo mkdir -p /etc/postgresql-common && \
             echo 'create_main_cluster = false' | sudo tee -a /etc/postgresql-common/createcluster.conf && \
             sudo apt-get update && sudo apt-get install -y -o Dpkg::Options::=--force-confold postgresql",
        ),
        ("dnf", "sudo dnf install -y postgresql-server"),
        ("apk", "sudo apk add postgresql"),
        ("brew", "brew install postgresql@17"),
    ],
};

const RABBITMQ: Package = Package {
    name: "RabbitMQ",
    version: "3.10 or later",
    variable: "CLAYGATE_RABBITMQ_BIN",
    locate: || Ok(embedded::rabbitmq::locate().map(drop)?),
    install_by_apt: apt::install_rabbitmq,
    by_hand: &[
        (
            "apt-get",
            // Masked meanwhile: Debian would start a broker for the whole machine, and its name server.
            "sudo systemctl mask rabbitmq-server epmd.socket epmd.service; \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends rabbitmq-server; \
             sudo systemctl unmask rabbitmq-server epmd.socket epmd.service; \
             sudo systemctl disable rabbitmq-server epmd.socket epmd.service",
        ),
        ("dnf", "sudo dnf install -y rabbitmq-server"),
        ("brew", "brew install rabbitmq"),
    ],
};

/// Makes sure that PostgreSQL is there: installs it by apt where that works without a question, else says how.
pub(crate) fn ensure_postgres() -> anyhow::Result<()> {
    POSTGRES.ensure()
}

/// As [`ensure_postgres`], for RabbitMQ. Only tests and benchmarks need it.
pub(crate) fn ensure_rabbitmq() -> anyhow::Result<()> {
    RABBITMQ.ensure()
}

/// Installs libfaketime, by which a test sets the clock of one process, where that works without a question. The test says
/// aloud that it was skipped where it is missing.
pub(crate) fn try_faketime() {
    let libraries = ["x86_64-linux-gnu", "aarch64-linux-gnu"].map(|of| format!("/usr/lib/{of}/faketime"));
    if libraries.iter().any(|folder| std::path::Path::new(folder).is_dir())
        || !works(Command::new("apt-get").arg("--version"))
    {
        return;
    }
    let Some(root) = apt::Root::become_quietly() else { return };
    if let Err(error) = apt::install_faketime(root) {
        eprintln!("- libfaketime could not be installed ({error:#}); the clock of a process is not stepped");
    }
}

impl Package {
    fn ensure(&self) -> anyhow::Result<()> {
        let Self { name, version, variable, .. } = self;
        let Err(missing) = (self.locate)() else { return Ok(()) };
        if std::env::var_os(variable).is_some_and(|value| !value.is_empty()) {
            return Err(missing);
        }
        let known = self.by_hand.iter().find(|(manager, _)| works(Command::new(manager).arg("--version")));
        let Some((manager, by_hand)) = known else {
            bail!("{name} ({version}) is not installed; install it, or set {variable} to the folder of its programs");
        };
        let ask = || {
            anyhow!(
                "{name} ({version}) is not installed, and that needs root. \
                 Run this once, then the same command again:\n\n    {by_hand}\n"
            )
        };
        let root = apt::Root::become_quietly().filter(|_| *manager == "apt-get").ok_or_else(ask)?;
        eprintln!("{name} is missing; installing it");
        (self.install_by_apt)(root)
            .with_context(|| format!("installing {name} failed; by hand:\n\n    {by_hand}\n"))?;
        (self.locate)().with_context(|| {
            format!("{name} was installed, but is not where it was looked for, or older than {version}")
        })
    }
}
