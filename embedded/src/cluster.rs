//! A running private server: start, wait until it takes connections, stop.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::child::Keeper;
use crate::home::Home;
use crate::locate::{Installation, locate_all};
use crate::{Error, initdb, io, leftover, log, memory};

const POLL_EVERY: Duration = Duration::from_millis(10);
const FAST_LIMIT: Duration = Duration::from_secs(30);
const IMMEDIATE_LIMIT: Duration = Duration::from_secs(15);
/// Back-ends of a server that was killed alone notice within moments; until then Postgres refuses to start.
const ORPHANS_LIMIT: Duration = Duration::from_secs(20);
/// Times that a port found free is taken by somebody else before Postgres binds it.
const PORT_TRIES: usize = 5;

/// How clients prove who they are. Always by the cluster's own random password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// SCRAM.
    Scram,
    /// The password as it is: for throw-away servers, whose many connections SCRAM would make slow.
    Password,
}

impl Authentication {
    pub(crate) const fn method(self) -> &'static str {
        match self {
            Self::Scram => "scram-sha-256",
            Self::Password => "password",
        }
    }
}

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it lives.
    pub home: Home,
    /// The TCP port on 127.0.0.1; `None`: the one of the last start if it is still free, else any.
    pub port: Option<u16>,
    /// Whether a commit survives a power failure. Off only for throw-away servers.
    pub durable: bool,
    /// Connections at once.
    pub max_connections: u32,
    /// How a fresh cluster lets clients in.
    pub authentication: Authentication,
    /// How long a start may take. Long: recovery after a crash must be allowed to end.
    pub start_limit: Duration,
}

impl Settings {
    /// For data that matters.
    pub fn durable(home: Home, port: Option<u16>) -> Self {
        Self {
            home,
            port,
            durable: true,
            max_connections: 100,
            authentication: Authentication::Scram,
            start_limit: Duration::from_secs(600),
        }
    }

    /// For tests: nothing is flushed to the disk.
    pub fn throw_away(home: Home) -> Self {
        Self {
            durable: false,
            max_connections: 400,
            authentication: Authentication::Password,
            start_limit: Duration::from_secs(120),
            ..Self::durable(home, None)
        }
    }
}

/// A running server, child of this process. Dropping it stops it.
pub struct Cluster {
    keeper: Keeper,
    home: Home,
    port: u16,
    password: String,
    installation: Installation,
}

