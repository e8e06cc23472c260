//! One table: a webhook that takes its rows, and perhaps a column that calls back for each.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Map, Value};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::call::{self, Call, Calls};
use crate::column::Column;
use crate::counts::Counts;
use crate::enrich;
use crate::fault::Fault;
use crate::lock;
use crate::rows::{Keep, Row, Rows};

/// What a table is like.
#[derive(Clone, Debug)]
pub struct TableSettings {
    /// What `x-clay-webhook-auth` must say; `None`: anyone may send.
    pub token: Option<String>,
    /// Submissions that its webhook takes in its life; `None`: any number.
    pub cap: Option<u64>,
    /// What calls back.
    pub column: Option<Column>,
    /// The cell that names a row.
    pub id_cell: String,
}

impl Default for TableSettings {
    fn default() -> Self {
        Self { token: None, cap: Some(50_000), column: None, id_cell: "claygate_id".to_owned() }
    }
}

/// A table of a [`crate::FakeClay`]. Cheap to clone.
#[derive(Clone)]
pub struct Table {
    pub(crate) state: Arc<State>,
}

pub(crate) struct State {
    url: String,
    id_cell: String,
    column: Option<Column>,
    keep: Keep,
    seed: u64,
    inner: Mutex<Inner>,
    calls: Option<mpsc::UnboundedSender<Call>>,
}

struct Inner {
    token: Option<String>,
    cap: Option<u64>,
    is_deleted: bool,
    counts: Counts,
    rows: Rows,
    faults: Vec<Fault>,
    standing: Option<Fault>,
}

impl Table {
    /// A table that is reached under `url`. Its column, where it has one, runs in the caller's runtime.
    pub(crate) fn new(url: String, settings: TableSettings, keep: Keep, seed: u64, client: &reqwest::Client) -> Self {
        let (calls, waiting) = settings.column.is_some().then(mpsc::unbounded_channel).unzip();
        let state = Arc::new(State {
            url,
            id_cell: settings.id_cell,
            column: settings.column,
            keep,
            seed,
            inner: Mutex::new(Inner {
                token: settings.token,
                cap: settings.cap,
                is_deleted: false,
                counts: Counts::default(),
                rows: Rows::default(),
                faults: Vec::new(),
                standing: None,
            }),
            calls,
        });
        if let (Some(waiting), Some(column)) = (waiting, state.column.clone()) {
            // It ends with the table: the sender of what waits is in the state, which it holds weakly.
            tokio::spawn(Calls::new(column, Arc::downgrade(&state), client.clone()).run(waiting));
        }
        Self { state }
    }

    /// The URL of its webhook.
    pub fn url(&self) -> &str {
        &self.state.url
    }

    /// The token that its webhook wants now.
    pub fn token(&self) -> Option<String> {
        lock(&self.state.inner).token.clone()
    }

    /// Takes another token at once; the old one is dead.
    pub fn rotate_token(&self, token: Option<&str>) {
        lock(&self.state.inner).token = token.map(str::to_owned);
    }

    /// Deletes the webhook: it answers 404 from now on.
    pub fn delete(&self) {
        lock(&self.state.inner).is_deleted = true;
    }

    /// Changes how many submissions the webhook takes in its life; those that it took count.
    pub fn set_cap(&self, cap: Option<u64>) {
        lock(&self.state.inner).cap = cap;
    }

