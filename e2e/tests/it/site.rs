//! A place where `claygate up` runs: a folder with a configuration, and the processes started in it.

use std::fs::File;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use common::db::{ConnectSettings, Database, PgSslMode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use testkit::metrics::MetricsPage;
use testkit::wait::wait_for;

use crate::parts;

/// Long: the machine may be busy, and Postgres may have to recover.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// The user that root becomes where a test is about ordinary users.
pub(crate) const NOBODY: u32 = 65_534;

/// A folder with `claygate.toml`, and the user who runs claygate in it. Dropped, at the end of its test, it looks by
/// `claygate verify` whether the books balance, if there ever was a database.
pub(crate) struct Site {
    folder: TempDir,
    program: PathBuf,
    uid: Option<u32>,
    with_books: bool,
}

impl Site {
    /// A site whose configuration is `config` below listeners on free ports.
    pub(crate) fn new(config: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("claygate-e2e-").tempdir().unwrap();
        let listeners = "[ingest]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
        std::fs::write(folder.path().join("claygate.toml"), format!("{listeners}{config}")).unwrap();
        Self { folder, program: program("claygate"), uid: None, with_books: true }
    }

    /// The same as somebody who is not root. Tests that run as an ordinary user anyway stay that user.
    pub(crate) fn with_ordinary_user(mut self) -> Self {
        if !rustix::process::geteuid().is_root() {
            return self;
        }
        // The build folder may be closed to others.
        let copy = self.folder.path().join("claygate");
        std::fs::copy(&self.program, &copy).unwrap();
        self.program = copy;
        for path in [self.folder.path().to_owned(), self.folder.path().join("claygate.toml"), self.program.clone()] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        self.uid = Some(NOBODY);
        self
    }

    /// The same for a test that leaves, by purpose, what does not balance.
    pub(crate) fn without_books(mut self) -> Self {
        self.with_books = false;
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("claygate-data")
    }

    /// The secret of a source.
    pub(crate) fn secret(&self, source: &str) -> String {
        std::fs::read_to_string(self.data().join("secrets").join(source)).unwrap().trim().to_owned()
    }

    /// `run.json`, if there is one.
    pub(crate) fn run_file(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.data().join("run.json")).ok()?).ok()
    }

    /// The process of the running instance's embedded Postgres.
    pub(crate) fn postmaster(&self) -> u32 {
        u32::try_from(self.run_file().unwrap()["postgres"]["pid"].as_u64().unwrap()).unwrap()
    }

    /// The running instance's database.
    pub(crate) fn database(&self) -> Database {
        let run = self.run_file().unwrap();
        let text = |key: &str| run["postgres"][key].as_str().unwrap();
        let password = std::fs::read_to_string(text("password_file")).unwrap();
        Database::open(ConnectSettings {
            host: text("socket").to_owned(),
            port: u16::try_from(run["postgres"]["port"].as_u64().unwrap()).unwrap(),
            user: "claygate".to_owned(),
            password: Some(password.into()),
            database: "claygate".to_owned(),
            ssl_mode: PgSslMode::Disable,
            ssl_root_cert: None,
            max_connections: 1,
        })
    }

    /// The embedded cluster's `postmaster.pid`.
    pub(crate) fn postmaster_pid_file(&self) -> PathBuf {
        let hosted =
            || std::fs::read_dir("/var/lib/claygate").into_iter().flatten().flatten().map(|entry| entry.path());
        let data = self.data().canonicalize().unwrap();
        let of_root = hosted().find(|home| {
            std::fs::read(home.join("data-folder")).is_ok_and(|text| text == data.as_os_str().as_encoded_bytes())
        });
        of_root.unwrap_or_else(|| data.join("postgres")).join("cluster/postmaster.pid")
    }

    /// `claygate <arguments>` in this folder, with an environment of its own.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(self.folder.path()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
        if let Some(bin) = std::env::var_os("CLAYGATE_PG_BIN") {
            command.env("CLAYGATE_PG_BIN", bin);
        }
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// Runs a command to its end, or kills it after [`LIMIT`] and fails the test.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        finish(self.command(arguments)).await
    }

    /// Runs a command that has to succeed, and reads its JSON.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Starts `claygate up` and waits until it is ready.
    pub(crate) async fn up(&self) -> Up {
        let up = self.spawn_up();
        up.wait_until_ready().await
    }

    /// Starts `claygate up` and does not wait.
    pub(crate) fn spawn_up(&self) -> Up {
        let log = |name: &str| File::options().create(true).append(true).open(self.folder.path().join(name)).unwrap();
        let child = self.command(&["up"]).stdout(log("out.log")).stderr(log("err.log")).spawn().unwrap();
        Up { child, data: self.data(), port: 0, admin_port: 0, folder: self.folder.path().to_owned() }
    }

    /// Everything that every `up` here has written.
    pub(crate) fn written(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        read("out.log") + &read("err.log")
    }

    /// The same, as soon as it contains `text`.
    pub(crate) async fn wait_until_written(&self, text: &str) -> String {
        wait_for(&format!("\"{text}\" to be written"), LIMIT, || {
            let written = self.written();
            async move { if written.contains(text) { Ok(written) } else { Err(written) } }
        })
        .await
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A test that has failed has said why, and a second panic would hide it.
        let looks = self.with_books && !std::thread::panicking() && self.data().exists();
        let looks = looks && self.postmaster_pid_file().with_file_name("PG_VERSION").exists();
        let books = looks.then(|| parts::on_a_runtime_of_its_own(self.run(&["verify"])));
        // As root the cluster lies outside of this folder.
        let home = self.data().canonicalize().ok().map(|_| self.postmaster_pid_file());
        let home = home.and_then(|file| Some(file.parent()?.parent()?.to_owned()));
        if let Some(home) = home.filter(|home| home.starts_with("/var/lib/claygate")) {
            let _ = std::fs::remove_dir_all(home);
        }
        if let Some(Output { status, stdout, stderr }) = books.filter(|output| !output.status.success()) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            panic!("`claygate verify` ended with {status}: {}{}", text(&stdout), text(&stderr));
        }
    }
}

