//! The rows of a table, or as much of them as somebody wants to know.

use std::collections::HashMap;
use std::time::Instant;

use serde_json::{Map, Value};
use uuid::Uuid;

/// What is kept of the rows that a table took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Everything: for hundreds or thousands.
    #[default]
    Rows,
    /// How often each id came, some 50 bytes a row: for millions.
    Ids,
    /// Only how many there were.
    Nothing,
}

/// A row that a table took.
#[derive(Clone, Debug)]
pub struct Row {
    /// When, on this process's clock.
    pub taken_at: Instant,
    /// Its cells; none where an array came, which Clay takes as one row.
    pub cells: Map<String, Value>,
}

/// What was kept.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    /// By id, how often it came.
    pub(crate) ids: HashMap<Uuid, u32>,
}

impl Rows {
    /// Keeps a row. Answers whether its id was here before; `None` where it has none (or ids are not kept).
    pub(crate) fn keep(&mut self, keep: Keep, id: Option<Uuid>, row: impl FnOnce() -> Row) -> Option<bool> {
        if keep == Keep::Rows {
            self.rows.push(row());
        }
        if keep == Keep::Nothing {
            return None;
        }
        let times = self.ids.entry(id?).or_default();
        *times += 1;
        Some(*times > 1)
    }
}
