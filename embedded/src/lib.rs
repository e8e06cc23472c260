//! Finds PostgreSQL on this machine and runs a private cluster of it, so that claygate needs no server.
//!
//! [`locate()`] finds the binaries, [`Home`] says where the cluster lives and which user runs it, [`Lock`] keeps two
//! processes off one folder, and [`Cluster`] is the running server. Everything here is blocking and free of async:
//! callers inside a runtime go through `spawn_blocking`. No SQL client lives here; readiness is read from
//! `postmaster.pid`, and the database itself is made in single-user mode.
//!
//! With the feature `rabbitmq` there is a private message broker, too, for tests and benchmarks.
//!
//! # How it is owned
//!
//! * **Always a child, never adopted.** A server left behind by a killed process is stopped and started anew, so that
//!   there is one kind of ownership: whoever holds a [`Cluster`] is the server's parent and hears of its end. The stop
//!   is a fast shutdown and costs a fraction of a second; Postgres recovers whatever was committed.
//! * **The parent's death ends it.** On Linux the server gets SIGINT (fast shutdown) when its parent dies, SIGKILL
//!   included. That signal belongs to the spawning *thread* and is cleared when the uid changes: a thread that lives as
//!   long as the server spawns it, and sets it after the drop of privileges. Elsewhere the next start stops the server.
//! * **A process group of its own**: Ctrl-C in a terminal reaches claygate alone, which drains before it stops Postgres.
//! * **Root never runs it.** Postgres refuses to; the cluster then belongs to the user `postgres`, else `nobody`, and
//!   lives under `/var/lib/claygate/<hash of the data path>`, since data folders of root are closed to others.
//! * **Stale files.** A `postmaster.pid` whose process is gone is left to Postgres, which checks for orphaned back-ends
//!   through the shared memory it names. One whose pid now belongs to somebody else gets our own pid written into it:
//!   Postgres ignores its parent's pid there, and still makes that check.

mod child;
mod cluster;
mod home;
mod initdb;
mod leftover;
mod locate;
mod lock;
mod log;
mod memory;
#[cfg(feature = "rabbitmq")]
pub mod rabbitmq;
mod user;

pub use cluster::{Authentication, Cluster, Settings};
pub use home::Home;
pub use locate::{Installation, locate, locate_all};
pub use lock::Lock;
pub use user::User;

use std::path::{Path, PathBuf};

/// The role that owns the cluster and the database in it.
pub const USER: &str = "claygate";
/// The database that a fresh cluster has, beside the usual ones.
pub const DATABASE: &str = "claygate";

/// Why the embedded Postgres cannot be used. The text says what to do where something can be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data folder was removed or made anew, the cluster was not.
    #[error(
        "the database of an earlier data folder of this path is still in {home}; to start empty, remove it \
         (rm -rf {home}); to go on with it, say so: echo {home} > {pointer}",
        home = home.display(), pointer = pointer.display()
    )]
    LeftBehind {
        /// Where the cluster lies.
        home: std::path::PathBuf,
        /// The file that would say so.
        pointer: std::path::PathBuf,
    },
    /// No binaries.
    #[error("PostgreSQL is not installed here ({searched}); `cargo xtask up` installs it, or set CLAYGATE_PG_BIN")]
    NotFound {
        /// Where it was looked for.
        searched: String,
    },
    /// The cluster was made by a major version that is not installed.
    #[error(
        "the data in {} was made by PostgreSQL {cluster}, but only {installed} is installed; \
         install PostgreSQL {cluster}, or move the data with pg_upgrade", folder.display()
    )]
    WrongVersion {
        /// The cluster's folder.
        folder: PathBuf,
        /// Its major version.
        cluster: String,
        /// What was found.
        installed: String,
    },
    /// Somebody else uses the folder.
    #[error(
        "the data folder {} is in use by {holder}; stop that process, or choose another folder with --data",
        folder.display()
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// `pid 123 (claygate up)`.
        holder: String,
    },
    /// Neither `postgres` nor `nobody` exists, and root must not run Postgres.
    #[error("PostgreSQL does not run as root, and this machine has neither a user `postgres` nor `nobody`")]
    NoUser,
    /// A folder that the server's user cannot enter.
    #[error(
        "the user `{user}`, who runs PostgreSQL, cannot enter the folder {}; open it (chmod o+x), or use another",
        folder.display()
    )]
    Unreachable {
        /// The first folder on the way that is closed.
        folder: PathBuf,
        /// The user.
        user: String,
    },
    /// The port is taken.
    #[error(
        "port {port} on 127.0.0.1 is taken; set `port` in [database] to a free one, \
         or leave it out and a free one is found"
    )]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// A program of PostgreSQL failed.
    #[error("{program} failed ({status}):\n{output}")]
    Program {
        /// `initdb` or `postgres --single`.
        program: &'static str,
        /// How it ended.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// The server ended while starting.
    #[error("PostgreSQL did not start ({status}); the end of {}:\n{tail}", log.display())]
    DidNotStart {
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
    /// The server is still not ready.
    #[error("PostgreSQL was not ready after {seconds} s; the end of {}:\n{tail}", log.display())]
    NotReady {
        /// How long it was waited for.
        seconds: u64,
        /// Its log.
        log: PathBuf,
        /// The end of it.
        tail: String,
    },
    /// The server does not stop.
    #[error("PostgreSQL (pid {pid}) did not stop within {seconds} s")]
    DidNotStop {
        /// The postmaster.
        pid: u32,
        /// How long it was waited for.
        seconds: u64,
    },
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
