//! A PostgreSQL that one test has for itself, to break it. What it commits is durable, unlike on the shared server.

use std::sync::{Mutex, MutexGuard, PoisonError};

use common::db::ConnectSettings;
use embedded::{Cluster, Home, Lock, Settings};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::postgres::{TestDatabase, connect_settings};

/// A server of its own, which runs or not. Its port, data, user and password stay the same until it is dropped.
pub struct OwnPostgres {
    /// Before the folder, which goes last.
    cluster: Mutex<Option<Cluster>>,
    settings: Settings,
    connect: ConnectSettings,
    _lock: Lock,
    _folder: TempDir,
}

impl OwnPostgres {
    /// Starts one, which takes some seconds.
    ///
    /// # Panics
    /// When there is no PostgreSQL, or it does not start.
    pub async fn start() -> Self {
        off_the_runtime(|| {
            let folder = tempfile::Builder::new().prefix("claygate-test-").tempdir().expect("a folder for the server");
            let home = Home::temporary(folder.path()).expect("a home for the server");
            let lock = Lock::take(folder.path(), "a test").expect("the folder is ours");
            let settings = Settings::durable(home, None);
            let cluster = Cluster::start(&settings).expect("PostgreSQL starts");
            let connect = connect_settings(&cluster, 4);
            let settings = Settings { port: Some(cluster.port()), ..settings };
            Self { cluster: Mutex::new(Some(cluster)), settings, connect, _lock: lock, _folder: folder }
        })
        .await
    }

    /// A migrated database on it.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn database(&self) -> TestDatabase {
        TestDatabase::on(&self.connect).await
    }

    /// The postmaster, also when it has ended.
    ///
    /// # Panics
    /// When it was not started again after [`OwnPostgres::kill`].
    pub fn pid(&self) -> u32 {
        self.cluster().as_ref().expect("the server was started").pid()
    }

    /// SIGKILL for the postmaster and every back-end; its data stays as it is on the disk.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(&self) {
        let cluster = self.cluster().take().expect("the server runs");
        off_the_runtime(move || {
            signal_all(cluster.pid(), Signal::KILL);
            // Nothing is left to stop; this reaps it.
            drop(cluster);
        })
        .await;
    }

    /// Starts it again after [`OwnPostgres::kill`], and waits until it serves.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_again(&self) {
        let settings = self.settings.clone();
        let cluster = off_the_runtime(move || Cluster::start(&settings).expect("PostgreSQL starts again")).await;
        *self.cluster() = Some(cluster);
    }

    /// Stops the time of all its processes: connections stay open and nothing is answered, until [`OwnPostgres::resume`].
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&self) {
        signal_all(self.pid(), Signal::STOP);
    }

    /// Undoes [`OwnPostgres::pause`].
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&self) {
        signal_all(self.pid(), Signal::CONT);
    }

    fn cluster(&self) -> MutexGuard<'_, Option<Cluster>> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Signals a process and its children.
fn signal_all(parent: u32, signal: Signal) {
    // It has no more of them while it is stopped, and they are known by it as long as it is there.
    send(parent, Signal::STOP);
    let children = children_of(parent);
    for pid in std::iter::once(parent).chain(children) {
        send(pid, signal);
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let child = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // After the name, which stands in brackets: the state and the parent.
        let (_, rest) = stat.rsplit_once(')')?;
        (rest.split_whitespace().nth(1)?.parse() == Ok(parent)).then_some(pid)
    };
    processes.filter_map(child).collect()
}

/// One that has ended needs no signal.
fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid");
    let _ = kill_process(pid, signal);
}

async fn off_the_runtime<T: Send + 'static>(action: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(action).await.expect("the action does not panic")
}