impl Cluster {
    /// Makes the cluster where there is none, clears away what a killed process left, starts the server and waits until
    /// it takes connections. The caller holds the data folder's [`crate::Lock`].
    ///
    /// # Errors
    /// Any [`Error`]; nothing runs then.
    pub fn start(settings: &Settings) -> Result<Self, Error> {
        let home = &settings.home;
        let installation = choose(home, &locate_all()?)?;
        if let Some(user) = home.run_as() {
            user.check_can_enter(&installation.bin)?;
        }
        initdb::ensure(home, &installation, settings.authentication, settings.durable)?;
        leftover::clear(home)?;
        let path = home.password_file();
        let password = std::fs::read_to_string(&path).map_err(io("reading", &path))?;
        let started = Instant::now();
        let mut tries = 0;
        loop {
            let port = choose_port(settings)?;
            match launch(settings, &installation, port) {
                Ok(keeper) => {
                    let path = home.port_file();
                    std::fs::write(&path, port.to_string()).map_err(io("writing", &path))?;
                    return Ok(Self { keeper, home: home.clone(), port, password, installation });
                }
                Err(Error::DidNotStart { tail, .. })
                    if tail.contains("is still in use") && started.elapsed() < ORPHANS_LIMIT =>
                {
                    std::thread::sleep(POLL_EVERY * 10);
                }
                Err(Error::DidNotStart { tail, .. })
                    if settings.port.is_none() && tail.contains("Address already in use") && tries < PORT_TRIES =>
                {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its Unix socket.
    pub fn socket(&self) -> &Path {
        self.home.socket()
    }

    /// The password of [`crate::USER`].
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Where that password is kept.
    pub fn password_file(&self) -> PathBuf {
        self.home.password_file()
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.home.log()
    }

    /// The postmaster's pid.
    pub fn pid(&self) -> u32 {
        self.keeper.pid()
    }

    /// The version that runs.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// How it ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.keeper.exit_status()
    }

    /// A handle for waiting, from another thread, until the server has ended.
    pub fn end(&self) -> End {
        End(self.keeper.clone())
    }

    /// Stops it: a fast shutdown, and an immediate one when that takes too long.
    ///
    /// # Errors
    /// [`Error::DidNotStop`] when even that does not help.
    pub fn stop(self) -> Result<(), Error> {
        self.shut_down()
    }

    fn shut_down(&self) -> Result<(), Error> {
        for (signal, limit) in [(Signal::INT, FAST_LIMIT), (Signal::QUIT, IMMEDIATE_LIMIT)] {
            self.keeper.signal(signal).map_err(io("stopping the server of", self.home.dir()))?;
            if self.keeper.wait(limit).is_some() {
                return Ok(());
            }
        }
        Err(Error::DidNotStop { pid: self.pid(), seconds: (FAST_LIMIT + IMMEDIATE_LIMIT).as_secs() })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nobody is left to tell; the parent-death signal stays as a second chance.
        let _ = self.shut_down();
    }
}

/// For waiting until the server has ended.
pub struct End(Keeper);

impl End {
    /// Blocks until the server has ended, and says how.
    pub fn wait(&self) -> ExitStatus {
        self.0.wait_for_ever()
    }
}

/// The installation that made the cluster, or the preferred one for a fresh cluster.
fn choose(home: &Home, installed: &[Installation]) -> Result<Installation, Error> {
    let version_file = home.cluster().join("PG_VERSION");
    let made_by = match std::fs::read_to_string(&version_file) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(io("reading", &version_file)(error)),
    };
    let fits = |found: &&Installation| made_by.as_ref().is_none_or(|major| *major == found.major.to_string());
    installed.iter().find(fits).cloned().ok_or_else(|| Error::WrongVersion {
        folder: home.dir().to_owned(),
        cluster: made_by.clone().unwrap_or_default(),
        installed: installed.iter().map(|found| found.major.to_string()).collect::<Vec<_>>().join(", "),
    })
}

fn choose_port(settings: &Settings) -> Result<u16, Error> {
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).and_then(|listener| listener.local_addr());
    if let Some(port) = settings.port {
        return free(port).map(|_| port).map_err(|_| Error::PortTaken { port });
    }
    let path = settings.home.port_file();
    let last = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    if let Some(port) = last.filter(|port| *port != 0 && free(*port).is_ok()) {
        return Ok(port);
    }
    free(0).map(|address| address.port()).map_err(io("looking for a free port for", settings.home.dir()))
}

/// Starts the server on `port` and waits until it is ready.
fn launch(settings: &Settings, installation: &Installation, port: u16) -> Result<Keeper, Error> {
    let home = &settings.home;
    let (log, log_from) = log::open(&home.log()).map_err(io("opening", &home.log()))?;
    let mut command = initdb::program(home, installation, "postgres");
    command.arg("-D").arg(home.cluster());
    for (name, value) in server_settings(settings, port) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    if settings.durable {
        command.arg("-c").arg(format!("wal_compression={}", wal_compression(home, installation)));
    }
    let errors = log.try_clone().map_err(io("opening", &home.log()))?;
    command.stdout(log).stderr(errors);
    // `program` has prepared the user and the parent-death signal.
    let keeper = Keeper::spawn(command, "postgres").map_err(io("starting", &installation.bin))?;
    wait_until_ready(&keeper, settings, log_from)?;
    Ok(keeper)
}

fn server_settings(settings: &Settings, port: u16) -> Vec<(&'static str, String)> {
    let on = |flag: bool| if flag { "on" } else { "off" }.to_owned();
    let mut list = vec![
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        ("unix_socket_directories", settings.home.socket().display().to_string()),
        ("unix_socket_permissions", "0700".to_owned()),
        ("max_connections", settings.max_connections.to_string()),
        ("fsync", on(settings.durable)),
        ("full_page_writes", on(settings.durable)),
        ("synchronous_commit", on(settings.durable)),
        ("jit", "off".to_owned()),
        ("timezone", "UTC".to_owned()),
        ("log_timezone", "UTC".to_owned()),
        ("logging_collector", "off".to_owned()),
        // Statements and details of errors hold people's data.
        ("log_min_error_statement", "panic".to_owned()),
        ("log_error_verbosity", "terse".to_owned()),
    ];
    if settings.durable {
        // After a checkpoint each page is logged whole once, so that few checkpoints make busy hours cheaper (ADR 26).
        list.push(("max_wal_size", "4GB".to_owned()));
        list.push(("shared_buffers", format!("{}MB", memory::shared_buffers_mib(memory::total()))));
    } else {
        list.push(("autovacuum_naptime", "5min".to_owned()));
        list.push(("max_wal_size", "4GB".to_owned()));
        list.push(("checkpoint_timeout", "1h".to_owned()));
    }
    list
}

/// The cheapest method that this server was built with. Its own takes a third of Postgres' time right after a checkpoint.
fn wal_compression(home: &Home, installation: &Installation) -> &'static str {
    const CHEAP: &str = "lz4";
    let mut probe = initdb::program(home, installation, "postgres");
    probe.arg("-D").arg(home.cluster()).args(["-C", "wal_compression", "-c"]).arg(format!("wal_compression={CHEAP}"));
    if probe.status().is_ok_and(|status| status.success()) { CHEAP } else { "on" }
}

/// `postmaster.pid` names our child and says `ready` in its eighth line.
fn wait_until_ready(keeper: &Keeper, settings: &Settings, log_from: u64) -> Result<(), Error> {
    let log = settings.home.log();
    let pid_file = settings.home.cluster().join("postmaster.pid");
    let deadline = Instant::now() + settings.start_limit;
    while Instant::now() < deadline {
        if is_ready(&pid_file, keeper.pid()) {
            return Ok(());
        }
        if let Some(status) = keeper.wait(POLL_EVERY) {
            return Err(Error::DidNotStart { status: status.to_string(), tail: log::tail(&log, log_from), log });
        }
    }
    let _ = keeper.signal(Signal::QUIT);
    keeper.wait(IMMEDIATE_LIMIT);
    Err(Error::NotReady { seconds: settings.start_limit.as_secs(), tail: log::tail(&log, log_from), log })
}

fn is_ready(pid_file: &Path, pid: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(pid_file) else { return false };
    let mut lines = text.lines();
    let ours = lines.next().is_some_and(|line| line.trim() == pid.to_string());
    ours && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}
