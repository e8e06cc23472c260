//! The `ingest` binary as a process: without Postgres, with it, and at its end.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testkit::postgres::TestDatabase;
use testkit::wait::wait_until;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

use crate::gateway::{Answer, CLAY, LIMIT, PATH, SECRET, Site};

/// A started `ingest`, killed when dropped.
struct Process {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Process {
    fn start(site: &Site) -> Self {
        let file = site.spool.path().join("claygate.toml");
        let (url, dir) = (site.database.url(), site.spool.path().join("data"));
        let listeners = "[ingest]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
        std::fs::write(&file, format!("[database]\nurl = \"{url}\"\n{listeners}{CLAY}")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ingest"))
            .arg("--config")
            .arg(&file)
            .arg("--data")
            .arg(&dir)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log }
    }

    /// Reads the log up to this message.
    async fn line(&mut self, message: &str) -> Value {
        let reading = async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                assert!(!line.contains(SECRET), "{line}");
                let line: Value = serde_json::from_str(&line).unwrap();
                if line["message"] == message {
                    return line;
                }
            }
            panic!("the log ended before {message:?}");
        };
        tokio::time::timeout(LIMIT, reading).await.unwrap_or_else(|_| panic!("no {message:?} in the log"))
    }
}

#[tokio::test]
async fn the_process_starts_without_postgres_migrates_drains_and_ends_on_sigterm() {
    let site = Site::on(TestDatabase::create_empty().await);
    site.take_postgres_away().await;
    let mut process = Process::start(&site);
    let started = process.line("started").await;
    let url = |port: &str, path: &str| format!("http://127.0.0.1:{}{path}", started[port]);
    let client = testkit::http::client();

    let post = client.post(url("port", PATH)).header("X-Clay-Signature", SECRET).body(r#"{"n":1}"#);
    let spooled = Answer::of(post).await;
    assert_eq!(spooled.status_word(), "spooled");
    let ready = Answer::of(client.get(url("admin_port", "/readyz"))).await;
    assert_eq!((ready.status, &ready.json["ready"]), (200, &true.into()), "{ready:?}");

    site.bring_postgres_back().await;
    wait_until("the spool to be drained", LIMIT, || async {
        let metrics = client.get(url("admin_port", "/metrics")).send().await.unwrap().text().await.unwrap();
        metrics.lines().any(|line| line == "claygate_spool_entries 0")
    })
    .await;
    assert_eq!(site.value::<String>("SELECT id::text FROM claygate.callbacks").await, spooled.id());

    let pid = Pid::from_raw(process.child.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    process.line("the intake has stopped; its spool is empty").await;
    let status = tokio::time::timeout(Duration::from_secs(10), process.child.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
    crate::books::assert_balanced(&site).await;
}
