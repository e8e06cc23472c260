//! What a killed process left behind: a server that still runs, or files that name one that does not.
//!
//! Called with the data folder's lock held, so that whatever is found belongs to nobody.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::home::Home;
use crate::{Error, io};

const POLL_EVERY: Duration = Duration::from_millis(20);
const FAST_LIMIT: Duration = Duration::from_secs(20);
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(10);

/// Stops a server that runs on this home, and makes stale files harmless.
pub(crate) fn clear(home: &Home) -> Result<(), Error> {
    let cluster = home.cluster();
    let pid_file = cluster.join("postmaster.pid");
    if let Some(pid) = read_pid(&pid_file) {
        if is_postmaster_of(pid, &cluster) {
            stop(pid, &cluster)?;
        } else if is_alive(pid) {
            adopt_pid_file(&pid_file)?;
        }
    }
    remove_sockets(home.socket())
}

/// The pid in the first line of a `postmaster.pid`.
pub(crate) fn read_pid(pid_file: &Path) -> Option<Pid> {
    std::fs::read_to_string(pid_file).ok()?.lines().next()?.trim().parse().ok().and_then(Pid::from_raw)
}

fn is_alive(pid: Pid) -> bool {
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

/// Whether `pid` is the server of `cluster`: Postgres works in its data directory.
#[cfg(target_os = "linux")]
fn is_postmaster_of(pid: Pid, cluster: &Path) -> bool {
    let Ok(cwd) = std::fs::read_link(format!("/proc/{pid}/cwd")) else { return false };
    cluster.canonicalize().is_ok_and(|cluster| cwd == cluster)
}

/// Whether `pid` is the server of `cluster`: its command line names the folder.
#[cfg(not(target_os = "linux"))]
fn is_postmaster_of(pid: Pid, cluster: &Path) -> bool {
    let listed = std::process::Command::new("ps").args(["-o", "command=", "-p", &pid.to_string()]).output();
    listed.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains(&*cluster.to_string_lossy()))
}

fn stop(pid: Pid, cluster: &Path) -> Result<(), Error> {
    for (signal, limit) in [(Signal::INT, FAST_LIMIT), (Signal::QUIT, IMMEDIATE_LIMIT)] {
        if kill_process(pid, signal) == Err(rustix::io::Errno::SRCH) {
            return Ok(());
        }
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if !is_postmaster_of(pid, cluster) {
                return Ok(());
            }
            std::thread::sleep(POLL_EVERY);
        }
    }
    let seconds = (FAST_LIMIT + IMMEDIATE_LIMIT).as_secs();
    Err(Error::DidNotStop { pid: pid.as_raw_nonzero().get().unsigned_abs(), seconds })
}

/// Writes our own pid over one that now belongs to somebody else; the other lines stay, for Postgres' own check.
fn adopt_pid_file(pid_file: &Path) -> Result<(), Error> {
    let text = std::fs::read_to_string(pid_file).map_err(io("reading", pid_file))?;
    let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
    std::fs::write(pid_file, format!("{}\n{rest}", std::process::id())).map_err(io("writing", pid_file))
}

/// Sockets and their lock files: nobody runs here any more, and a reused pid in one would stop the start.
fn remove_sockets(folder: &Path) -> Result<(), Error> {
    for entry in std::fs::read_dir(folder).map_err(io("reading", folder))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(".s.PGSQL.") {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(io("removing", &path))?;
        }
    }
    Ok(())
}
