//! What is printed of a run.

use std::fmt;

/// What became of one fault.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) fault: String,
    pub(super) answered: usize,
    pub(super) delivered: usize,
    /// Requests that were taken although the delivery had been taken.
    pub(super) repeats: usize,
    /// Those of the one delivery that has most of them, and how many it may have.
    pub(super) most: usize,
    pub(super) bound: usize,
    pub(super) lost: usize,
}

/// All rows so far, printed at the end, however the run ends.
#[derive(Default)]
pub(super) struct Table(pub(super) Vec<Row>);

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, answered, delivered, repeats, most, bound, lost } = self;
        write!(f, "{fault:<34} {answered:>8} {delivered:>9} {repeats:>7} {most:>4} {bound:>5} {lost:>4}")
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        println!(
            "{:<34} {:>8} {:>9} {:>7} {:>4} {:>5} {:>4}",
            "fault", "answered", "delivered", "repeats", "most", "bound", "lost"
        );
        self.0.iter().for_each(|row| println!("{row}"));
    }
}
