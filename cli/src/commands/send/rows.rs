//! From bytes to rows that can be stored: cut, turned into objects, prepared, in groups.

use common::db::row_intake::GROUP_ROWS_MAX;
use common::db::rows::NewRow;
use common::rows::prepare::{Preparer, RowProblem};
use common::rows::split::{Form, Piece, Splitter};

use super::input::Format;
use super::records::{Record, Records};
use super::table::{Columns, Mapping};

/// Bytes at which a group is full.
const GROUP_BYTES_MAX: usize = 1 << 20;
/// The longest record: what is left out of it may be longer than what Clay takes.
const RECORD_BYTES_MAX: usize = 1 << 20;

/// Rows that are stored together, and how far they reach.
#[derive(Default)]
pub(super) struct Group {
    pub(super) rows: Vec<NewRow>,
    pub(super) problems: Vec<(u64, RowProblem)>,
    bytes: usize,
}

impl Group {
    pub(super) fn is_full(&self) -> bool {
        self.rows.len() + self.problems.len() >= GROUP_ROWS_MAX || self.bytes >= GROUP_BYTES_MAX
    }
}

enum Cutter {
    Table { delimiter: u8, records: Records, columns: Option<Columns> },
    Lines(Splitter),
}

/// Reads the rows of one file, from a line on.
pub(super) struct RowReader<'a> {
    cutter: Cutter,
    mapping: &'a Mapping,
    preparer: Preparer<'a>,
    /// The first line that is not stored yet.
    from_line: u64,
    needed: Vec<String>,
    pub(super) group: Group,
}

impl<'a> RowReader<'a> {
    /// `needed`: members without which a table cannot be meant.
    pub(super) fn new(
        format: Format,
        mapping: &'a Mapping,
        preparer: Preparer<'a>,
        from_line: u64,
        needed: Vec<String>,
    ) -> Self {
        let cutter = match format.delimiter() {
            Some(delimiter) => {
                Cutter::Table { delimiter, records: Records::new(delimiter, RECORD_BYTES_MAX), columns: None }
            }
            None => Cutter::Lines(Splitter::new(Form::Lines, RECORD_BYTES_MAX)),
        };
        Self { cutter, mapping, preparer, from_line, needed, group: Group::default() }
    }

    /// Every line before it was read.
    pub(super) fn next_line(&self) -> u64 {
        match &self.cutter {
            Cutter::Table { records, .. } => records.next_line(),
            Cutter::Lines(splitter) => splitter.line(),
        }
    }

    /// Takes the next bytes; rows come into the group.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let Self { cutter, mapping, preparer, from_line, needed, group } = self;
        match cutter {
            Cutter::Table { delimiter, records, columns } => {
                let mut failed = None;
                let mut sink = Sink { preparer, from_line: *from_line, group };
                records.feed(bytes, &mut |record| {
                    if failed.is_none() {
                        failed = take_record(record, *delimiter, columns, mapping, needed, &mut sink).err();
                    }
                });
                failed.map_or(Ok(()), Err)
            }
            Cutter::Lines(splitter) => {
                let mut sink = Sink { preparer, from_line: *from_line, group };
                splitter.feed(bytes, &mut |piece| sink.line(piece, mapping))?;
                Ok(())
            }
        }
    }

    /// The file has ended. Answers the line behind it.
    pub(super) fn finish(self) -> anyhow::Result<(Group, u64)> {
        let Self { cutter, mapping, preparer, from_line, needed, mut group } = self;
        let mut sink = Sink { preparer: &preparer, from_line, group: &mut group };
        let next_line = match cutter {
            Cutter::Table { delimiter, mut records, mut columns } => {
                let mut failed = None;
                let is_whole = records.finish(&mut |record| {
                    failed = take_record(record, delimiter, &mut columns, mapping, &needed, &mut sink).err();
                });
                if let Some(failed) = failed {
                    return Err(failed);
                }
                let line = records.next_line();
                if !is_whole {
                    let what = "a quote is opened here that nothing closes: the rest of the file is not read";
                    sink.refuse(line, RowProblem::Unreadable(what.to_owned()));
                }
                anyhow::ensure!(columns.is_some(), "the file has no header");
                if is_whole { line } else { line + 1 }
            }
            Cutter::Lines(splitter) => {
                let line = splitter.line();
                splitter.finish(&mut |piece| sink.line(piece, mapping))?;
                line + 1
            }
        };
        Ok((group, next_line))
    }
}

fn take_record(
    record: Record<'_>,
    delimiter: u8,
    columns: &mut Option<Columns>,
    mapping: &Mapping,
    needed: &[String],
    sink: &mut Sink<'_>,
) -> anyhow::Result<()> {
    let Some(columns) = columns else {
        let Some(header) = record.raw else { anyhow::bail!("the header is longer than {RECORD_BYTES_MAX} bytes") };
        let found = Columns::of_header(header, delimiter, mapping)?;
        if let Some(missing) = needed.iter().find(|member| !found.has(member)) {
            anyhow::bail!(
                "the destination's filter needs \"{missing}\", and no column is called so: name the one that is meant, \
                 for example --map \"Work Email={missing}\""
            );
        }
        *columns = Some(found);
        return Ok(());
    };
    match record.raw.map(|raw| columns.object(raw)) {
        None => sink.take(Piece { line: record.line, raw: None, alone: false }),
        Some(Ok(object)) => sink.take(Piece { line: record.line, raw: Some(&object), alone: false }),
        Some(Err(problem)) => sink.refuse(record.line, problem),
    }
    Ok(())
}

/// Where rows go.
struct Sink<'a> {
    preparer: &'a Preparer<'a>,
    from_line: u64,
    group: &'a mut Group,
}

impl Sink<'_> {
    fn line(&mut self, piece: Piece<'_>, mapping: &Mapping) {
        match piece.raw.and_then(|raw| mapping.rename(raw)) {
            Some(renamed) => self.take(Piece { raw: Some(&renamed), ..piece }),
            None => self.take(piece),
        }
    }

    fn take(&mut self, piece: Piece<'_>) {
        if piece.line < self.from_line {
            return;
        }
        match self.preparer.prepare(piece) {
            Ok(row) => {
                self.group.bytes += row.body.len();
                self.group.rows.push(row);
            }
            Err(problem) => self.group.problems.push((piece.line, problem)),
        }
    }

    fn refuse(&mut self, line: u64, problem: RowProblem) {
        if line >= self.from_line {
            self.group.problems.push((line, problem));
        }
    }
}
