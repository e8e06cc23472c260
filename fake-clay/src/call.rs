//! The column's requests: each when its row is due, within the column's rate, with one more try where Clay makes one.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::column::{CallTo, Column};
use crate::counts::count;
use crate::table::State;

/// Requests of one column that are under way at once.
const AT_ONCE: usize = 64;

/// A request to be made.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) due: Instant,
    pub(crate) url: Arc<str>,
    pub(crate) body: String,
}

impl PartialEq for Call {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}
impl Eq for Call {}
impl PartialOrd for Call {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Call {
    fn cmp(&self, other: &Self) -> Ordering {
        self.due.cmp(&other.due)
    }
}

/// The URL for a row; `None` where its cell holds none.
pub(crate) fn target(to: &CallTo, cells: &Map<String, Value>) -> Option<Arc<str>> {
    match to {
        CallTo::Url(url) => Some(url.as_str().into()),
        CallTo::Cell(name) => cells.get(name)?.as_str().filter(|url| url.starts_with("http")).map(Into::into),
    }
}

/// What makes a table's calls.
pub(crate) struct Calls {
    column: Arc<Column>,
    /// Weakly: what waits for calls must not keep alive what makes them.
    table: Weak<State>,
    client: reqwest::Client,
}

impl Calls {
    pub(crate) fn new(column: Column, table: Weak<State>, client: reqwest::Client) -> Self {
        Self { column: Arc::new(column), table, client }
    }

    /// Makes calls until the table is gone.
    pub(crate) async fn run(self, mut arriving: mpsc::UnboundedReceiver<Call>) {
        let mut waiting: BinaryHeap<Reverse<Call>> = BinaryHeap::new();
        let mut under_way = JoinSet::new();
        let gap = self.column.per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate));
        let mut free_at = Instant::now();
        loop {
            let next = waiting.peek().filter(|_| under_way.len() < AT_ONCE).map(|Reverse(call)| call.due.max(free_at));
            tokio::select! {
                call = arriving.recv() => match call {
                    Some(call) => waiting.push(Reverse(call)),
                    None => return,
                },
                Some(_) = under_way.join_next() => {}
                () = until(next), if next.is_some() => {
                    let Some(Reverse(call)) = waiting.pop() else { continue };
                    // A late call does not let the ones behind it come sooner than the rate says.
                    free_at = free_at.max(Instant::now() - gap) + gap;
                    let (column, table, client) = (Arc::clone(&self.column), self.table.clone(), self.client.clone());
                    under_way.spawn(async move { make(&column, &table, &client, &call).await });
                }
            }
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Makes one call, with its retries.
async fn make(column: &Column, table: &Weak<State>, client: &reqwest::Client, call: &Call) {
    for round in 0..=column.retries.times {
        let status = request(column, client, call).await;
        let is_tried_again = round < column.retries.times
            && match status {
                Some(status) => column.retries.statuses.iter().any(|range| range.contains(&status)),
                None => column.retries.unanswered,
            };
        let Some(table) = table.upgrade() else { return };
        table.count(|counts| {
            let calls = &mut counts.calls;
            match status {
                Some(status) => count(&mut calls.by_status, status),
                None => calls.unanswered += 1,
            }
            calls.retries += u64::from(round > 0);
            calls.waiting -= u64::from(!is_tried_again);
        });
        if !is_tried_again {
            return;
        }
    }
}

/// The status of the answer; `None` where there was none.
async fn request(column: &Column, client: &reqwest::Client, call: &Call) -> Option<u16> {
    let request = client.post(&*call.url).timeout(column.timeout).header("content-type", "application/json");
    let request = column.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
    match request.body(call.body.clone()).send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            // Read to its end, so that the connection can be used again.
            let _cell = answer.bytes().await;
            Some(status)
        }
        Err(error) => {
            // Its URL may hold a signature.
            tracing::debug!(error = %error.without_url(), "a column's call got no answer");
            None
        }
    }
}
