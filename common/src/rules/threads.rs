//! Threads of their own for rules: a deep stack, and a deadline that holds even where an evaluation does not end.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::time::Instant;

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
    /// Dropped with the job. Its caller is woken by that, once: for every lead it would cost more than most rules do.
    ended: oneshot::Sender<()>,
    watch: Arc<Watch>,
}

/// What is known of a job while it runs.
#[derive(Default)]
struct Watch {
    progress: Mutex<Progress>,
    /// Its caller has stopped waiting for it.
    given_up: AtomicBool,
}

/// How far a job has come.
#[derive(Default)]
struct Progress {
    done: Vec<Evaluation>,
    /// When the lead at hand was begun; `None` while the job waits for a thread, which is not the rules' time.
    since: Option<Instant>,
    /// The results of its rules so far.
    trace: Vec<RuleResult>,
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
        let (ended, mut end) = oneshot::channel();
        let watch = Arc::new(Watch::default());
        self.pool.submit(Job { batch: Arc::clone(batch), first: evaluations.len(), ended, watch: Arc::clone(&watch) });
        // Only an elapsed time is an error here: nothing is ever sent.
        let mut look_at = Instant::now() + self.deadline;
        while tokio::time::timeout_at(look_at, &mut end).await.is_err() {
            let since = lock(&watch.progress).since;
            look_at = since.unwrap_or_else(Instant::now) + self.deadline;
            if look_at <= Instant::now() {
                break;
            }
        }
        self.pool.give_up(&watch);
        let mut progress = lock(&watch.progress);
        evaluations.append(&mut progress.done);
        if evaluations.len() < batch.len() {
            evaluations.push(self.pool.rules.cut_short(std::mem::take(&mut progress.trace), "deadline"));
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
        for input in job.batch.iter().skip(job.first) {
            if job.ended.is_closed() || job.watch.given_up.load(Ordering::SeqCst) {
                return;
            }
            lock(&job.watch.progress).since = Some(Instant::now());
            let evaluation = self.evaluate(input, &job.watch);
            lock(&job.watch.progress).done.push(evaluation);
        }
    }

