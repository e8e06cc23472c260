//! A real server: started, stopped, killed, and left behind in every way that a crash leaves one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "rabbitmq")]
mod rabbitmq;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use embedded::{Cluster, Error, Home, Settings, locate};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

fn folder() -> (TempDir, Settings) {
    let folder = tempfile::Builder::new().prefix("claygate-embedded-").tempdir().unwrap();
    let home = Home::temporary(folder.path()).unwrap();
    (folder, Settings { max_connections: 20, ..Settings::throw_away(home) })
}

fn accepts(cluster: &Cluster) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, cluster.port())).is_ok()
        && std::fs::exists(cluster.socket().join(format!(".s.PGSQL.{}", cluster.port()))).unwrap()
}

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn pid_file(folder: &Path) -> std::path::PathBuf {
    folder.join("cluster/postmaster.pid")
}

/// Writes `pid` over the first line of a `postmaster.pid`.
fn write_pid(folder: &Path, text: &str, pid: u32) {
    let rest = text.split_once('\n').unwrap().1;
    std::fs::write(pid_file(folder), format!("{pid}\n{rest}")).unwrap();
}

#[test]
fn start_stop_and_start_again_keep_cluster_password_and_port() {
    let (folder, settings) = folder();
    let first = Cluster::start(&settings).unwrap();
    assert!(accepts(&first));
    let (port, password) = (first.port(), first.password().to_owned());
    first.stop().unwrap();
    assert!(!pid_file(folder.path()).exists(), "a clean stop leaves no postmaster.pid");

    let second = Cluster::start(&settings).unwrap();
    assert!(accepts(&second));
    assert_eq!((second.port(), second.password()), (port, password.as_str()));
    assert_eq!(second.installation(), &locate().unwrap());
}

#[test]
fn a_durable_server_flushes_before_it_answers_and_logs_whole_pages() {
    let (_folder, Settings { home, .. }) = folder();
    let cluster = Cluster::start(&Settings { max_connections: 20, ..Settings::durable(home, None) }).unwrap();
    assert!(accepts(&cluster));
    let command_line = std::fs::read_to_string(format!("/proc/{}/cmdline", cluster.pid())).unwrap();
    let has = |setting: &str| command_line.split('\0').any(|argument| argument == setting);
    assert!(has("fsync=on") && has("synchronous_commit=on") && has("full_page_writes=on"), "{command_line}");
    let buffers: u64 = command_line
        .split('\0')
        .find_map(|argument| argument.strip_prefix("shared_buffers=")?.strip_suffix("MB")?.parse().ok())
        .unwrap();
    assert!((128..=2048).contains(&buffers), "{command_line}");
    let help = Command::new(cluster.installation().bin.join("pg_config")).arg("--configure").output().unwrap();
    let has_lz4 = String::from_utf8_lossy(&help.stdout).contains("--with-lz4");
    assert!(has(if has_lz4 { "wal_compression=lz4" } else { "wal_compression=on" }), "{command_line}");
}

#[test]
fn a_taken_port_is_named_when_asked_for_and_avoided_when_not() {
    let (_folder, settings) = folder();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let refused = Cluster::start(&Settings { port: Some(port), ..settings.clone() }).err().unwrap();
    assert!(matches!(refused, Error::PortTaken { port: named } if named == port));

    std::fs::write(settings.home.dir().join("port"), port.to_string()).unwrap();
    let cluster = Cluster::start(&settings).unwrap();
    assert_ne!(cluster.port(), port);
}

#[test]
fn a_server_left_running_is_stopped_and_started_anew() {
    let (_folder, settings) = folder();
    let left = Cluster::start(&settings).unwrap();
    let end = left.end();
    let old = left.pid();
    std::mem::forget(left);
    let cluster = Cluster::start(&settings).unwrap();
    assert!(end.wait().success());
    assert_ne!(cluster.pid(), old);
    assert!(accepts(&cluster));
}

