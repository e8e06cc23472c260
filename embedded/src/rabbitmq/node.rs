//! The programs of a broker: `epmd`, the node, `rabbitmqctl`, each with nothing in its environment but what is set here.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::home::{Home, Ports};
use super::locate::Installation;
use crate::child;

/// Names are resolved by the broker's own `epmd`, so that every node may have the same.
const NODE: &str = "claygate@localhost";
/// Nodes and tools talk to each other by TCP, on this address alone.
const LOOPBACK_ONLY: &str = "-kernel inet_dist_use_interface {127,0,0,1}";
const PATH_IF_UNSET: &str = "/usr/local/bin:/usr/bin:/bin";

/// The name server, in the foreground.
pub(super) fn epmd(home: &Home, ports: Ports) -> Command {
    let mut command = program(Path::new("epmd"), home, ports);
    command.args(["-port", &ports.epmd.to_string()]);
    command
}

/// The node itself, without any plugin.
pub(super) fn server(installation: &Installation, home: &Home, ports: Ports) -> Command {
    let dir = home.dir();
    let mut command = program(&installation.bin.join("rabbitmq-server"), home, ports);
    // The script then becomes the VM instead of starting and outliving it.
    command.env("RUNNING_UNDER_SYSTEMD", "true");
    // A name that is there from the start spares the node from starting two more VMs to ask about it, and lets the
    // system choose the port for other nodes. Two cores are plenty for tests.
    command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", format!("+S 2:2 -sname {NODE} {LOOPBACK_ONLY}"));
    command.env("ERL_CRASH_DUMP_SECONDS", "0");
    for (variable, file) in [
        ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
        ("RABBITMQ_CONFIG_FILES", "conf.d"),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced.config"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
        ("RABBITMQ_GENERATED_CONFIG_DIR", "config"),
        ("RABBITMQ_MNESIA_BASE", "node"),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_PID_FILE", "pid"),
    ] {
        command.env(variable, dir.join(file));
    }
    command
}

/// `rabbitmqctl` with its results alone: no headings, no progress.
pub(super) fn ctl(installation: &Installation, home: &Home, ports: Ports) -> Command {
    let mut command = program(&installation.bin.join("rabbitmqctl"), home, ports);
    command.env("RABBITMQ_CTL_ERL_ARGS", LOOPBACK_ONLY);
    // Any port, rather than one of the ten that all `rabbitmqctl` of the machine share.
    command.env("RABBITMQ_CTL_DIST_PORT_MIN", "0").env("RABBITMQ_CTL_DIST_PORT_MAX", "0");
    command.args(["--silent", "--node", NODE]);
    command
}

fn program(program: &Path, home: &Home, ports: Ports) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir(home.dir()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH_IF_UNSET.into()));
    command.env("LANG", "C.UTF-8").env("HOME", home.dir());
    command.env("ERL_EPMD_ADDRESS", "127.0.0.1").env("ERL_EPMD_PORT", ports.epmd.to_string());
    // The machine's own file would set names and ports of its own broker.
    command.env("RABBITMQ_CONF_ENV_FILE", home.dir().join("rabbitmq-env.conf")).env("RABBITMQ_NODENAME", NODE);
    child::prepare(&mut command, None, Signal::KILL);
    command
}
