//! A running private broker: start, wait until it serves, break it in every way that a test needs, start it again.

use std::io::{Read, Seek};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::home::{Home, Ports};
use super::locate::{Installation, locate};
use super::{Error, io, node};
use crate::child::Keeper;
use crate::log;

const POLL_EVERY: Duration = Duration::from_millis(20);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const KILL_LIMIT: Duration = Duration::from_secs(10);
const EPMD_LIMIT: Duration = Duration::from_secs(10);
/// rabbitmqctl starts an Erlang of its own: two seconds of processor time, and more than a minute where a dozen processes want
/// the same core. Only what will never answer is to be given up.
const CTL_LIMIT: Duration = Duration::from_secs(180);
/// Times that a port found free is taken by somebody else before it is bound.
const PORT_TRIES: usize = 5;
const EPMD: &str = "epmd";
/// What the node logs when it serves, after its listeners are open.
const READY: &str = "Server startup complete";

/// What a broker is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is said of the holder of its folder, as `cargo xtask test`.
    pub purpose: String,
    /// How long a start may take.
    pub start_limit: Duration,
}

impl Settings {
    /// For tests: a start takes seconds, on a busy machine some more.
    pub fn throw_away(purpose: &str) -> Self {
        Self { purpose: purpose.to_owned(), start_limit: Duration::from_secs(120) }
    }
}

/// A private broker. Its node may run or not; its ports, data, user and password stay the same until it is dropped, and
/// then all of it goes. Every method may be called from any thread.
pub struct Broker {
    installation: Installation,
    start_limit: Duration,
    ports: Ports,
    node: Mutex<Keeper>,
    epmd: Keeper,
    home: Home,
}

impl Broker {
    /// Starts a fresh broker and waits until it serves.
    ///
    /// # Errors
    /// Any [`Error`]; nothing runs then.
    pub fn start(settings: &Settings) -> Result<Self, Error> {
        let installation = locate()?;
        let home = Home::make(&settings.purpose)?;
        let mut tries = 1;
        loop {
            let ports = Ports::choose(&home)?;
            match launch(&installation, &home, ports, settings.start_limit) {
                Ok((epmd, node)) => {
                    let (node, start_limit) = (Mutex::new(node), settings.start_limit);
                    return Ok(Self { installation, start_limit, ports, node, epmd, home });
                }
                Err(error) if tries < PORT_TRIES && names_a_taken_port(&error) => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// `amqp://user:password@127.0.0.1:port/%2f`.
    pub fn url(&self) -> String {
        format!("amqp://{}:{}@127.0.0.1:{}/%2f", self.home.user, self.home.password, self.ports.amqp)
    }

    /// Its AMQP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// The Erlang VM's pid, also when it has ended.
    pub fn pid(&self) -> u32 {
        lock(&self.node).pid()
    }

    /// The folder with everything that is its own.
    pub fn folder(&self) -> &Path {
        self.home.dir()
    }

    /// What it has logged lately.
    pub fn log_tail(&self) -> String {
        log::tail(&self.home.log(), 0)
    }

    /// The version that runs.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Runs `rabbitmqctl`, as `["list_queues", "name", "messages"]`, and gives what it prints: no headings, columns apart by
    /// tabs. Counts of messages are at most half a second old.
    ///
    /// # Errors
    /// [`Error::Ctl`] with what it said, [`Error::CtlTimedOut`] (as on a paused broker), [`Error::Io`].
    pub fn ctl(&self, arguments: &[&str]) -> Result<String, Error> {
        let mut command = node::ctl(&self.installation, &self.home, self.ports);
        command.args(arguments);
        let named = || arguments.join(" ");
        let output = run(command, self.home.dir())
            .map_err(io("running rabbitmqctl in", self.home.dir()))?
            .ok_or_else(|| Error::CtlTimedOut { arguments: named(), seconds: CTL_LIMIT.as_secs() })?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(said);
        }
        let output_text = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
        Err(Error::Ctl { arguments: named(), status: output.status.to_string(), output: output_text.trim().to_owned() })
    }

    /// Stops the node in an orderly way: connections are closed, queues saved. Does nothing when it has ended.
    ///
    /// # Errors
    /// [`Error::DidNotStop`] when it had to be killed after all.
    pub fn stop(&self) -> Result<(), Error> {
        let node = self.node();
        for signal in [Signal::TERM, Signal::CONT] {
            node.signal(signal).map_err(io("stopping the broker of", self.home.dir()))?;
        }
        if node.wait(STOP_LIMIT).is_some() {
            return Ok(());
        }
        self.kill()?;
        Err(Error::DidNotStop { pid: node.pid(), seconds: STOP_LIMIT.as_secs(), tail: self.log_tail() })
    }

    /// Kills the node (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn kill(&self) -> Result<(), Error> {
        end(&self.node()).map_err(io("killing the broker of", self.home.dir()))
    }

    /// Stops the node's time (SIGSTOP): connections stay open and nothing is answered.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn pause(&self) -> Result<(), Error> {
        self.node().signal(Signal::STOP).map_err(io("pausing the broker of", self.home.dir()))
    }

