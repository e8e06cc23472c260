//! What can be seen without a database: configuration, folders, disk, ports, processes, programs.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::config::{Config, Inspection, Locations};
use embedded::{Lock, locate_all};

use super::Finding;
use crate::run_file::RunFile;

const DISK_WARN_BYTES: u64 = 2 << 30;
const DISK_FAIL_BYTES: u64 = 200 << 20;

pub(super) fn configuration(inspection: &Inspection, locations: &Locations) -> Finding {
    let file = if locations.file.exists() { locations.file.display().to_string() } else { "built in".to_owned() };
    match &inspection.config {
        Err(error) => Finding::fail("configuration", error.to_string(), "`claygate config check` shows the same"),
        Ok(_) if !inspection.warnings.is_empty() => {
            Finding::warn("configuration", file, inspection.warnings.join("\n                     "))
        }
        Ok(_) => Finding::ok("configuration", file),
    }
}

/// The folder's rights, its secrets' rights, and the space on its disk.
pub(super) fn data_folder(data: &Path) -> Vec<Finding> {
    let shown = data.display().to_string();
    // The nearest folder that is there decides what can be made in it.
    let Some(existing) = data.ancestors().find(|folder| folder.is_dir()) else {
        return vec![Finding::fail(
            "data folder",
            format!("{shown} cannot be reached"),
            "check the path and its rights",
        )];
    };
    let mut findings = Vec::new();
    match rustix::fs::access(existing, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) if existing == data => findings.push(Finding::ok("data folder", shown)),
        Ok(()) => findings.push(Finding::ok("data folder", format!("{shown} (made at the first start)"))),
        Err(_) => findings.push(Finding::fail(
            "data folder",
            format!("{} cannot be written by this user", existing.display()),
            "run this as the user who owns it, or choose another folder with --data",
        )),
    }
    findings.extend(secrets(&data.join("secrets")));
    findings.push(disk(existing));
    findings
}

fn secrets(folder: &Path) -> Option<Finding> {
    let open: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .filter(|entry| entry.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0))
        .map(|entry| entry.path().display().to_string())
        .collect();
    Some(if open.is_empty() {
        Finding::ok("secrets", folder.display().to_string())
    } else {
        let command = format!("chmod 600 {}", open.join(" "));
        Finding::fail("secrets", "other users of this machine can read secrets", command)
    })
}

fn disk(folder: &Path) -> Finding {
    let Ok(stat) = rustix::fs::statvfs(folder) else {
        return Finding::warn("disk", "the free space cannot be read", "look with `df`");
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let detail = format!("{:.1} GiB free", free as f64 / f64::from(1 << 30));
    match free {
        ..DISK_FAIL_BYTES => Finding::fail("disk", detail, "make room: Postgres stops when its disk is full"),
        DISK_FAIL_BYTES..DISK_WARN_BYTES => Finding::warn("disk", detail, "make room soon"),
        _ => Finding::ok("disk", detail),
    }
}

pub(super) fn process(running: Option<&RunFile>, data: &Path) -> Finding {
    match running {
        Some(run) => Finding::ok("process", format!("claygate up runs (pid {})", run.pid)),
        None if Lock::is_held(data) => Finding::ok("process", "another claygate command is using the data folder"),
        None => Finding::ok("process", "no claygate up runs on this data folder"),
    }
}

/// Whether the listeners are ours already, or free.
pub(super) fn ports(config: &Config, running: Option<&RunFile>) -> Vec<Finding> {
    let one = |what: &'static str, setting: &str, listen: SocketAddr, ours: Option<u16>| match ours {
        Some(port) => Finding::ok(what, format!("{} (our own process)", SocketAddr::new(listen.ip(), port))),
        None => match TcpListener::bind(listen) {
            Ok(_) => Finding::ok(what, format!("{listen} is free")),
            Err(error) => Finding::fail(
                what,
                format!("{listen} cannot be used: {error}"),
                format!("stop what listens there, or choose another address with {setting}"),
            ),
        },
    };
    vec![
        one("public port", "ingest.listen", config.ingest.listen, running.map(|run| run.port)),
        one("admin port", "admin.listen", config.admin.listen, running.map(|run| run.admin_port)),
    ]
}

/// What waits in the spool. Files alone are looked at: a live process owns them.
pub(super) fn spool(config: &Config) -> Finding {
    let dir = &config.spool.dir;
    let bytes: u64 = std::fs::read_dir(dir)
        .map(|entries| {
            // Its lock and its instance's name have no extension; everything else holds callbacks.
            let held = entries.flatten().filter(|entry| entry.path().extension().is_some());
            held.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
        })
        .unwrap_or_default();
    if bytes == 0 {
        return Finding::ok("spool", "empty");
    }
    Finding::warn(
        "spool",
        format!("{bytes} bytes of {} in {}", config.spool.max_bytes, dir.display()),
        "callbacks wait there for Postgres; they are stored as soon as ingest runs and Postgres is back",
    )
}

pub(super) fn binaries() -> Finding {
    match locate_all() {
        Ok(found) => {
            let list = found.iter().map(|one| format!("{} in {}", one.major, one.bin.display())).collect::<Vec<_>>();
            Finding::ok("PostgreSQL", list.join(", "))
        }
        Err(error) => Finding::fail("PostgreSQL", error.to_string(), "`cargo xtask up` installs it"),
    }
}
