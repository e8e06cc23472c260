//! The machine's set-up: PostgreSQL's binaries. Nothing else is needed, and nothing of it is started here.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use embedded::Error;

use crate::shell::{run, works};

const CLUSTER_CONFIG: &str = "/etc/postgresql-common/createcluster.conf";

/// The package managers that are known, with what to type.
const BY_HAND: [(&str, &str); 4] = [
    (
        "apt-get",
        "sudo mkdir -p /etc/postgresql-common && \
         echo 'create_main_cluster = false' | sudo tee -a /etc/postgresql-common/createcluster.conf && \
         sudo apt-get update && sudo apt-get install -y -o Dpkg::Options::=--force-confold postgresql",
    ),
    ("dnf", "sudo dnf install -y postgresql-server"),
    ("apk", "sudo apk add postgresql"),
    ("brew", "brew install postgresql@17"),
];

/// Makes sure that PostgreSQL is there: installs it by apt where that works without a question, else says how.
pub(crate) fn ensure_postgres() -> anyhow::Result<()> {
    match embedded::locate() {
        Ok(_) => return Ok(()),
        Err(Error::NotFound { .. }) if std::env::var_os("CLAYGATE_PG_BIN").is_none_or(|value| value.is_empty()) => {}
        Err(error) => return Err(error.into()),
    }
    let Some((manager, by_hand)) = BY_HAND.iter().find(|(manager, _)| works(Command::new(manager).arg("--version")))
    else {
        bail!(
            "PostgreSQL (13 or later) is not installed; install it, or set CLAYGATE_PG_BIN to the folder of `postgres`"
        );
    };
    let Some(root) = becoming_root() else { return Err(ask(by_hand)) };
    if *manager != "apt-get" {
        return Err(ask(by_hand));
    }
    println!("PostgreSQL is missing; installing it");
    install_by_apt(root).with_context(|| format!("installing PostgreSQL failed; by hand:\n\n    {by_hand}\n"))?;
    embedded::locate().map(drop).context("PostgreSQL was installed, but is not where it was looked for")
}

fn ask(by_hand: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "PostgreSQL is not installed, and that needs root. Run this once, then the same command again:\n\n    {by_hand}\n"
    )
}

/// What to put before a command that needs root: nothing, or `sudo -n`. `None`: neither works.
fn becoming_root() -> Option<&'static [&'static str]> {
    if works(Command::new("sh").args(["-c", "test \"$(id -u)\" = 0"])) {
        return Some(&[]);
    }
    let sudo: &[&str] = &["sudo", "-n"];
    works(Command::new("sudo").args(["-n", "true"])).then_some(sudo)
}

fn install_by_apt(root: &[&str]) -> anyhow::Result<()> {
    forbid_system_cluster(root)?;
    // A list that cannot be refreshed may still be good enough for the installation.
    if let Err(error) = run(as_root(root, "apt-get").args(["update"])) {
        eprintln!("xtask: {error:#}; going on with the package lists that are there");
    }
    let mut install = as_root(root, "env");
    install.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends"]);
    run(install.args(["-o", "Dpkg::Options::=--force-confold", "postgresql"]))
}

/// Debian starts a cluster of its own with the package, unless it is told not to *before* the installation.
fn forbid_system_cluster(root: &[&str]) -> anyhow::Result<()> {
    let present = std::fs::read_to_string(CLUSTER_CONFIG).unwrap_or_default();
    if present.lines().any(|line| line.split_whitespace().eq(["create_main_cluster", "=", "false"])) {
        return Ok(());
    }
    run(as_root(root, "mkdir").args(["-p", "/etc/postgresql-common"]))?;
    let mut tee =
        as_root(root, "tee").args(["-a", CLUSTER_CONFIG]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    if let Some(mut stdin) = tee.stdin.take() {
        stdin.write_all(b"create_main_cluster = false\n")?;
    }
    if !tee.wait()?.success() {
        bail!("{CLUSTER_CONFIG} could not be written");
    }
    Ok(())
}

fn as_root(root: &[&str], program: &str) -> Command {
    let mut words = root.iter().copied().chain([program]);
    let mut command = Command::new(words.next().unwrap_or(program));
    command.args(words);
    command
}
