//! Installing by apt, without a question and without the servers that Debian starts along with their packages.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

use crate::shell::{run, works};

const CLUSTER_CONFIG: &str = "/etc/postgresql-common/createcluster.conf";
/// What the packages of RabbitMQ and Erlang would start: a broker, and a name server that listens on every address.
const BROKER_UNITS: [&str; 3] = ["rabbitmq-server.service", "epmd.socket", "epmd.service"];

/// How to run what needs root.
#[derive(Clone, Copy)]
pub(crate) struct Root(&'static [&'static str]);

impl Root {
    /// As root already, or by `sudo -n`. `None`: neither works.
    pub(crate) fn become_quietly() -> Option<Self> {
        if works(Command::new("sh").args(["-c", "test \"$(id -u)\" = 0"])) {
            return Some(Self(&[]));
        }
        works(Command::new("sudo").args(["-n", "true"])).then_some(Self(&["sudo", "-n"]))
    }

    fn command(self, program: &str) -> Command {
        let mut words = self.0.iter().copied().chain([program]);
        let mut command = Command::new(words.next().unwrap_or(program));
        command.args(words);
        command
    }
}

/// Installs PostgreSQL, and no cluster.
pub(crate) fn install_postgres(root: Root) -> anyhow::Result<()> {
    forbid_system_cluster(root)?;
    install(root, "postgresql")
}

/// Installs RabbitMQ, and starts nothing of it, now or at the next boot.
pub(crate) fn install_rabbitmq(root: Root) -> anyhow::Result<()> {
    // Without systemd, the packages start nothing in containers, and elsewhere what the administrator lets them.
    if !Path::new("/run/systemd/system").is_dir() {
        return install(root, "rabbitmq-server");
    }
    // One that is there already is somebody's, and stays as it is.
    let is_new = |unit: &&str| !works(Command::new("systemctl").args(["cat", unit]));
    let units: Vec<&str> = BROKER_UNITS.into_iter().filter(is_new).collect();
    if units.is_empty() {
        return install(root, "rabbitmq-server");
    }
    run(root.command("systemctl").arg("mask").args(&units))?;
    let installed = install(root, "rabbitmq-server");
    run(root.command("systemctl").arg("unmask").args(&units))?;
    installed?;
    run(root.command("systemctl").arg("disable").args(&units))
}

/// Installs libfaketime.
pub(crate) fn install_faketime(root: Root) -> anyhow::Result<()> {
    install(root, "libfaketime")
}

fn install(root: Root, package: &str) -> anyhow::Result<()> {
    // A list that cannot be refreshed may still be good enough for the installation.
    if let Err(error) = run(root.command("apt-get").args(["update"])) {
        eprintln!("xtask: {error:#}; going on with the package lists that are there");
    }
    let mut install = root.command("env");
    install.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends"]);
    run(install.args(["-o", "Dpkg::Options::=--force-confold", package]))
}

/// Debian starts a cluster of its own with the package, unless it is told not to *before* the installation.
fn forbid_system_cluster(root: Root) -> anyhow::Result<()> {
    let present = std::fs::read_to_string(CLUSTER_CONFIG).unwrap_or_default();
    if present.lines().any(|line| line.split_whitespace().eq(["create_main_cluster", "=", "false"])) {
        return Ok(());
    }
    run(root.command("mkdir").args(["-p", "/etc/postgresql-common"]))?;
    let mut tee =
        root.command("tee").args(["-a", CLUSTER_CONFIG]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    if let Some(mut stdin) = tee.stdin.take() {
        stdin.write_all(b"create_main_cluster = false\n")?;
    }
    if !tee.wait()?.success() {
        bail!("{CLUSTER_CONFIG} could not be written");
    }
    Ok(())
}
