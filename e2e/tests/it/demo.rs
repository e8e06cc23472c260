//! `claygate demo` against a running instance.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;
use testkit::wait::wait_until;

use crate::site::{LIMIT, Site, signal};

/// The sum of the numbers in a table.
fn sum(table: &Value) -> u64 {
    table.as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_numbers_of_the_demo_add_up() {
    let site = Site::new("");
    let up = site.up().await;
    let report = site.json(&["demo", "--count", "120", "--json"]).await;
    assert_eq!(report["sent"], 120);
    assert_eq!(report["in_progress"], 0, "{report}");
    let answers = &report["answers"];
    assert_eq!(sum(answers), 120, "{report}");
    for word in ["accepted", "duplicate", "malformed, kept in quarantine", "rejected: no valid secret"] {
        assert!(answers[word].as_u64() > Some(0), "{word}: {report}");
    }
    assert_eq!(sum(&report["callbacks"]), answers["accepted"].as_u64().unwrap(), "{report}");
    for (destination, outcomes) in report["deliveries"].as_object().unwrap() {
        assert!(outcomes["delivered"].as_u64() > Some(0), "{destination}: {report}");
    }

    let again = site.json(&["demo", "--count", "120", "--json"]).await;
    assert_eq!((&again["answers"]["accepted"], &again["in_progress"]), (&Value::Null, &Value::from(0)), "{again}");
    assert!(up.terminate().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_circle_adds_up_leaves_nothing_and_says_when_it_was_cut_short() {
    let site = Site::new("");
    let files = || std::fs::read_dir(site.folder()).unwrap().count();
    let before = files();
    let circle = site.json(&["demo", "--loop", "--count", "60", "--json"]).await;
    assert_eq!(circle["complete"], true, "{circle}");
    let n = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{circle}"));
    let handed_in = ["accepted", "duplicates", "filtered"].map(|name| n(&circle["handed_in"][name]));
    assert_eq!(handed_in, [58, 3, 2], "{circle}");
    let (clay, calls, line) = (&circle["clay"], &circle["clay"]["calls"], &circle["loop"]["destinations"][0]);
    let lost = n(&calls["silent"]) + n(&calls["malformed"]);
    let [sent, returned, outstanding, overdue] =
        ["sent", "returned", "outstanding", "overdue"].map(|name| n(&line[name]));
    assert_eq!([sent, returned, outstanding, overdue], [58, 58 - lost, lost, lost], "{circle}");
    assert_eq!((n(&clay["accepted"]), n(&clay["repeated"])), (58, 0), "{circle}");
    assert!(returned > 0 && n(&calls["reruns"]) > 0, "{circle}");
    assert_eq!(files(), before);

    let output = site.run(&["demo", "--loop", "--count", "60", "--wait", "0"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("Incomplete: after 0 s"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_circle_says_so_and_leaves_neither_files_nor_servers() {
    let site = Site::new("");
    // What has come into being when the signal comes: the folder, initdb's work, a server, one that takes connections.
    for (reached, with) in [
        ("", Signal::INT),
        ("cluster.making", Signal::TERM),
        ("cluster/postmaster.pid", Signal::INT),
        ("port", Signal::INT),
    ] {
        // The user that runs Postgres has to be able to enter it.
        let open = std::fs::Permissions::from_mode(0o755);
        let temporary = tempfile::Builder::new().prefix("claygate-e2e-").permissions(open).tempdir().unwrap();
        let mut demo = site.command(&["demo", "--loop", "--count", "100000"]);
        demo.env("TMPDIR", temporary.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = demo.spawn().unwrap();
        let made = || std::fs::read_dir(temporary.path()).unwrap().next().map(|entry| entry.unwrap().path());
        wait_until(&format!("the demo to have \"{reached}\""), LIMIT, async || {
            made().is_some_and(|folder| folder.join(reached).exists())
        })
        .await;
        signal(child.id(), with);
        let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{reached}: {said}");
        assert_eq!(said, "claygate: interrupted; the database and everything in it are gone\n", "{reached}");
        assert_eq!(made(), None, "{reached}");
        let left = processes_of(temporary.path());
        assert!(left.is_empty(), "{reached}: {left:?}");
    }
}

/// The command lines that name the folder.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read_to_string(process.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(folder)).collect()
}
