//! What became of a file's rows.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use common::db::row_batches::Counts;
use common::rows::prepare::RowProblem;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::input::Input;

/// Most problems that are listed.
const PROBLEMS_MAX: usize = 1_000;

/// The report of one run; counts are of all runs over the same file.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) file: String,
    /// What a place in the file is called.
    #[serde(skip)]
    place: &'static str,
    pub(super) destination: String,
    /// None of a dry run.
    pub(super) batch: Option<Uuid>,
    /// The whole file was read.
    pub(super) finished: bool,
    /// Lines (rows of Parquet) before it were read.
    pub(super) next_line: u64,
    #[serde(flatten)]
    pub(super) counts: Counts,
    /// Rows that were held back, by reason.
    pub(super) filtered_by: BTreeMap<String, u64>,
    /// What is wrong with rows that this run refused.
    pub(super) problems: Vec<ListedProblem>,
    pub(super) problems_left_out: u64,
    /// Where the rows are, by state; with `--wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) states: Option<BTreeMap<String, u64>>,
    /// The first rows as they would be sent, every value as it is written; of a dry run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) samples: Vec<BTreeMap<String, Box<RawValue>>>,
}

/// A row that was refused.
#[derive(Debug, Serialize)]
pub(super) struct ListedProblem {
    line: u64,
    problem: String,
}

impl Report {
    /// Of a run that has not begun.
    pub(super) fn of(input: &Input, destination: &str) -> Self {
        let (file, place) = (input.name.clone(), input.format.place());
        Self { file, place, destination: destination.to_owned(), ..Self::default() }
    }

    pub(super) fn refuse(&mut self, line: u64, problem: &RowProblem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(ListedProblem { line, problem: problem.to_string() });
        } else {
            self.problems_left_out += 1;
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sample in &self.samples {
            writeln!(f, "{}", serde_json::to_string(sample).map_err(|_| fmt::Error)?)?;
        }
        let Counts { accepted, duplicates, filtered, refused } = self.counts;
        let would = if self.batch.is_none() { "would be sent" } else { "accepted" };
        writeln!(f, "{would:<14} {accepted:>9}")?;
        if self.batch.is_some() {
            writeln!(f, "{:<14} {duplicates:>9}", "duplicates")?;
        }
        writeln!(f, "{:<14} {filtered:>9}", "held back")?;
        for (reason, n) in &self.filtered_by {
            writeln!(f, "  {reason:<20} {n:>9}")?;
        }
        writeln!(f, "{:<14} {refused:>9}", "refused")?;
        for ListedProblem { line, problem } in &self.problems {
            writeln!(f, "  {} {line}: {problem}", self.place)?;
        }
        if self.problems_left_out > 0 {
            writeln!(f, "  and {} more", self.problems_left_out)?;
        }
        for (state, n) in self.states.iter().flatten() {
            writeln!(f, "{state:<14} {n:>9}")?;
        }
        if self.batch.is_none() {
            writeln!(f, "Which of them repeat an earlier row is known when they are stored.")?;
        }
        if !self.finished {
            writeln!(f, "Stopped before {} {}: the same command goes on there.", self.place, self.next_line)?;
        }
        Ok(())
    }
}
