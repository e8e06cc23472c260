//! One running process of an installation. Killed when dropped.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use testkit::metrics::MetricsPage;
use testkit::wait::wait_for;
use tokio::task::JoinHandle;

use crate::logs::Log;
use crate::services::Role;
use crate::site::{LIMIT, signal};

const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) struct Service {
    role: Role,
    name: String,
    child: Child,
    pub(crate) log: Log,
    port: u16,
    admin_port: u16,
}

/// What `/readyz` said.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    pub(crate) report: Value,
}

impl Service {
    pub(crate) fn new(role: Role, name: &str, child: Child, log: Log) -> Self {
        Self { role, name: name.to_owned(), child, log, port: 0, admin_port: 0 }
    }

    /// Waits until it listens.
    pub(crate) async fn wait_until_started(mut self) -> Self {
        let what = format!("{} to start", self.name);
        let line = wait_for(&what, LIMIT, || {
            let ended = self.child.try_wait().unwrap();
            let started = self.log.find("started").ok_or_else(|| format!("{ended:?}: {}", self.log.tail()));
            if let Some(status) = ended {
                panic!("{} ended ({status}): {}", self.name, self.log.tail());
            }
            async move { started }
        })
        .await;
        let port = |key: &str| u16::try_from(line[key].as_u64().unwrap_or_default()).unwrap();
        (self.port, self.admin_port) = (port("port"), port("admin_port"));
        self
    }

    /// Waits until it listens and `/readyz` says so.
    pub(crate) async fn wait_until_ready(self) -> Self {
        let started = self.wait_until_started().await;
        started.wait_for_readiness(true).await;
        started
    }

    /// Waits until `/readyz` answers so.
    pub(crate) async fn wait_for_readiness(&self, ready: bool) -> Readiness {
        let what = format!("{} to be {}", self.name, if ready { "ready" } else { "not ready" });
        wait_for(&what, LIMIT, async || {
            let readiness = self.readiness().await;
            if readiness.ready == ready {
                Ok(readiness)
            } else {
                Err(format!("{readiness:?}\n{}\n{}", self.state(), self.log.tail()))
            }
        })
        .await
    }

    /// What the kernel says that it does: one that does not answer may have ended, or be stopped.
    fn state(&self) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        status.lines().find(|line| line.starts_with("State:")).unwrap_or("State: gone").to_owned()
    }

    pub(crate) async fn readiness(&self) -> Readiness {
        ask(&testkit::http::client(), self.admin_port).await
    }

    /// What it counts.
    pub(crate) async fn metrics(&self) -> MetricsPage {
        let url = format!("http://127.0.0.1:{}/metrics", self.admin_port);
        let answer = testkit::http::client().get(url).timeout(LIMIT).send().await.unwrap();
        MetricsPage::new(answer.text().await.unwrap())
    }

    /// The hour of its clock, from 00 to 23.
    pub(crate) async fn hour(&self) -> String {
        let url = format!("http://127.0.0.1:{}/livez", self.admin_port);
        let answer = testkit::http::client().get(url).timeout(LIMIT).send().await.unwrap();
        // As in `Sat, 01 Jan 2000 09:30:00 GMT`.
        answer.headers()["date"].to_str().unwrap()[17..19].to_owned()
    }

    /// Watches `/readyz` from now on.
    pub(crate) fn watch(&self) -> Vigil {
        assert_eq!(self.role, Role::Ingest, "a worker's readiness may turn red");
        let (client, port) = (testkit::http::client(), self.admin_port);
        let task = tokio::spawn(async move {
            loop {
                let readiness = ask(&client, port).await;
                if !readiness.ready {
                    return readiness;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        Vigil(task)
    }

    /// The public port of an intake.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn signal(&self, what: Signal) {
        signal(self.child.id(), what);
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended itself at the point that it was told.
    pub(crate) async fn wait_for_crash(mut self) {
        let what = format!("{} to end itself", self.name);
        let status: ExitStatus = wait_for(&what, LIMIT, || {
            let status = self.child.try_wait().unwrap().ok_or_else(|| self.log.tail());
            async move { status }
        })
        .await;
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "{} ended with {status}", self.name);
    }

    /// SIGTERM, and waits for its end, which has to be a success.
    pub(crate) async fn terminate(mut self) {
        self.signal(Signal::TERM);
        let status: ExitStatus = wait_for(&format!("{} to end", self.name), LIMIT, || {
            let ended = self.child.try_wait().unwrap();
            let status = ended.ok_or_else(|| self.log.tail());
            async move { status }
        })
        .await;
        assert!(status.success(), "{} ended with {status}: {}", self.name, self.log.tail());
    }
}

async fn ask(client: &reqwest::Client, admin_port: u16) -> Readiness {
    let url = format!("http://127.0.0.1:{admin_port}/readyz");
    match client.get(url).timeout(LIMIT).send().await {
        Ok(answer) => {
            let ready = answer.status().is_success();
            let body = answer.bytes().await.unwrap_or_default();
            Readiness { ready, report: serde_json::from_slice(&body).unwrap_or_default() }
        }
        Err(error) => Readiness { ready: false, report: format!("{:#}", anyhow::Error::from(error)).into() },
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Somebody who looks at an intake's `/readyz` all the time, as a load balancer does.
pub(crate) struct Vigil(JoinHandle<Readiness>);

impl Vigil {
    /// Fails if it was ever not ready.
    pub(crate) async fn assert_undisturbed(self) {
        if self.0.is_finished() {
            panic!("the intake was not ready: {:?}", self.0.await.unwrap());
        }
        self.0.abort();
    }
}
