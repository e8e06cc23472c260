//! How each fault is done, and undone.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::db::Database;
use rustix::process::Signal;
use sqlx::AssertSqlSafe;
use testkit::proxy::Direction;
use testkit::receiver::Answer;
use testkit::wait::{wait_for, wait_until};

use super::fault::{Fault, Link, Manner, Part};
use super::rig::Rig;
use crate::service::Service;
use crate::site::LIMIT;

/// Of the proxies: noticeable, and shorter than any time-out.
const DELAY: Duration = Duration::from_millis(250);
/// Answers between two parts of a fault: the load goes on meanwhile.
const BETWEEN: usize = 20;
/// An hour ahead, and the true time, as libfaketime reads them.
const CLOCKS: [&str; 2] = ["+3600", "+0"];
const FAKETIME: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];
/// What a bomb becomes when somebody unpacks it: far more than a process may grow by.
const BOMB_BYTES: &str = "268435456";

impl Rig {
    /// Lets `fault` happen to the process number `which` of its kind, for as long as `hold` where it has a length, and makes
    /// everything whole again.
    pub(super) async fn suffer(&mut self, fault: Fault, which: usize, hold: Duration) {
        match fault {
            Fault::Kill(Part::Postgres) => {
                self.postgres.kill().await;
                tokio::time::sleep(hold / 3).await;
                self.postgres.start_again().await;
                self.reconnect().await;
            }
            Fault::Kill(Part::Broker) => {
                self.broker.kill().await;
                tokio::time::sleep(hold / 3).await;
                self.broker.start_again().await;
            }
            Fault::Kill(part) => self.kill(part, which).await,
            Fault::Stop(Part::Postgres) => {
                self.postgres.pause();
                tokio::time::sleep(hold).await;
                self.postgres.resume();
            }
            Fault::Stop(Part::Broker) => {
                self.broker.pause().await;
                tokio::time::sleep(hold).await;
                self.broker.resume().await;
            }
            Fault::Stop(part) => {
                self.processes(part).1[which].signal(Signal::STOP);
                tokio::time::sleep(hold).await;
                self.processes(part).1[which].signal(Signal::CONT);
            }
            Fault::Cut(link) => self.links.get(link).cut().await,
            Fault::Delay(link) => {
                self.links.get(link).delay(DELAY);
                tokio::time::sleep(hold).await;
                self.links.get(link).heal().await;
            }
            Fault::HalfClose(link) => {
                self.links.get(link).half_close(Direction::ToTarget);
                self.go_on(BETWEEN).await;
                self.links.get(link).half_close(Direction::ToClient);
            }
            Fault::RollingRestart => self.restart_all().await,
            Fault::DiskFull => self.fill_the_disk(which, hold).await,
            Fault::ReadOnly => {
                self.alter_postgres("SET default_transaction_read_only = on").await;
                tokio::time::sleep(hold).await;
                self.alter_postgres("RESET default_transaction_read_only").await;
            }
            Fault::MemoryAlarm => {
                self.broker.ctl(&["set_vm_memory_high_watermark", "0"]).await;
                tokio::time::sleep(hold).await;
                self.broker.ctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]).await;
            }
            Fault::Clock(part) => self.step_the_clock(part, which, hold).await,
            Fault::Destination(manner) => {
                self.receiver.answer_with(answer(manner));
                tokio::time::sleep(hold).await;
                self.behave();
            }
        }
    }

    /// Gives up the connection that this test itself had.
    async fn reconnect(&self) {
        let database = self.services.database.database();
        wait_for("Postgres to answer the test", LIMIT, async || {
            sqlx::query("SELECT 1").execute(database.pool()).await.map(drop)
        })
        .await;
    }

    /// Waits for `n` more answers.
    pub(super) async fn go_on(&self, n: usize) {
        self.sender.wait_for_answers(self.sender.answered() + n).await;
    }

    async fn kill(&mut self, part: Part, which: usize) {
        let (role, services) = self.processes(part);
        let gone = services.remove(which);
        let name = gone.name().to_owned();
        gone.kill();
        // The other one has everything for a while.
        self.go_on(BETWEEN).await;
        let successor = self.services.spawn(role, &name).wait_until_ready().await;
        self.processes(part).1.insert(which, successor);
        self.follow();
    }

    async fn restart_all(&mut self) {
        for part in [Part::Ingest, Part::Worker] {
            for which in [0, 1] {
                self.restart(part, which, |command| command).await;
                self.go_on(BETWEEN).await;
            }
        }
    }

    /// Stops a process in an orderly way, and starts another one in its place by a command made of its own.
    async fn restart(&mut self, part: Part, which: usize, change: impl Fn(Command) -> Command) {
        let (role, services) = self.processes(part);
        let former = services.remove(which);
        let name = former.name().to_owned();
        // As a load balancer does it: first no more requests, then the stop.
        self.follow();
        former.terminate().await;
        let command = change(self.services.command(role, &name));
        let successor = self.services.spawn_command(role, &name, command).wait_until_ready().await;
        self.processes(part).1.insert(which, successor);
        self.follow();
    }

    async fn alter_postgres(&self, what: &str) {
        let database: Database = self.services.database.database();
        for statement in [format!("ALTER SYSTEM {what}"), "SELECT pg_reload_conf()".to_owned()] {
            sqlx::query(AssertSqlSafe(statement)).execute(database.pool()).await.unwrap();
        }
    }

    /// An intake on a disk of its own, which is full when Postgres is away from the intakes.
    async fn fill_the_disk(&mut self, which: usize, hold: Duration) {
        let name = self.intakes[which].name().to_owned();
        let spool = self.services.data(&name).join("spool");
        self.restart(Part::Ingest, which, |command| on_a_small_disk(&command, &spool)).await;
        let postgres = self.links.get(Link::IngestPostgres);
        postgres.refuse().await;
        postgres.cut().await;
        // Its disk is mounted where nobody else sees it.
        let root = PathBuf::from(format!("/proc/{}/root", self.intakes[which].pid()));
        let disk = root.join(spool.strip_prefix("/").unwrap());
        let filler = disk.join("filler");
        fill(&filler);
        wait_for("callbacks that fit nowhere", LIMIT, async || {
            let told = self.intakes[which].metrics().await;
            let refused = told.value("claygate_callbacks_total", &[("result", "unavailable")]).unwrap_or_default();
            if refused > 0.0 { Ok(()) } else { Err(told.to_string()) }
        })
        .await;
        tokio::time::sleep(hold / 3).await;
        std::fs::remove_file(&filler).unwrap();
        self.links.get(Link::IngestPostgres).heal().await;
        let intake: &Service = &self.intakes[which];
        wait_until("the spool to be drained", LIMIT, async || {
            intake.metrics().await.value("claygate_spool_entries", &[]) == Some(0.0)
        })
        .await;
        // Nobody mounts its disk once the process is gone, but while it is open it is there: what was spooled since goes to
        // the successor, as on a disk that stays.
        let open = File::open(disk).unwrap();
        let disk = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
        self.restart(Part::Ingest, which, |command| {
            copy_segments(&disk, &spool);
            command
        })
        .await;
    }

    /// A process whose clock is another one's, as the other processes and the servers see it.
    async fn step_the_clock(&mut self, part: Part, which: usize, hold: Duration) {
        let library = faketime().expect("the fault was skipped without it");
        let name = self.processes(part).1[which].name().to_owned();
        let clock = self.services.data(&format!("{name}.clock"));
        std::fs::write(&clock, CLOCKS[1]).unwrap();
        self.restart(part, which, |mut command| {
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock);
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            command.env("DONT_FAKE_MONOTONIC", "1");
            command
        })
        .await;
        self.go_on(BETWEEN).await;
        for (time, is_ahead) in CLOCKS.into_iter().zip([true, false]) {
            // In one step: a file that is half written would be a third time.
            let next = clock.with_extension("next");
            std::fs::write(&next, time).unwrap();
            std::fs::rename(&next, &clock).unwrap();
            let services = &*self.processes(part).1;
            wait_until("its clock to be stepped", LIMIT, async || {
                (services[which].hour().await != services[1 - which].hour().await) == is_ahead
            })
            .await;
            tokio::time::sleep(hold / 2).await;
            self.go_on(BETWEEN).await;
        }
        self.restart(part, which, |command| command).await;
    }
}

