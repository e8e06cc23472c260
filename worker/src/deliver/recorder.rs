//! Writes outcomes in groups: what arrives while a commit is under way, or soon after its start, shares the next one.
//!
//! While the database is away outcomes stay in memory and are tried again. There are never more of them than the queue
//! before the writers takes, and the slots: with a full queue a slot is kept until its outcome finds room. An outcome that
//! the database refuses alone is written without what it quotes from the destination.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use common::crash::{self, Point};
use common::db::attempts::{Attempt, AttemptWriter, RECORD_MAX, Recorded};
use common::db::{ConnectSettings, DbError};
use common::queue::{Doorbell, QueueName};
use common::spacing::Spacing;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// Writers, each with a connection of its own: while one waits for its commit, the next group is on its way.
const WRITERS: usize = 2;
const QUEUE_MAX: usize = 1024;
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How far the beginnings of groups are apart that are not full.
const GROUP_EVERY: Duration = Duration::from_millis(5);
/// How often a group is tried again that fails for no known reason.
const STRANGE_MAX: usize = 8;
/// A statement that takes longer is given up together with its connection.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// Takes outcomes to be written. Its writers end when its last clone is dropped and everything is written.
#[derive(Clone)]
pub(super) struct Recorder {
    jobs: mpsc::Sender<Job>,
}

struct Job {
    attempt: Attempt,
    begun: Instant,
    done: oneshot::Sender<Recorded>,
}

/// What waits for a writer.
struct Incoming {
    jobs: mpsc::Receiver<Job>,
    groups: Spacing,
}

struct Writer {
    jobs: Arc<Mutex<Incoming>>,
    database: AttemptWriter,
    doorbell: Doorbell,
}

impl Recorder {
    /// Starts the writers in `tasks`.
    pub(super) fn start(settings: &ConnectSettings, doorbell: &Doorbell, tasks: &TaskTracker) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let jobs = Arc::new(Mutex::new(Incoming { jobs: receiver, groups: Spacing::new(GROUP_EVERY) }));
        for _ in 0..WRITERS {
            let writer = Writer {
                jobs: Arc::clone(&jobs),
                database: AttemptWriter::new(settings.clone()),
                doorbell: doorbell.clone(),
            };
            tasks.spawn(writer.run());
        }
        Self { jobs: sender }
    }

    /// Has an attempt that began at `begun` written, as soon as there is room for it. What comes of it is told after the
    /// commit; when that is dropped, it could not be written. `None`: nothing is written any more.
    pub(super) async fn submit(&self, attempt: Attempt, begun: Instant) -> Option<oneshot::Receiver<Recorded>> {
        let (done, written) = oneshot::channel();
        self.jobs.send(Job { attempt, begun, done }).await.ok()?;
        Some(written)
    }
}

impl Incoming {
    /// Waits for the next group. Answers whether there is one: not once everything is written and nobody submits any more.
    async fn next_group(&mut self, group: &mut Vec<Job>) -> bool {
        if self.jobs.recv_many(group, RECORD_MAX).await == 0 {
            return false;
        }
        if group.len() < RECORD_MAX {
            self.groups.turn().await;
            while group.len() < RECORD_MAX
                && let Ok(job) = self.jobs.try_recv()
            {
                group.push(job);
            }
        }
        true
    }
}

impl Writer {
    async fn run(mut self) {
        let mut jobs = Vec::with_capacity(RECORD_MAX);
        loop {
            // One writer at a time waits for the next group.
            if !self.jobs.lock().await.next_group(&mut jobs).await {
                return;
            }
            while !jobs.is_empty() {
                let group = take_distinct(&mut jobs);
                self.write(group).await;
            }
        }
    }