    /// Undoes [`Broker::pause`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn resume(&self) -> Result<(), Error> {
        self.node().signal(Signal::CONT).map_err(io("resuming the broker of", self.home.dir()))
    }

    /// Starts the node again after [`Broker::stop`] or [`Broker::kill`], with the same port, data, user and password, and
    /// waits until it serves.
    ///
    /// # Errors
    /// [`Error::StillRuns`], or as [`Broker::start`].
    pub fn start_again(&self) -> Result<(), Error> {
        let mut node = lock(&self.node);
        if node.exit_status().is_none() {
            return Err(Error::StillRuns { pid: node.pid() });
        }
        *node = launch_node(&self.installation, &self.home, self.ports, self.start_limit)?;
        Ok(())
    }

    fn node(&self) -> Keeper {
        lock(&self.node).clone()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Nobody is left to tell; the parent-death signal stays as a second chance.
        for child in [&self.node(), &self.epmd] {
            let _ = end(child);
        }
    }
}

/// Starts the name server and the node. Where one does not come up, neither runs afterwards.
fn launch(installation: &Installation, home: &Home, ports: Ports, limit: Duration) -> Result<(Keeper, Keeper), Error> {
    home.configure(ports.amqp)?;
    let accepts = || TcpStream::connect((Ipv4Addr::LOCALHOST, ports.epmd)).is_ok();
    let epmd = bring_up(EPMD, node::epmd(home, ports), home, EPMD_LIMIT, |_| accepts())?;
    match launch_node(installation, home, ports, limit) {
        Ok(node) => Ok((epmd, node)),
        Err(error) => {
            let _ = end(&epmd);
            Err(error)
        }
    }
}

fn launch_node(installation: &Installation, home: &Home, ports: Ports, limit: Duration) -> Result<Keeper, Error> {
    bring_up("RabbitMQ", node::server(installation, home, ports), home, limit, |said| said.contains(READY))
}

/// Starts a program, and waits until `ready` is content with what it has said.
fn bring_up(
    program: &'static str,
    mut command: Command,
    home: &Home,
    limit: Duration,
    ready: impl Fn(&str) -> bool,
) -> Result<Keeper, Error> {
    let log = home.log();
    let (file, from) = log::open(&log).map_err(io("opening", &log))?;
    command.stdout(file.try_clone().map_err(io("opening", &log))?).stderr(file);
    let path = PathBuf::from(command.get_program());
    let keeper = Keeper::spawn(command, program).map_err(io("starting", &path))?;
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = keeper.wait(POLL_EVERY) {
            return Err(Error::DidNotStart { program, status: status.to_string(), tail: log::tail(&log, from), log });
        }
        if ready(&log::read(&log, from)) {
            return Ok(keeper);
        }
    }
    let _ = end(&keeper);
    Err(Error::NotReady { program, seconds: limit.as_secs(), tail: log::tail(&log, from), log })
}

/// Runs a command of moments to its end. `None`: it took too long.
fn run(mut command: Command, dir: &Path) -> std::io::Result<Option<Output>> {
    // Files take any amount, whether or not somebody reads meanwhile.
    let (mut output, mut complaints) = (tempfile::tempfile_in(dir)?, tempfile::tempfile_in(dir)?);
    command.stdout(output.try_clone()?).stderr(complaints.try_clone()?);
    let keeper = Keeper::spawn(command, "rabbitmqctl")?;
    let Some(status) = keeper.wait(CTL_LIMIT) else { return end(&keeper).map(|()| None) };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    for (file, bytes) in [(&mut output, &mut stdout), (&mut complaints, &mut stderr)] {
        file.rewind()?;
        file.read_to_end(bytes)?;
    }
    Ok(Some(Output { status, stdout, stderr }))
}

/// Kills a child and waits until it is gone.
fn end(child: &Keeper) -> std::io::Result<()> {
    child.signal(Signal::KILL)?;
    child.wait(KILL_LIMIT).map(drop).ok_or_else(|| std::io::ErrorKind::TimedOut.into())
}

/// Whether somebody else was quicker with one of the ports.
fn names_a_taken_port(error: &Error) -> bool {
    let Error::DidNotStart { program, tail, .. } = error else { return false };
    // epmd has no other reason to end, and says nothing. With another's epmd in its place, our node's name may be taken.
    *program == EPMD || ["eaddrinuse", "seems to be in use"].iter().any(|sign| tail.contains(sign))
}

/// What the lock guards is whole at every point where a panic could happen.
fn lock(node: &Mutex<Keeper>) -> MutexGuard<'_, Keeper> {
    node.lock().unwrap_or_else(PoisonError::into_inner)
}