/// Why this machine cannot do it, if it cannot.
pub(super) fn missing_for(fault: Fault) -> Option<&'static str> {
    match fault {
        Fault::DiskFull if !can_mount() => Some("this user may not mount a file system"),
        Fault::Clock(_) if faketime().is_none() => Some("libfaketime is not installed"),
        _ => None,
    }
}

fn faketime() -> Option<&'static str> {
    FAKETIME.into_iter().find(|path| Path::new(path).exists())
}

fn can_mount() -> bool {
    let folder = tempfile::tempdir().unwrap();
    on_a_small_disk(&Command::new("true"), folder.path()).status().is_ok_and(|status| status.success())
}

/// The same with a disk of 2 MiB at `folder`, which nobody else sees and which goes with the process, unless somebody has
/// it open.
fn on_a_small_disk(command: &Command, folder: &Path) -> Command {
    std::fs::create_dir_all(folder).unwrap();
    let mut unshared = Command::new("unshare");
    unshared.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        unshared.args(["--map-root-user"]);
    }
    unshared.args(["sh", "-c", "mount -t tmpfs -o size=2m claygate-test \"$0\" && exec \"$@\""]).arg(folder);
    unshared.arg(command.get_program()).args(command.get_args());
    unshared.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    unshared.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        unshared.current_dir(folder);
    }
    unshared
}

/// What a spool holds, into another one.
fn copy_segments(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "segment") {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Writes until nothing fits any more.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = File::create(path).unwrap();
    let piece = [0; 256];
    while file.write_all(&piece).is_ok() {}
}

fn answer(manner: Manner) -> Answer {
    match manner {
        Manner::Hangs => Answer::hang(),
        Manner::Resets => Answer::reset(),
        Manner::Fails => Answer::status(500),
        Manner::NeverEnds => Answer::endless(200),
        Manner::SendsABomb => Answer::status(200).header("content-encoding", "gzip").body(bomb()),
    }
}

/// A small body that unpacks to a large one.
fn bomb() -> Vec<u8> {
    let packed =
        Command::new("sh").args(["-c", "head -c \"$0\" /dev/zero | gzip -1"]).arg(BOMB_BYTES).output().unwrap();
    assert!(packed.status.success() && packed.stdout.starts_with(b"\x1f\x8b"), "gzip packs");
    packed.stdout
}