    /// Writes a group whatever it takes, in halves where the database refuses it.
    async fn write(&mut self, group: Vec<Job>) {
        let mut groups = vec![group];
        let mut pause = PAUSE_MIN;
        let mut strange = 0;
        while let Some(mut group) = groups.pop() {
            match self.try_write(&group).await {
                Ok(recorded) => {
                    crash::point(Point::AfterRecord);
                    pause = PAUSE_MIN;
                    self.tell(group, &recorded);
                }
                Err(DbError::Collision(_)) => groups.push(group),
                // A migration under way, for example: a fresh connection may see it settled.
                Err(DbError::Other(error)) if strange < STRANGE_MAX => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "outcomes could not be written; once more"
                    );
                    groups.push(group);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                    strange += 1;
                }
                Err(DbError::Unavailable(error)) => {
                    // Once for each group that waits.
                    if pause == PAUSE_MIN {
                        tracing::warn!(error = &error as &dyn std::error::Error, "outcomes wait for the database");
                    } else {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(error, "outcomes still wait for the database");
                    }
                    groups.push(group);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(_) if group.len() > 1 => {
                    let half = group.split_off(group.len() / 2);
                    groups.extend([half, group]);
                }
                Err(error) if group.iter_mut().any(|job| strip(&mut job.attempt)) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "an outcome is written without its answer"
                    );
                    groups.push(group);
                }
                Err(error) => {
                    // The lease runs out and the delivery is attempted again; the rescue counts how often.
                    let delivery = group.first().map(|job| job.attempt.delivery.to_string());
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        delivery,
                        "an outcome could not be written"
                    );
                }
            }
        }
    }

    async fn try_write(&mut self, group: &[Job]) -> Result<Vec<Recorded>, DbError> {
        let attempts: Vec<Attempt> =
            group.iter().map(|job| Attempt { age: job.begun.elapsed(), ..job.attempt.clone() }).collect();
        self.database.record(&attempts, WRITE_LIMIT).await
    }

    /// Answers whoever waits, and rings for what is due now.
    fn tell(&self, group: Vec<Job>, recorded: &[Recorded]) {
        if recorded.iter().any(|one| one.released) {
            self.doorbell.ring(&QueueName::released());
        }
        for job in group {
            if let Some(recorded) = recorded.iter().find(|one| one.delivery == job.attempt.delivery) {
                // Whoever asked may have been cut off.
                let _ = job.done.send(*recorded);
            }
        }
    }
}

/// Takes away what came from the destination. Answers whether there was anything.
fn strip(attempt: &mut Attempt) -> bool {
    let had = !attempt.response.is_empty() || attempt.captured.is_some();
    attempt.response.clear();
    attempt.captured = None;
    had
}

/// Takes the first job of each delivery: one statement records a delivery once.
fn take_distinct(jobs: &mut Vec<Job>) -> Vec<Job> {
    let mut seen = HashSet::with_capacity(jobs.len());
    let (group, rest) = std::mem::take(jobs).into_iter().partition(|job| seen.insert(job.attempt.delivery));
    *jobs = rest;
    group
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use common::ids::DeliveryId;
    use testkit::attempts::delivered;
    use testkit::postgres::TestDatabase;
    use uuid::Uuid;

    use super::*;

    async fn leased(test: &TestDatabase, n: u8) -> Attempt {
        let (delivery, token) = (DeliveryId::new(), Uuid::new_v4());
        sqlx::query(
            "INSERT INTO claygate.deliveries (id, callback_id, destination, next_attempt_at, lease_until, lease_token)
             VALUES ($1, $1, 'crm', now(), now() + interval '1 minute', $2)",
        )
        .bind(delivery.0)
        .bind(token)
        .execute(test.pool())
        .await
        .unwrap();
        Attempt { response: vec![n; 10], ..delivered(delivery, token) }
    }

    #[tokio::test]
    async fn a_refused_outcome_fails_none_of_its_neighbours_and_is_written_without_its_answer() {
        let test = TestDatabase::create().await;
        let tasks = TaskTracker::new();
        let recorder = Recorder::start(&test.settings(), &Doorbell::new(), &tasks);
        let mut attempts = Vec::new();
        for n in 0..20 {
            attempts.push(leased(&test, n).await);
        }
        // More than the table takes.
        attempts[7].response = vec![b'x'; 5000];
        let recorded =
            attempts.iter().map(async |attempt| recorder.submit(attempt.clone(), Instant::now()).await?.await.ok());
        let recorded = futures_util::future::join_all(recorded).await;
        assert!(recorded.iter().all(|one| one.is_some_and(|one| one.owned && one.number == 1)), "{recorded:?}");
        let kept: Vec<(Uuid, Option<i32>)> =
            sqlx::query_as("SELECT delivery_id, octet_length(response) FROM claygate.attempts ORDER BY delivery_id")
                .fetch_all(test.pool())
                .await
                .unwrap();
        assert_eq!(kept.len(), 20);
        for (id, length) in kept {
            let expected = if id == attempts[7].delivery.0 { None } else { Some(10) };
            assert_eq!(length, expected);
        }
        drop(recorder);
        tasks.close();
        tasks.wait().await;
    }
}
