//! A real broker: started, broken, and left behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use embedded::rabbitmq::{Broker, Error, Settings};

fn start() -> Broker {
    Broker::start(&Settings::throw_away("a test")).unwrap()
}

/// Sends a protocol header; the answer's class and method.
fn greet(port: u16) -> std::io::Result<(u16, u16)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    let mut frame = [0; 11];
    stream.read_exact(&mut frame)?;
    assert_eq!(frame[..3], [1, 0, 0], "a method frame on channel 0");
    Ok((u16::from_be_bytes([frame[7], frame[8]]), u16::from_be_bytes([frame[9], frame[10]])))
}

/// `Connection.Start`.
const STARTS: (u16, u16) = (10, 10);

#[test]
fn a_broker_serves_keeps_its_data_and_can_be_broken_in_every_way() {
    let broker = start();
    assert_eq!(greet(broker.port()).unwrap(), STARTS);
    assert!(broker.url().ends_with(&format!("@127.0.0.1:{}/%2f", broker.port())), "{}", broker.url());
    assert!(matches!(broker.start_again(), Err(Error::StillRuns { pid }) if pid == broker.pid()));

    broker.ctl(&["add_vhost", "kept"]).unwrap();
    let refused = broker.ctl(&["delete_vhost", "never-made"]).unwrap_err().to_string();
    assert!(refused.contains("delete_vhost never-made") && refused.contains("does not exist"), "{refused}");

    broker.pause().unwrap();
    assert!(greet(broker.port()).is_err(), "a paused broker accepts, and says nothing");
    broker.resume().unwrap();
    assert_eq!(greet(broker.port()).unwrap(), STARTS);

    let (url, first) = (broker.url(), broker.pid());
    broker.kill().unwrap();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, broker.port())).is_err());
    broker.start_again().unwrap();
    assert_ne!(broker.pid(), first);
    assert_eq!(broker.ctl(&["list_vhosts"]).unwrap().lines().filter(|vhost| *vhost == "kept").count(), 1);

    broker.pause().unwrap();
    broker.stop().unwrap();
    broker.stop().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, broker.port())).unwrap();
    let refused = broker.start_again().unwrap_err().to_string();
    assert!(refused.contains("did not start") && refused.contains("eaddrinuse"), "{refused}");
    drop(taken);
    broker.start_again().unwrap();
    assert_eq!(broker.url(), url);
    assert_eq!(greet(broker.port()).unwrap(), STARTS);
    let credentials = url.trim_start_matches("amqp://").split_once('@').unwrap().0.split_once(':').unwrap();
    broker.ctl(&["authenticate_user", credentials.0, credentials.1]).unwrap();
}

#[test]
fn two_brokers_do_not_meet_and_a_dropped_one_leaves_nothing() {
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(start);
        let two = scope.spawn(start);
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_ne!(one.port(), two.port());
    one.ctl(&["add_vhost", "of-the-first"]).unwrap();
    assert!(!two.ctl(&["list_vhosts"]).unwrap().contains("of-the-first"));

    let folder = one.folder().to_owned();
    let processes = processes_of(&folder);
    assert!(processes.len() >= 3, "the VM, epmd and the VM's own children: {processes:?}");
    drop(one);
    wait_until_gone(&folder);
    assert!(!folder.exists());
    assert_eq!(greet(two.port()).unwrap(), STARTS);
}

/// What the process does that the next test kills.
#[test]
#[ignore = "started by a_killed_parent_leaves_no_process"]
#[expect(clippy::print_stdout, reason = "it tells the test that started it")]
fn hold_a_broker() {
    let broker = start();
    println!("\nfolder={}", broker.folder().display());
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_killed_parent_leaves_no_process() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["rabbitmq::hold_a_broker", "--exact", "--ignored", "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let folder =
        lines.find_map(|line| line.strip_prefix("folder=").map(str::to_owned)).expect("the victim's broker runs");
    let folder = Path::new(&folder);
    let before = processes_of(folder);
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(before.len() >= 3, "the VM, epmd and the VM's own children: {before:?}");
    wait_until_gone(folder);
    std::fs::remove_dir_all(folder).unwrap();
}

/// Every process that works in `folder` or has it in its environment, by name.
fn processes_of(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let home = format!("HOME={}\0", folder.display());
    let ours = entries.filter(|process| {
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&home)
    });
    ours.filter_map(|process| std::fs::read_to_string(process.join("comm")).ok()).collect()
}

fn wait_until_gone(folder: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_of(folder).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", processes_of(folder));
        std::thread::sleep(Duration::from_millis(10));
    }
}
