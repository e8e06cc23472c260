//! Threads of their own for rules: a deep stack, and a deadline that holds even where an evaluation does not end.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::compile::STACK_BYTES;
use super::{Evaluation, RuleInput, RuleResult, RuleSet};

/// A generous time for one lead: it is there for what runs away, not for what is slow.
pub const EVALUATION_DEADLINE: Duration = Duration::from_secs(5);

/// Threads that may be stuck at once, per thread of the pool, before stuck ones are no longer replaced.
const STUCK_MAX_PER_THREAD: usize = 4;

/// [`RuleInput`] that a thread can keep.
#[derive(Clone, Debug)]
pub struct OwnedRuleInput {
    /// The lead's present fields.
    pub lead: Arc<Map<String, Value>>,
    /// The source's name.
    pub source: String,
    /// Facts of the callback.
    pub callback: Map<String, Value>,
}

/// Threads with 16 MiB of stack that evaluate one rule set.
///
/// A lead that takes longer than the deadline fails (`error`, detail `deadline`), its thread is replaced, and the others
/// of its batch go on. The stuck thread joins the pool again, or ends, when it is through. Where too many are stuck
/// (four for each thread) no more are made, and batches wait for one to come back. Dropping the pool ends its threads.
pub struct RuleThreads {
    pool: Arc<Pool>,
    deadline: Duration,
}

struct Pool {
    rules: Arc<RuleSet>,
    /// Threads there should be.
    size: usize,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads that take jobs.
    live: usize,
    /// Threads that were given up while they evaluate.
    stuck: usize,
    closed: bool,
}

/// A batch from its `first` lead on.
struct Job {
    batch: Arc<Vec<OwnedRuleInput>>,
    first: usize,
    reports: mpsc::UnboundedSender<Report>,
    watch: Arc<Watch>,
}

enum Report {
    Started,
    Done(Evaluation),
}

/// What is known of a job while it runs.
#[derive(Default)]
struct Watch {
    /// The lead at hand, by its place in the batch, and its rules' results so far.
    progress: Mutex<(usize, Vec<RuleResult>)>,
    /// Its caller has stopped waiting for it.
    given_up: AtomicBool,
}

impl RuleThreads {
    /// Starts `threads` (at least one) for `rules`; `deadline` is for one lead, see [`EVALUATION_DEADLINE`].
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(rules: Arc<RuleSet>, threads: usize, deadline: Duration) -> std::io::Result<Self> {
        let size = threads.max(1);
        let pool = Arc::new(Pool { rules, size, state: Mutex::default(), wake: Condvar::new() });
        let started = Self { pool, deadline };
        for _ in 0..size {
            spawn(&started.pool, &mut lock(&started.pool.state))?;
        }
        Ok(started)
    }

    /// Evaluates a batch, lead by lead and in order: one evaluation for each.
    ///
    /// # Cancel safety
    /// Safe: nothing is written; a thread at work drops the rest of the batch.
    pub async fn evaluate(&self, batch: Vec<OwnedRuleInput>) -> Vec<Evaluation> {
        let batch = Arc::new(batch);
        let mut evaluations = Vec::with_capacity(batch.len());
        while evaluations.len() < batch.len() {
            self.evaluate_from(&batch, &mut evaluations).await;
        }
        evaluations
    }

    /// Evaluates what is left of `batch` up to its end, or through the first lead that is cut short.
    async fn evaluate_from(&self, batch: &Arc<Vec<OwnedRuleInput>>, evaluations: &mut Vec<Evaluation>) {
        let (reports, mut inbox) = mpsc::unbounded_channel();
        let watch = Arc::new(Watch::default());
        self.pool.submit(Job {
            batch: Arc::clone(batch),
            first: evaluations.len(),
            reports,
            watch: Arc::clone(&watch),
        });
        // Waiting for a thread is not the rules' time.
        let mut report = inbox.recv().await;
        while let Some(news) = report {
            if let Report::Done(evaluation) = news {
                evaluations.push(evaluation);
            }
            if evaluations.len() == batch.len() {
                return;
            }
            report = match tokio::time::timeout(self.deadline, inbox.recv()).await {
                Ok(report) => report,
                Err(_) => break,
            };
        }
        self.pool.give_up(&watch);
        let before = evaluations.len();
        // It may just have come through.
        while let Ok(report) = inbox.try_recv() {
            if let Report::Done(evaluation) = report {
                evaluations.push(evaluation);
            }
        }
        if evaluations.len() == before {
            let (lead, trace) = std::mem::take(&mut *lock(&watch.progress));
            let trace = if lead == before { trace } else { Vec::new() };
            evaluations.push(self.pool.rules.cut_short(trace, "deadline"));
        }
    }
}

impl Drop for RuleThreads {
    fn drop(&mut self) {
        lock(&self.pool.state).closed = true;
        self.pool.wake.notify_all();
    }
}

impl Pool {
    fn submit(&self, job: Job) {
        lock(&self.state).jobs.push_back(job);
        self.wake.notify_one();
    }

    /// Stops counting on the thread that holds this job, and starts another one.
    fn give_up(self: &Arc<Self>, watch: &Watch) {
        let mut state = lock(&self.state);
        if watch.given_up.swap(true, Ordering::SeqCst) {
            return;
        }
        state.live -= 1;
        state.stuck += 1;
        if state.stuck <= self.size * STUCK_MAX_PER_THREAD {
            // Without a new thread the pool is one smaller until the stuck one is back.
            let _ = spawn(self, &mut state);
        }
    }

    /// A thread's life.
    fn work(self: &Arc<Self>) {
        while let Some(job) = self.next_job() {
            self.run(&job);
            let mut state = lock(&self.state);
            if job.watch.given_up.swap(true, Ordering::SeqCst) {
                state.stuck -= 1;
                if state.live >= self.size {
                    return;
                }
                state.live += 1;
            }
        }
    }

    fn next_job(&self) -> Option<Job> {
        let mut state = lock(&self.state);
        loop {
            if state.closed {
                return None;
            }
            match state.jobs.pop_front() {
                Some(job) => return Some(job),
                None => state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn run(&self, job: &Job) {
        let mut heard = job.reports.send(Report::Started).is_ok();
        for (place, input) in job.batch.iter().enumerate().skip(job.first) {
            if !heard || job.watch.given_up.load(Ordering::SeqCst) {
                return;
            }
            *lock(&job.watch.progress) = (place, Vec::new());
            heard = job.reports.send(Report::Done(self.evaluate(input, &job.watch))).is_ok();
        }
    }

    fn evaluate(&self, input: &OwnedRuleInput, watch: &Watch) -> Evaluation {
        let input = RuleInput { lead: &input.lead, source: &input.source, callback: &input.callback };
        let evaluated = catch_unwind(AssertUnwindSafe(|| {
            self.rules.evaluate_each(&input, &mut |result| lock(&watch.progress).1.push(result));
        }));
        let trace = lock(&watch.progress).1.clone();
        match evaluated {
            Ok(()) => self.rules.conclude(trace),
            Err(_) => self.rules.cut_short(trace, "the evaluation panicked"),
        }
    }
}

fn spawn(pool: &Arc<Pool>, state: &mut State) -> std::io::Result<()> {
    let own = Arc::clone(pool);
    std::thread::Builder::new().name("rules".to_owned()).stack_size(STACK_BYTES).spawn(move || own.work())?;
    state.live += 1;
    Ok(())
}

/// Nothing that is locked here can be left half changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