/// A running `claygate up`. Killed when dropped.
pub(crate) struct Up {
    child: Child,
    data: PathBuf,
    folder: PathBuf,
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
}

impl Up {
    /// Waits until `/readyz` of this very process says so.
    pub(crate) async fn wait_until_ready(mut self) -> Self {
        let client = testkit::http::client();
        let folder = self.folder.clone();
        let (port, admin_port) = wait_for("claygate up to be ready", LIMIT, || {
            let exited = self.child.try_wait().unwrap();
            let run = std::fs::read(self.data.join("run.json")).ok();
            let pid = u64::from(self.child.id());
            let (client, folder) = (client.clone(), folder.clone());
            async move {
                if exited.is_some() {
                    return Err(format!("it ended: {}", read_tail(&folder.join("err.log"))));
                }
                let run: Option<Value> = run.and_then(|text| serde_json::from_slice(&text).ok());
                let Some(run) = run.filter(|run| run["pid"] == pid) else { return Err("no run.json".to_owned()) };
                let admin_port = run["admin_port"].as_u64().unwrap();
                match client.get(format!("http://127.0.0.1:{admin_port}/readyz")).send().await {
                    Ok(answer) if answer.status().is_success() => Ok((run["port"].as_u64().unwrap(), admin_port)),
                    Ok(answer) => Err(answer.text().await.unwrap_or_default()),
                    Err(error) => Err(error.to_string()),
                }
            }
        })
        .await;
        self.port = u16::try_from(port).unwrap();
        self.admin_port = u16::try_from(admin_port).unwrap();
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and waits until the process is gone. Its Postgres may still be going.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and how the process ended.
    pub(crate) fn terminate(self) -> ExitStatus {
        signal(self.pid(), Signal::TERM);
        self.wait()
    }

    /// How the process ended.
    pub(crate) fn wait(mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "claygate up does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A page of the admin port.
    pub(crate) async fn admin(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.admin_port);
        testkit::http::client().get(url).send().await.unwrap().text().await.unwrap()
    }

    /// What it counts.
    pub(crate) async fn metrics(&self) -> MetricsPage {
        MetricsPage::new(self.admin("/metrics").await)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs `command` to its end, or kills it after [`LIMIT`] and fails the test.
pub(crate) async fn finish(command: Command) -> Output {
    let what = format!("{command:?}");
    let mut command = tokio::process::Command::from(command);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let ended = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
    ended.unwrap_or_else(|_| panic!("{what} did not end within {LIMIT:?}")).unwrap()
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn read_tail(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().rev().take(10).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A binary under test.
pub(crate) fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("CLAYGATE_TEST_BIN_DIR").map(PathBuf::from).unwrap_or_else(|| {
        // target/debug/deps/it-… → target/debug
        let test = std::env::current_exe().unwrap();
        test.ancestors().nth(2).unwrap().to_owned()
    });
    let program = folder.join(name);
    assert!(program.is_file(), "{} is missing; `cargo build --bins` makes it", program.display());
    program
}