    fn evaluate(&self, input: &OwnedRuleInput, watch: &Watch) -> Evaluation {
        let input = RuleInput { lead: &input.lead, source: &input.source, callback: &input.callback };
        let evaluated = catch_unwind(AssertUnwindSafe(|| {
            self.rules.evaluate_each(&input, &mut |result| lock(&watch.progress).trace.push(result));
        }));
        let trace = std::mem::take(&mut lock(&watch.progress).trace);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::time::Instant;

    use serde_json::json;
    use testkit::wait::{wait_for, wait_until};

    use super::super::RuleOutcome;
    use super::*;
    use crate::config::RuleConfig;

    /// Far more than anything here takes, and less than a test run.
    const AMPLE: Duration = Duration::from_secs(60);

    fn rules(expressions: &[&str]) -> Arc<RuleSet> {
        let rule = |(place, when): (usize, &&str)| RuleConfig {
            name: format!("rule-{place}"),
            when: (*when).to_owned(),
            to: vec!["log".to_owned()],
            source: Vec::new(),
            stop: false,
        };
        let rules: Vec<_> = expressions.iter().enumerate().map(rule).collect();
        Arc::new(RuleSet::compile(&rules, &["log".to_owned()], &[]).unwrap_or_else(|problems| panic!("{problems:?}")))
    }

    fn lead(lead: Value) -> OwnedRuleInput {
        let Value::Object(lead) = lead else { panic!("not an object") };
        OwnedRuleInput { lead: Arc::new(lead), source: "clay".to_owned(), callback: Map::new() }
    }

    /// A lead that keeps `lead.tags.all(…)` busy for seconds.
    fn slow_lead() -> OwnedRuleInput {
        lead(json!({"n": 1, "tags": vec!["x"; 1_000_000]}))
    }

    fn outcomes(evaluation: &Evaluation) -> Vec<RuleOutcome> {
        evaluation.trace.iter().map(|result| result.result).collect()
    }

    #[tokio::test]
    async fn batches_come_back_complete_and_in_order() {
        let threads = Arc::new(RuleThreads::start(rules(&["lead.n % 2 == 0", "true"]), 3, AMPLE).unwrap());
        assert!(threads.evaluate(Vec::new()).await.is_empty());
        let batches = (0..20).map(|start| {
            let threads = Arc::clone(&threads);
            tokio::spawn(async move {
                let leads = (start..start + 64).map(|n| lead(json!({"n": n}))).collect();
                (start, threads.evaluate(leads).await)
            })
        });
        for batch in batches.collect::<Vec<_>>() {
            let (start, evaluations) = batch.await.unwrap();
            assert_eq!(evaluations.len(), 64);
            for (n, evaluation) in (start..).zip(evaluations) {
                let first = if n % 2 == 0 { RuleOutcome::Matched } else { RuleOutcome::NoMatch };
                assert_eq!(outcomes(&evaluation), [first, RuleOutcome::Matched], "{n}");
            }
        }
    }

    #[tokio::test]
    async fn threads_say_the_same_as_the_rule_set_itself() {
        let rules = rules(&["lead.n > 1", "lead.n - 'x' == 1", "true"]);
        let threads = RuleThreads::start(Arc::clone(&rules), 1, AMPLE).unwrap();
        for value in [json!({}), json!({"n": 1}), json!({"n": "two"})] {
            let input = lead(value);
            let direct =
                rules.evaluate(&RuleInput { lead: &input.lead, source: &input.source, callback: &input.callback });
            assert_eq!(threads.evaluate(vec![input]).await, [direct]);
        }
    }

    #[tokio::test]
    async fn a_lead_beyond_the_deadline_fails_alone_and_its_thread_comes_back() {
        let expressions = ["lead.n == 1", "lead.tags.all(t, t != 'y')", "true"];
        let rules = rules(&expressions);
        let slow = slow_lead();
        let started = Instant::now();
        rules.evaluate(&RuleInput { lead: &slow.lead, source: &slow.source, callback: &slow.callback });
        let threads = RuleThreads::start(rules, 1, started.elapsed() / 4).unwrap();
        let quick = || lead(json!({"n": 1, "tags": []}));
        let evaluations = threads.evaluate(vec![quick(), slow, quick()]).await;
        let all = [RuleOutcome::Matched; 3];
        assert_eq!(outcomes(&evaluations[0]), all);
        let slow = &evaluations[1];
        assert!(slow.failed && slow.destinations.is_empty());
        assert_eq!(slow.trace.len(), 3);
        let failed = slow.trace.iter().find(|result| result.result == RuleOutcome::Error).unwrap();
        assert_eq!(failed.detail.as_deref(), Some("deadline"));
        assert_eq!(slow.trace[2].result, RuleOutcome::NotReached);
        assert_eq!(outcomes(&evaluations[2]), all);
        wait_for("the stuck thread to come back or end", AMPLE, async || match lock(&threads.pool.state) {
            state if (state.live, state.stuck) == (1, 0) => Ok(()),
            state => Err((state.live, state.stuck)),
        })
        .await;
        assert_eq!(outcomes(&threads.evaluate(vec![quick()]).await[0]), all);
    }

    #[tokio::test]
    async fn a_caller_that_leaves_takes_nothing_with_it() {
        let threads = RuleThreads::start(rules(&["lead.n == 1", "lead.tags.all(t, t != 'y')"]), 1, AMPLE).unwrap();
        {
            let evaluation = threads.evaluate(vec![slow_lead(), slow_lead(), slow_lead()]);
            assert!(tokio::time::timeout(Duration::from_millis(1), evaluation).await.is_err());
        }
        let evaluations = threads.evaluate(vec![lead(json!({"n": 1, "tags": []}))]).await;
        assert_eq!(outcomes(&evaluations[0]), [RuleOutcome::Matched; 2]);
    }

    #[tokio::test]
    async fn dropping_the_pool_ends_its_threads() {
        let threads = RuleThreads::start(rules(&["true"]), 2, AMPLE).unwrap();
        threads.evaluate(vec![lead(json!({}))]).await;
        let pool = Arc::downgrade(&threads.pool);
        drop(threads);
        wait_until("the threads to let go of the pool", AMPLE, async || pool.upgrade().is_none()).await;
    }
}
