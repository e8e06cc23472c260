//! Makes a cluster, once. A crash half-way leaves nothing that a later start would take for a cluster.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rand::Rng;
use rand::distr::Alphanumeric;
use rustix::process::Signal;

use crate::cluster::Authentication;
use crate::home::Home;
use crate::locate::Installation;
use crate::{DATABASE, Error, USER, child, io};

const PASSWORD_CHARS: usize = 32;
/// How much of a failed program's output an error shows.
const OUTPUT_MAX_BYTES: usize = 4096;

/// Makes the cluster of `home` where there is none. `sync`: flush it to the disk.
pub(crate) fn ensure(
    home: &Home,
    installation: &Installation,
    authentication: Authentication,
    sync: bool,
) -> Result<(), Error> {
    let cluster = home.cluster();
    if cluster.join("PG_VERSION").is_file() {
        return Ok(());
    }
    let making = home.dir().join("cluster.making");
    if making.exists() {
        std::fs::remove_dir_all(&making).map_err(io("removing", &making))?;
    }
    write_password(home)?;

    let mut initdb = program(home, installation, "initdb");
    initdb.args(["--encoding=UTF8", "--locale=C", "--username", USER, "--auth", authentication.method()]);
    initdb.arg("--pgdata").arg(&making).arg("--pwfile").arg(home.password_file());
    if !sync {
        initdb.arg("--no-sync");
    }
    run("initdb", initdb, b"")?;

    // In single-user mode: there is no SQL client here, and no server that others could meet half-made.
    let mut single = program(home, installation, "postgres");
    single.arg("--single").arg("-D").arg(&making).arg("postgres");
    run("postgres --single", single, format!("CREATE DATABASE {DATABASE}\n").as_bytes())?;
    std::fs::rename(&making, &cluster).map_err(io("renaming", &making))
}

/// A program of PostgreSQL with a clean environment, as the server's user.
pub(crate) fn program(home: &Home, installation: &Installation, name: &str) -> Command {
    let mut command = Command::new(installation.program(name));
    command.env_clear().env("PATH", &installation.bin).env("LC_ALL", "C").env("TZ", "UTC").current_dir(home.dir());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // A fast shutdown.
    child::prepare(&mut command, home.run_as(), Signal::INT);
    command
}

fn run(name: &'static str, mut command: Command, input: &[u8]) -> Result<(), Error> {
    let path = Path::new(command.get_program()).to_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().map_err(io("starting", &path))?;
    if let Some(mut stdin) = running.stdin.take() {
        // A program that ends early says why in its output.
        let _ = stdin.write_all(input);
    }
    let output = running.wait_with_output().map_err(io("waiting for", &path))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Program { program: name, status: output.status.to_string(), output: last_words(&output) })
}

fn last_words(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let from = text.len().saturating_sub(OUTPUT_MAX_BYTES);
    String::from_utf8_lossy(text.get(from..).unwrap_or_default()).trim().to_owned()
}

fn write_password(home: &Home) -> Result<(), Error> {
    let path = home.password_file();
    let password: String = rand::rng().sample_iter(Alphanumeric).take(PASSWORD_CHARS).map(char::from).collect();
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .map_err(io("writing", &path))?;
    file.write_all(password.as_bytes()).and_then(|()| file.sync_all()).map_err(io("writing", &path))?;
    home.hand_over(&path)
}