#[test]
fn a_killed_server_and_its_orphans_do_not_stop_the_next_start() {
    let (folder, settings) = folder();
    let killed = Cluster::start(&settings).unwrap();
    kill(killed.pid(), Signal::KILL);
    killed.end().wait();
    drop(killed);
    assert!(pid_file(folder.path()).exists(), "a kill leaves postmaster.pid behind");
    let cluster = Cluster::start(&settings).unwrap();
    assert!(accepts(&cluster));
}

#[test]
fn a_stale_pid_that_belongs_to_somebody_else_now_is_no_obstacle() {
    let (folder, settings) = folder();
    let killed = Cluster::start(&settings).unwrap();
    kill(killed.pid(), Signal::KILL);
    killed.end().wait();
    drop(killed);
    let text = std::fs::read_to_string(pid_file(folder.path())).unwrap();

    // Run as the server's own user: Postgres takes such a process for a rival.
    let mut command = Command::new("sleep");
    command.arg("600").stdin(Stdio::null());
    if let Some(user) = settings.home.run_as() {
        use std::os::unix::process::CommandExt;
        command.uid(user.uid).gid(user.gid);
    }
    let mut stranger = command.spawn().unwrap();
    write_pid(folder.path(), &text, stranger.id());
    let started = Cluster::start(&settings).map(|cluster| accepts(&cluster));
    let still_alive = stranger.try_wait().unwrap().is_none();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(started.unwrap());
    assert!(still_alive, "the stranger was not touched");
}

#[test]
fn a_start_that_fails_shows_what_the_server_said() {
    let (folder, settings) = folder();
    Cluster::start(&settings).unwrap().stop().unwrap();
    std::fs::write(folder.path().join("cluster/postgresql.conf"), "no_such_setting = 1\n").unwrap();
    let error = Cluster::start(&settings).err().unwrap().to_string();
    assert!(error.contains("no_such_setting"), "{error}");
}

#[test]
fn an_interrupted_initdb_is_repeated() {
    let (folder, settings) = folder();
    let half = folder.path().join("cluster.making");
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("PG_VERSION"), "15\n").unwrap();
    assert!(accepts(&Cluster::start(&settings).unwrap()));
    assert!(!half.exists());
}

#[test]
fn a_cluster_of_another_version_is_refused_with_both_versions() {
    let (folder, settings) = folder();
    std::fs::create_dir(folder.path().join("cluster")).unwrap();
    std::fs::write(folder.path().join("cluster/PG_VERSION"), "9.6\n").unwrap();
    let error = Cluster::start(&settings).err().unwrap().to_string();
    assert!(error.contains("9.6") && error.contains(&locate().unwrap().major.to_string()), "{error}");
}

#[test]
fn the_server_hears_of_its_end_from_any_thread() {
    let (_folder, settings) = folder();
    let cluster = Cluster::start(&settings).unwrap();
    let end = cluster.end();
    let waiting = std::thread::spawn(move || end.wait());
    kill(cluster.pid(), Signal::INT);
    assert!(waiting.join().unwrap().success());
    let deadline = Instant::now() + Duration::from_secs(5);
    while cluster.exit_status().is_none() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(cluster.exit_status().is_some());
}

#[test]
fn a_data_folder_made_anew_is_not_given_the_former_ones_database_unasked() {
    let parent = TempDir::new().unwrap();
    let data = parent.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let home = Home::of_data(&data).unwrap();
    let dir = home.dir().to_owned();
    Cluster::start(&Settings::throw_away(home)).unwrap().stop().unwrap();
    assert!(Home::has_cluster(&data).unwrap());
    assert_eq!(Home::of_data(&data).unwrap().dir(), dir);

    std::fs::remove_dir_all(&data).unwrap();
    std::fs::create_dir(&data).unwrap();
    if dir.starts_with(&data) {
        // An ordinary user's went with the folder.
        assert!(!Home::has_cluster(&data).unwrap());
        return;
    }
    let refused = Home::of_data(&data).unwrap_err();
    assert!(matches!(refused, embedded::Error::LeftBehind { .. }), "{refused}");
    std::fs::write(data.join("database"), dir.to_str().unwrap()).unwrap();
    assert_eq!(Home::of_data(&data).unwrap().dir(), dir);
    std::fs::remove_dir_all(dir).unwrap();
}
