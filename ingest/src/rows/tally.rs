//! What became of a request's rows: everything is counted, a bounded number of rows is listed.

use std::collections::BTreeMap;

use common::db::row_batches::Counts;
use common::db::row_intake::Taken;
use common::db::rows::NewRow;
use common::ids::RowId;
use common::rows::prepare::RowProblem;
use serde::Serialize;

/// Most rows, and most problems, that are listed.
const LISTED_MAX: usize = 1_000;

/// A row that was stored, or that was there before.
#[derive(Debug, Serialize)]
pub(crate) struct ListedRow {
    pub(crate) line: u64,
    /// Its own id; of a repeat that of the first one.
    pub(crate) id: RowId,
    pub(crate) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
}

/// A row that was not stored.
#[derive(Debug, Serialize)]
pub(crate) struct ListedProblem {
    line: u64,
    problem: String,
}

/// The tally of one request.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    pub(crate) filtered_by: BTreeMap<&'static str, u64>,
    pub(crate) rows: Vec<ListedRow>,
    pub(crate) problems: Vec<ListedProblem>,
    /// The body is one object.
    pub(crate) alone: bool,
    /// What is wrong with that one.
    pub(crate) alone_problem: Option<RowProblem>,
}

impl Tally {
    /// Adds a row that was refused before it could be stored.
    pub(crate) fn refuse(&mut self, line: u64, problem: RowProblem) {
        self.counts.refused += 1;
        self.list_problem(line, problem);
    }

    /// Adds a group that was committed.
    pub(crate) fn add(&mut self, rows: &[NewRow], taken: &[Taken]) {
        // What the reader refused was counted as it was read.
        self.counts += Counts::of(taken, 0);
        for (row, outcome) in rows.iter().zip(taken) {
            let line = row.line.and_then(|line| u64::try_from(line).ok()).unwrap_or_default();
            let (id, status, reason) = match outcome {
                Taken::Accepted => (row.id, "accepted", None),
                Taken::Filtered(reason) => {
                    *self.filtered_by.entry(reason.as_str()).or_default() += 1;
                    (row.id, "filtered", Some(reason.as_str()))
                }
                Taken::Duplicate { first } => (*first, "duplicate", None),
                Taken::Conflict { .. } => {
                    self.list_problem(line, RowProblem::Conflict);
                    continue;
                }
            };
            if self.rows.len() < LISTED_MAX {
                self.rows.push(ListedRow { line, id, status, reason });
            }
        }
    }

    fn list_problem(&mut self, line: u64, problem: RowProblem) {
        if self.problems.len() < LISTED_MAX {
            self.problems.push(ListedProblem { line, problem: problem.to_string() });
        }
        if self.alone {
            self.alone_problem = Some(problem);
        }
    }

    /// Whether a row is durable because of this request or of an earlier one.
    pub(crate) fn has_taken(&self) -> bool {
        self.counts.rows() > self.counts.refused
    }
}
