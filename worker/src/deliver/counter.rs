//! Counts submissions of one table of Clay in groups, before they are made: what arrives while a commit is under way shares
//! the next one.

use std::time::Duration;

use common::db::clay_webhooks::{self, Counted, Counting, Pool};
use common::db::{Database, DbError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

/// Most submissions counted in one commit.
const GROUP_MAX: usize = 64;
/// A commit that takes longer is given up; what it counted counts too many.
const COUNT_LIMIT: Duration = Duration::from_secs(10);
/// How often a group that collided is tried again at once.
const COLLISIONS_MAX: usize = 3;

/// Takes submissions to be counted. Its task ends when its last clone is dropped.
#[derive(Clone)]
pub(super) struct Counter {
    jobs: mpsc::Sender<Job>,
}

struct Job {
    counting: Counting,
    done: oneshot::Sender<Option<Counted>>,
}

/// The database cannot be asked: nothing may be sent. The counter has logged why.
#[derive(Debug, thiserror::Error)]
#[error("submissions could not be counted")]
pub(super) struct NotCounted;

impl Counter {
    /// Starts counting for `pool` in `tasks`.
    pub(super) fn start(pool: Pool, database: Database, tasks: &TaskTracker) -> Self {
        let (jobs, receiver) = mpsc::channel(GROUP_MAX);
        tasks.spawn(run(pool, database, receiver));
        Self { jobs }
    }

    /// Counts one submission and says where it goes; `None`: no URL is left that takes it.
    ///
    /// # Errors
    /// [`NotCounted`].
    pub(super) async fn count(&self, counting: Counting) -> Result<Option<Counted>, NotCounted> {
        let (done, counted) = oneshot::channel();
        self.jobs.send(Job { counting, done }).await.map_err(|_| NotCounted)?;
        counted.await.map_err(|_| NotCounted)
    }
}

async fn run(pool: Pool, database: Database, mut receiver: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(GROUP_MAX);
    while receiver.recv_many(&mut jobs, GROUP_MAX).await > 0 {
        let (submissions, waiting): (Vec<Counting>, Vec<_>) =
            jobs.drain(..).map(|job| (job.counting, job.done)).unzip();
        match count(&pool, &database, &submissions).await {
            Ok(counted) => {
                for (done, counted) in waiting.into_iter().zip(counted) {
                    // Whoever has gone was cut off: it counts too many.
                    let _ = done.send(counted);
                }
            }
            Err(error) => tracing::warn!(
                destination = pool.destination,
                error = &error as &dyn std::error::Error,
                "submissions could not be counted, and are not made"
            ),
        }
    }
}

async fn count(pool: &Pool, database: &Database, submissions: &[Counting]) -> Result<Vec<Option<Counted>>, DbError> {
    let mut collisions = 0;
    loop {
        let counting = clay_webhooks::count(database, pool, submissions);
        match tokio::time::timeout(COUNT_LIMIT, counting).await {
            Ok(Err(DbError::Collision(_))) if collisions < COLLISIONS_MAX => collisions += 1,
            Ok(counted) => return counted,
            Err(_) => return Err(DbError::timed_out(COUNT_LIMIT)),
        }
    }
}
