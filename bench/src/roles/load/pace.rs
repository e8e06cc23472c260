//! The two loops, on one thread: connections are tasks that share counters without a lock.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::callbacks::Callback;
use super::connection::Connection;
use super::tally::Tally;
use super::{Pace, Plan};
use crate::measure::monotonic_ns;

/// How long after the end of a load its last answer may come.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How far behind its first sending a repeat comes, in callbacks: what it repeats is committed by then.
const REPEAT_AFTER: u64 = 500;

/// A load between its stretches.
pub(super) struct Load {
    plan: Plan,
    /// Connections wait here between stretches.
    lanes: Vec<Lane>,
    requests: Rc<Cell<u64>>,
}

struct Lane {
    address: SocketAddr,
    connection: Connection,
    callback: Callback,
}

impl Load {
    /// Opens every connection.
    pub(super) async fn open(plan: Plan) -> anyhow::Result<Self> {
        let (Pace::Closed { connections } | Pace::Open { connections, .. }) = plan.pace;
        let mut lanes = Vec::with_capacity(connections);
        for address in plan.addresses.iter().copied().cycle().take(connections) {
            let connection = Connection::open(address).await.with_context(|| format!("connecting to {address}"))?;
            lanes.push(Lane { address, connection, callback: Callback::new(&plan, address)? });
        }
        Ok(Self { plan, lanes, requests: Rc::default() })
    }

    /// Different callbacks sent so far.
    pub(super) fn callbacks(&self) -> u64 {
        number_of(self.requests.get(), self.plan.half_repeats).1
    }

    /// One stretch; ends when the last answer is there.
    pub(super) async fn run_for(&mut self, length: Duration) -> anyhow::Result<Tally> {
        let stretch = Rc::new(Stretch {
            plan: self.plan.clone(),
            requests: Rc::clone(&self.requests),
            tally: RefCell::new(Tally::start()),
            due: RefCell::default(),
            more: Notify::new(),
            over: Cell::new(false),
        });
        let deadline = Instant::now() + length;
        let mut running = JoinSet::new();
        for lane in self.lanes.drain(..) {
            let stretch = Rc::clone(&stretch);
            running.spawn_local(async move {
                match stretch.plan.pace {
                    Pace::Closed { .. } => stretch.send_in_turn(lane, deadline).await,
                    Pace::Open { .. } => stretch.send_what_is_due(lane).await,
                }
            });
        }
        if let Pace::Open { per_second, burst, .. } = self.plan.pace {
            stretch.keep_pace(moments(per_second, burst, length)).await?;
        }
        while let Some(lane) = timeout_at((deadline + ANSWER_LIMIT).into(), running.join_next())
            .await
            .with_context(|| format!("answers are missing {ANSWER_LIMIT:?} after the load"))?
        {
            self.lanes.push(lane.context("a connection's task ended")??);
        }
        let stretch = Rc::into_inner(stretch).context("a connection is still busy")?;
        Ok(stretch.tally.into_inner())
    }
}

/// What the connections of one stretch share.
struct Stretch {
    plan: Plan,
    requests: Rc<Cell<u64>>,
    tally: RefCell<Tally>,
    /// Intended moments whose request is not sent yet.
    due: RefCell<VecDeque<Moment>>,
    more: Notify,
    over: Cell<bool>,
}

/// One moment on two clocks: ours, and the one that every process of the machine reads.
#[derive(Clone, Copy)]
struct Moment {
    at: Instant,
    ns: u64,
}

impl Stretch {
    /// Closed loop: sends until `deadline`.
    async fn send_in_turn(&self, mut lane: Lane, deadline: Instant) -> anyhow::Result<Lane> {
        loop {
            let now = Moment { at: Instant::now(), ns: monotonic_ns() };
            if now.at >= deadline {
                return Ok(lane);
            }
            lane = self.send(lane, now).await?;
        }
    }

