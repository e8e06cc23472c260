//! Finds RabbitMQ on this machine and runs a private broker of it, for tests and benchmarks. The product never uses it.
//!
//! [`locate`] finds the scripts and [`Broker`] is the running node, with everything that it needs in a temporary folder
//! of its own: cookie, configuration, database, log, a random user and password. Blocking, as the whole crate.
//!
//! # How it is private
//!
//! * **Its own names and ports.** A name server (`epmd`) of its own on a port of its own, so that nodes of the machine and
//!   of other tests are never met; everything is bound to 127.0.0.1, and the environment is empty but for what is set here.
//! * **Ports outside the ephemeral range.** They stay free while the broker is down, and a client that dials them then is
//!   refused: from the ephemeral range its own end could be given the same port, and it would be connected to itself.
//! * **The parent's death ends it.** The script becomes the Erlang VM instead of waiting for it, and both VM and epmd are
//!   children with a parent-death signal: SIGKILL, since there is no data to save. What the VM has started ends with it.
//!   Elsewhere than on Linux, only [`Broker::stop`], [`Broker::kill`] and the drop end it.
//! * **The folder goes with it.** One that a killed process left is removed by the next broker that starts.

mod broker;
mod home;
mod locate;
mod node;

pub use broker::{Broker, Settings};
pub use locate::{Installation, locate};

use std::path::{Path, PathBuf};

/// Why the private broker cannot be used. The text says what to do where something can be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No scripts.
    #[error(
        "RabbitMQ is not installed here ({searched}); `cargo xtask test` installs it, or set CLAYGATE_RABBITMQ_BIN"
    )]
    NotFound {
        /// Where it was looked for.
        searched: String,
    },
    /// The name server or the node ended while starting.
    #[error("{program} did not start ({status}); the end of {}:\n{tail}", log.display())]
    DidNotStart {
        /// `epmd` or `RabbitMQ`.
        program: &'static str,
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
    /// It is still not ready.
    #[error("{program} was not ready after {seconds} s; the end of {}:\n{tail}", log.display())]
    NotReady {
        /// `epmd` or `RabbitMQ`.
        program: &'static str,
        /// How long it was waited for.
        seconds: u64,
        /// Its log.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
    /// The node does not stop in an orderly way, and was killed.
    #[error("RabbitMQ (pid {pid}) did not stop within {seconds} s and was killed; the end of its log:\n{tail}")]
    DidNotStop {
        /// The Erlang VM.
        pid: u32,
        /// How long it was waited for.
        seconds: u64,
        /// The end of its log.
        tail: String,
    },
    /// It was to be started again, but it runs.
    #[error("RabbitMQ (pid {pid}) still runs; stop or kill it before it is started again")]
    StillRuns {
        /// The Erlang VM.
        pid: u32,
    },
    /// `rabbitmqctl` failed.
    #[error("rabbitmqctl {arguments} failed ({status}):\n{output}")]
    Ctl {
        /// What it was asked for.
        arguments: String,
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// `rabbitmqctl` does not come to an end.
    #[error("rabbitmqctl {arguments} had no answer after {seconds} s")]
    CtlTimedOut {
        /// What it was asked for.
        arguments: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The folder cannot be taken.
    #[error("taking the folder of the broker")]
    Lock(#[source] crate::Error),
    /// A file or process could not be handled.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// Turns an I/O error into [`Error::Io`].
fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}