    /// Fails the next requests like this, one after the other.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.state.inner).faults.extend(faults);
    }

    /// Fails every request like this from now on, until it is told `None`.
    pub fn fail(&self, fault: Option<Fault>) {
        lock(&self.state.inner).standing = fault;
    }

    /// What it counted so far.
    pub fn counts(&self) -> Counts {
        lock(&self.state.inner).counts.clone()
    }

    /// The rows that it took, in order; none unless they are kept.
    pub fn rows(&self) -> Vec<Row> {
        lock(&self.state.inner).rows.rows.clone()
    }

    /// How many different ids came.
    pub fn distinct(&self) -> usize {
        lock(&self.state.inner).rows.ids.len()
    }

    /// The ids that came more than once, with how often.
    pub fn repeated(&self) -> Vec<(Uuid, u32)> {
        let inner = lock(&self.state.inner);
        let mut repeated: Vec<(Uuid, u32)> =
            inner.rows.ids.iter().filter(|(_, times)| **times > 1).map(|(id, times)| (*id, *times)).collect();
        repeated.sort_unstable();
        repeated
    }

    /// Whether a row with this id came.
    pub fn has(&self, id: Uuid) -> bool {
        lock(&self.state.inner).rows.ids.contains_key(&id)
    }

    /// Runs the column once more for every row that is kept, as "run all rows" does.
    pub fn run_column(&self) {
        let rows = self.rows();
        for row in rows {
            self.state.call_for(&row.cells);
        }
    }
}

impl State {
    /// What a request with this token would be refused for, before its body is looked at.
    pub(crate) fn refusal(&self, token: Option<&[u8]>) -> Option<u16> {
        let inner = lock(&self.inner);
        if inner.is_deleted {
            return Some(404);
        }
        let wanted = inner.token.as_deref()?.as_bytes();
        (token != Some(wanted)).then_some(401)
    }

    /// Whether its webhook took as much as it ever will.
    pub(crate) fn is_full(&self) -> bool {
        let inner = lock(&self.inner);
        inner.cap.is_some_and(|cap| inner.counts.accepted >= cap)
    }

    /// The failure that stands in place of the next answer.
    pub(crate) fn next_fault(&self) -> Option<Fault> {
        let mut inner = lock(&self.inner);
        let fault = if inner.faults.is_empty() { inner.standing } else { Some(inner.faults.remove(0)) };
        inner.counts.faults += u64::from(fault.is_some());
        fault
    }

    /// Makes a row; `None`: of an array. Answers whether there was room for it.
    pub(crate) fn take(&self, cells: Option<Map<String, Value>>) -> bool {
        let id = cells.as_ref().and_then(|cells| cells.get(&self.id_cell)?.as_str()?.parse().ok());
        {
            let mut inner = lock(&self.inner);
            // Looked at and counted under one lock: two requests cannot both be the last.
            if inner.cap.is_some_and(|cap| inner.counts.accepted >= cap) {
                return false;
            }
            inner.counts.accepted += 1;
            inner.counts.arrays += u64::from(cells.is_none());
            inner.counts.without_id += u64::from(id.is_none());
            let row = || Row { taken_at: Instant::now(), cells: cells.clone().unwrap_or_default() };
            let is_repeated = inner.rows.keep(self.keep, id, row);
            inner.counts.repeated += u64::from(is_repeated == Some(true));
        }
        self.call_for(&cells.unwrap_or_default());
        true
    }

    /// Changes what was counted.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut lock(&self.inner).counts);
    }

    /// Lets the column run for a row.
    fn call_for(&self, cells: &Map<String, Value>) {
        let (Some(column), Some(calls)) = (&self.column, &self.calls) else { return };
        let fate = enrich::plan(column, self.seed, &self.id_cell, cells);
        let url = call::target(&column.to, cells);
        let n = fate.calls.len() as u64;
        let mut inner = lock(&self.inner);
        let counts = &mut inner.counts.calls;
        if n == 0 {
            counts.silent += 1;
            return;
        }
        let Some(url) = url.filter(|_| counts.waiting + n <= column.waiting_max as u64) else {
            counts.not_run += 1;
            return;
        };
        counts.malformed += u64::from(fate.is_malformed);
        counts.reruns += n - 1;
        counts.changed += u64::from(fate.changes);
        counts.waiting += n;
        drop(inner);
        let now = tokio::time::Instant::now();
        for planned in fate.calls {
            // The receiver lives as long as the state.
            let _sent = calls.send(Call { due: now + planned.after, url: url.clone(), body: planned.body });
        }
    }
}