    /// Open loop: sends what becomes due until the stretch is over.
    async fn send_what_is_due(&self, mut lane: Lane) -> anyhow::Result<Lane> {
        loop {
            let due = self.due.borrow_mut().pop_front();
            match due {
                Some(moment) => lane = self.send(lane, moment).await?,
                None if self.over.get() => return Ok(lane),
                None => self.more.notified().await,
            }
        }
    }

    /// Makes a request due at each of `moments`. A thread of its own keeps the time: the runtime's timers are too
    /// coarse, by up to a millisecond each.
    async fn keep_pace(&self, moments: impl Iterator<Item = Duration> + Send + 'static) -> anyhow::Result<()> {
        let (tell, mut told) = mpsc::unbounded_channel();
        let start = Moment { at: Instant::now(), ns: monotonic_ns() };
        let clock = std::thread::spawn(move || {
            for since in moments {
                std::thread::sleep((start.at + since).saturating_duration_since(Instant::now()));
                let moment = Moment { at: start.at + since, ns: start.ns + since.as_nanos() as u64 };
                if tell.send(moment).is_err() {
                    return;
                }
            }
        });
        while let Some(moment) = told.recv().await {
            self.due.borrow_mut().push_back(moment);
            self.more.notify_one();
        }
        self.over.set(true);
        self.more.notify_waiters();
        clock.join().map_err(|_| anyhow::anyhow!("the thread that keeps the time panicked"))
    }

    async fn send(&self, mut lane: Lane, intended: Moment) -> anyhow::Result<Lane> {
        let request = self.requests.get();
        self.requests.set(request + 1);
        let (number, _) = number_of(request, self.plan.half_repeats);
        let sent_ns = if self.plan.stamped { intended.ns } else { 0 };
        let bytes = lane.callback.write(number, sent_ns);
        let answer = lane.connection.exchange(bytes).await;
        let broken = answer.is_err();
        self.tally.borrow_mut().count(answer, intended.at.elapsed());
        if broken {
            lane.connection = Connection::open(lane.address).await.context("connecting again")?;
        }
        Ok(lane)
    }
}

/// When each request of an open loop is due, from its start: `per_second`, and `burst` times that in the middle third.
fn moments(per_second: f64, burst: f64, length: Duration) -> impl Iterator<Item = Duration> + Send + 'static {
    let length = length.as_secs_f64();
    let next = move |at: &f64| {
        let in_burst = (length / 3.0..length * 2.0 / 3.0).contains(at);
        Some(at + if in_burst { 1.0 / (per_second * burst) } else { 1.0 / per_second })
    };
    std::iter::successors(Some(0.0), next).take_while(move |at| *at < length).map(Duration::from_secs_f64)
}

/// The callback that request `request` sends, and how many different ones all requests before it sent.
fn number_of(request: u64, half_repeats: bool) -> (u64, u64) {
    match (half_repeats, request % 2) {
        (false, _) => (request, request),
        (true, 0) => (request / 2, request / 2),
        (true, _) => ((request / 2).saturating_sub(REPEAT_AFTER), request / 2 + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_comes_in_the_middle_third() {
        let second = Duration::from_secs(1);
        assert!(moments(100.0, 1.0, 3 * second).count().abs_diff(300) <= 1);
        let burst: Vec<Duration> = moments(100.0, 10.0, 3 * second).collect();
        let within = |from: u32, to: u32| burst.iter().filter(|at| (second * from..second * to).contains(*at)).count();
        assert!(
            within(0, 1).abs_diff(100) <= 1 && within(1, 2).abs_diff(1_000) <= 10 && within(2, 3).abs_diff(100) <= 1
        );
        assert!(burst.is_sorted());
    }

    #[test]
    fn numbers_have_no_gap_and_repeats_repeat_what_was_sent() {
        let mut sent = std::collections::BTreeSet::new();
        for request in 0..5_000 {
            let (number, before) = number_of(request, true);
            assert_eq!(before, sent.len() as u64, "request {request}");
            let fresh = sent.insert(number);
            assert_eq!(fresh, request % 2 == 0, "request {request}");
        }
        assert_eq!(number_of(7, false), (7, 7));
    }
}
