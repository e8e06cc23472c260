//! Commands whose output nobody takes.

use std::fs::File;
use std::process::Stdio;

use crate::site::Site;

const COMMAND: [&str; 2] = ["config", "show"];

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let (exit, stderr) = print_into(writer.into()).await;
    assert_eq!((exit, stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn a_full_disk_is_an_error_that_is_named() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (exit, stderr) = print_into(full.into()).await;
    assert_eq!(
        (exit, stderr.as_str()),
        (Some(1), "claygate: printing failed: No space left on device (os error 28)\n")
    );
}

/// Runs a command that succeeds and prints, to `stdout`. Gives its exit code and what it said on standard error.
async fn print_into(stdout: Stdio) -> (Option<i32>, String) {
    let site = Site::new("");
    let printed = site.run(&COMMAND).await;
    assert!(printed.status.success() && !printed.stdout.is_empty(), "{}", String::from_utf8_lossy(&printed.stderr));
    let output = site.command(&COMMAND).stdout(stdout).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}
