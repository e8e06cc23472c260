//! Spawning: the drop of privileges, the parent-death signal, and the thread that keeps the server.
//!
//! The one module with unsafe code: `pre_exec` is the only place where a parent-death signal can be set after the uid
//! has changed.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::user::User;

/// A child that can be signalled and waited for from any thread, without ever hitting a reused pid.
#[derive(Clone)]
pub(crate) struct Keeper {
    pid: Pid,
    shared: Arc<(Mutex<Option<ExitStatus>>, Condvar)>,
}

impl Keeper {
    /// Spawns a [`prepare`]d command from a thread, called `name`, that lives as long as the child.
    pub(crate) fn spawn(mut command: Command, name: &str) -> io::Result<Self> {
        let shared = Arc::new((Mutex::new(None), Condvar::new()));
        let kept = Arc::clone(&shared);
        let (tell, told) = mpsc::channel();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || match command.spawn() {
            Ok(child) => {
                let _ = tell.send(Ok(child.id()));
                keep(child, &kept);
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        })?;
        let id = told.recv().map_err(|_| io::Error::other("the spawning thread ended"))??;
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
        Ok(Self { pid: pid.ok_or_else(|| io::Error::other("no pid"))?, shared })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// How it ended, if it has.
    pub(crate) fn exit_status(&self) -> Option<ExitStatus> {
        *lock(&self.shared.0)
    }

    /// Signals it; does nothing when it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        // Under the lock, the pid is not reaped and so cannot belong to anyone else.
        let exited = lock(&self.shared.0);
        match *exited {
            Some(_) => Ok(()),
            None => kill_process(self.pid, signal).map_err(io::Error::from),
        }
    }

    /// Waits for its end, at most `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        let mut exited = lock(&self.shared.0);
        while exited.is_none() {
            let left = deadline.checked_duration_since(Instant::now())?;
            (exited, _) = self.shared.1.wait_timeout(exited, left).unwrap_or_else(PoisonError::into_inner);
        }
        *exited
    }

    /// Waits for its end, however long it takes.
    pub(crate) fn wait_for_ever(&self) -> ExitStatus {
        let mut exited = lock(&self.shared.0);
        loop {
            match *exited {
                Some(status) => return status,
                None => exited = self.shared.1.wait(exited).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Waits for the child's end without reaping it, then reaps it under the lock.
fn keep(mut child: Child, shared: &(Mutex<Option<ExitStatus>>, Condvar)) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
        {
        }
    }
    let mut exited = lock(&shared.0);
    *exited = Some(child.wait().unwrap_or_default());
    shared.1.notify_all();
}

/// Makes `command` run as `user`, in a process group of its own, and get `farewell` when the thread that spawns it ends.
pub(crate) fn prepare(command: &mut Command, user: Option<&User>, farewell: Signal) {
    command.process_group(0);
    if let Some(user) = user {
        // The standard library drops root's supplementary groups along with the uid.
        command.uid(user.uid).gid(user.gid);
    }
    #[cfg(target_os = "linux")]
    {
        let parent = rustix::process::getpid();
        let arm = move || {
            rustix::process::set_parent_process_death_signal(Some(farewell))?;
            // The parent may have died between fork and here; then nobody will signal us.
            if rustix::process::getppid() == Some(parent) {
                Ok(())
            } else {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
        };
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; these are two plain system calls
        // and an error value that does not allocate.
        unsafe { command.pre_exec(arm) };
    }
}

/// What the lock guards is whole at every point where a panic could happen.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
