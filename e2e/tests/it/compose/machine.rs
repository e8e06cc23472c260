//! A machine that runs what docker-compose.yml describes, without containers.
//!
//! Every replica of a service has a root folder, where its mounts are links to the volumes and copies of the files, and
//! an address in 127.0.0.0/8, so that all can listen on the ports that the file says. Absolute paths in commands and
//! variables are meant inside of the root folder. The servers' names lead to where the test runs them. As root, our
//! programs run as an ordinary user who can write to its own volumes and nowhere else, as in a read-only container.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::config::Environment;
use rustix::process::Signal;
use tempfile::TempDir;

use super::document::{Document, Mount, Service};
use super::repository;
use crate::site::{LIMIT, NOBODY, finish, program, signal};

/// The machine: a folder with volumes, roots and programs.
pub(super) struct Machine {
    folder: TempDir,
    pub(super) document: Document,
    /// Where each server's `name:port` leads.
    pub(super) hosts: BTreeMap<String, String>,
}

/// One replica of a service, not running.
#[derive(Clone)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) service: Service,
    pub(super) address: Ipv4Addr,
    root: PathBuf,
    /// Where the files of variables and the programs are.
    machine: PathBuf,
    hosts: BTreeMap<String, String>,
}

/// A running one. Killed when dropped.
pub(super) struct Process {
    pub(super) container: Container,
    child: Child,
    log: PathBuf,
}

impl Machine {
    /// A machine with fresh volumes.
    pub(super) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("claygate-compose-").tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let machine = Self { folder, document: Document::read(), hosts: BTreeMap::new() };
        for volume in machine.document.volumes.keys() {
            let path = machine.volume(volume);
            std::fs::create_dir_all(&path).unwrap();
            give_away(&path);
        }
        std::fs::create_dir(machine.folder.path().join("bin")).unwrap();
        for name in ["claygate", "ingest", "worker"] {
            let (built, here) = (program(name), machine.folder.path().join("bin").join(name));
            if is_open(&built) {
                symlink(built, here).unwrap();
            } else {
                std::fs::copy(built, here).unwrap();
            }
        }
        machine
    }

    /// A volume's folder.
    pub(super) fn volume(&self, name: &str) -> PathBuf {
        self.folder.path().join("volumes").join(name)
    }

    /// Writes a file beside docker-compose.yml, as a user does.
    pub(super) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Makes a replica of a service.
    pub(super) fn container(&self, service: &str, replica: usize) -> Container {
        let name = format!("{service}-{replica}");
        let root = self.folder.path().join("containers").join(&name);
        let [a, b, c, ..] = *uuid::Uuid::new_v4().as_bytes();
        let container = Container {
            name,
            service: self.document.services[service].clone(),
            address: Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254)),
            root,
            machine: self.folder.path().to_owned(),
            hosts: self.hosts.clone(),
        };
        for mount in &container.service.volumes {
            self.mount(&container, mount);
        }
        container
    }

    fn mount(&self, container: &Container, mount: &Mount) {
        let target = container.path(&mount.target);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        match mount.file() {
            Some(file) => drop(std::fs::copy(repository().join(file), target).unwrap()),
            None => symlink(self.volume(&mount.source), target).unwrap(),
        }
    }

    /// Closes what the remaining services may only read, once `init` has ended: nothing can be added or removed there.
    pub(super) fn close_read_only_volumes(&self) {
        let others = self.document.services.iter().filter(|(name, _)| *name != "init");
        let mounts: Vec<&Mount> = others.flat_map(|(_, service)| &service.volumes).collect();
        let written: BTreeSet<&str> =
            mounts.iter().filter(|mount| !mount.read_only).map(|mount| &*mount.source).collect();
        for mount in mounts.iter().filter(|mount| mount.file().is_none() && !written.contains(&*mount.source)) {
            std::fs::set_permissions(self.volume(&mount.source), Permissions::from_mode(0o555)).unwrap();
        }
    }
}

impl Container {
    /// Where a path of the container is on this machine.
    pub(super) fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside.strip_prefix('/').unwrap())
    }

    /// Its variables as they are on this machine.
    pub(super) fn variables(&self) -> BTreeMap<String, String> {
        let variables = self.service.variables(&self.machine);
        variables.into_iter().map(|(name, value)| (name, self.translate(&value))).collect()
    }

    /// The same, for reading the configuration.
    pub(super) fn environment(&self) -> Environment {
        self.variables().into_iter().collect()
    }

    fn translate(&self, word: &str) -> String {
        if word.starts_with('/') {
            return self.path(word).to_str().unwrap().to_owned();
        }
        let word = word.replace("0.0.0.0:", &format!("{}:", self.address));
        self.hosts.iter().fold(word, |word, (name, place)| word.replace(&format!("@{name}"), &format!("@{place}")))
    }

    /// A command in it, as by `docker compose exec`.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.machine.join("bin").join(words[0]));
        command.args(words[1..].iter().map(|word| self.translate(word)));
        command.env_clear().envs(self.variables()).current_dir(&self.root).stdin(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Runs a command in it to its end.
    pub(super) async fn run(&self, words: &[&str]) -> Output {
        finish(self.command(words)).await
    }

    /// Runs its own command to its end.
    pub(super) async fn run_to_end(&self) -> Output {
        self.run(&words(&self.service.command)).await
    }

    /// Starts its own command.
    pub(super) fn start(self) -> Process {
        let log = self.machine.join(format!("{}.log", self.name));
        let open = || File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.command(&words(&self.service.command));
        let child = command.stdout(open()).stderr(open()).spawn().unwrap();
        Process { container: self, child, log }
    }

    /// Runs its health check once: the answer, and what was said.
    pub(super) async fn check_health(&self) -> Result<(), String> {
        let check = self.service.healthcheck.as_ref().expect("a health check");
        let [kind, command @ ..] = &check.test[..] else { panic!("{:?}", check.test) };
        assert_eq!(kind, "CMD");
        let output = self.run(&words(command)).await;
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(said.into_owned()) }
    }
}

impl Process {
    /// What it has written.
    pub(super) fn written(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Stops it as Compose does, and fails when it needs longer than the file allows, or does not end well.
    pub(super) async fn stop(mut self) {
        let limit = super::document::duration(self.container.service.stop_grace_period.as_deref().unwrap()).min(LIMIT);
        signal(self.child.id(), Signal::TERM);
        let name = self.container.name.clone();
        let status = testkit::wait::wait_for(&format!("{name} to end"), limit, || {
            let ended = self.child.try_wait().unwrap();
            async move { ended.ok_or("it runs") }
        })
        .await;
        assert!(status.success(), "{name}: {status}\n{}", self.written());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // An ordinary user could not remove what is in a closed folder.
        for volume in self.document.volumes.keys() {
            let _ = std::fs::set_permissions(self.volume(volume), Permissions::from_mode(0o755));
        }
    }
}

/// Whether every user can run a program where it is.
fn is_open(program: &Path) -> bool {
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
    mode(program) & 0o005 == 0o005 && program.ancestors().skip(1).all(|folder| mode(folder) & 0o001 != 0)
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// Gives a fresh volume to the user of our programs, as the image's folder does.
fn give_away(folder: &Path) {
    std::fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(folder, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}
