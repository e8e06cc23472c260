//! Lists are read along an index, a page at a time, and no page looks at more than so many rows
//! (`docs/adr/0027-what-a-page-looks-at.md`).
//!
//! A statement of a list reads a stretch of its index, numbers its rows, and answers those that match and the one numbered
//! [`LOOKED_AT_MAX`] ([`Looked::is_bound`]), whether that matches or not: where the next page begins.

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use time::OffsetDateTime;
use uuid::Uuid;

/// How many rows one page looks at before it is shown as it is. What a filter lets through may be rare, and no index knows
/// it: so many rows are read in some ten milliseconds from memory, in a second from a slow disk.
pub const LOOKED_AT_MAX: u32 = 10_000;

/// A place in a list: the moment and the id of a row.
pub type Position = (OffsetDateTime, Uuid);

/// One page of a list, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<L> {
    /// What matches.
    pub lines: Vec<L>,
    /// What the next page lies behind; `None`: nothing is left.
    pub next: Option<Position>,
    /// The page ends because [`LOOKED_AT_MAX`] rows were looked at, not because it is full.
    pub is_cut: bool,
}

/// A row as a list's statement answers it.
pub(super) struct Looked<L> {
    line: L,
    position: Position,
    matches: bool,
    /// The last one that may be looked at.
    is_bound: bool,
}

impl<L: for<'r> FromRow<'r, PgRow>> Looked<L> {
    /// Reads a row whose moment is in the column `at`.
    pub(super) fn read(row: &PgRow, at: &str) -> Result<Self, sqlx::Error> {
        Ok(Self {
            line: L::from_row(row)?,
            position: (row.try_get(at)?, row.try_get("id")?),
            matches: row.try_get("matches")?,
            is_bound: row.try_get("is_bound")?,
        })
    }
}

impl<L> Page<L> {
    /// The page of what was looked at, newest first: `limit` lines, or as far as it was looked.
    ///
    /// Where several stretches were merged, the first bound ends the page: behind it one of them is unknown.
    pub(super) fn of(rows: impl IntoIterator<Item = Looked<L>>, limit: u32) -> Self {
        let mut page = Self { lines: Vec::new(), next: None, is_cut: false };
        for row in rows {
            if row.matches {
                page.lines.push(row.line);
            }
            let is_full = page.lines.len() >= limit as usize;
            if is_full || row.is_bound {
                page.next = Some(row.position);
                page.is_cut = !is_full;
                break;
            }
        }
        page
    }
}
