//! From bytes to rows that can be stored: cut, turned into objects, prepared, in groups.

use common::db::row_intake::GROUP_ROWS_MAX;
use common::db::rows::NewRow;
use common::rows::prepare::{Preparer, RowProblem};
use common::rows::split::{Form, Piece, Splitter};

use super::input::{Format, Part};
use super::parquet::ParquetRow;
use super::records::{Record, Records};
use super::table::{Columns, Mapping, lacks};

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
    Table {
        delimiter: u8,
        records: Records,
        columns: Option<Columns>,
    },
    Lines(Splitter),
    /// What comes is cut already.
    Rows {
        next_row: u64,
    },
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
    /// `needed`: members that a table's header has to name.
    pub(super) fn new(
        format: Format,
        mapping: &'a Mapping,
        preparer: Preparer<'a>,
        from_line: u64,
        needed: Vec<String>,
    ) -> Self {
        let table = |delimiter| {
            let records = Records::new(delimiter, RECORD_BYTES_MAX);
            Cutter::Table { delimiter, records, columns: None }
        };
        let cutter = match format {
            Format::Csv => table(b','),
            Format::Tsv => table(b'\t'),
            Format::Jsonl => Cutter::Lines(Splitter::new(Form::Lines, RECORD_BYTES_MAX)),
            Format::Parquet => Cutter::Rows { next_row: from_line.max(1) },
        };
        Self { cutter, mapping, preparer, from_line, needed, group: Group::default() }
    }

    /// Every line before it was read.
    pub(super) fn next_line(&self) -> u64 {
        match &self.cutter {
            Cutter::Table { records, .. } => records.next_line(),
            Cutter::Lines(splitter) => splitter.line(),
            Cutter::Rows { next_row } => *next_row,
        }
    }

    /// Takes what comes next; rows come into the group.
    pub(super) fn feed(&mut self, part: Part<'_>) -> anyhow::Result<()> {
        let Self { cutter, mapping, preparer, from_line, needed, group } = self;
        let mut sink = Sink { preparer, from_line: *from_line, group };
        match (cutter, part) {
            (Cutter::Table { delimiter, records, columns }, Part::Bytes(bytes)) => {
                let mut failed = None;
                records.feed(bytes, &mut |record| {
                    if failed.is_none() {
                        failed = take_record(record, *delimiter, columns, mapping, needed, &mut sink).err();
                    }
                });
                failed.map_or(Ok(()), Err)
            }
            (Cutter::Lines(splitter), Part::Bytes(bytes)) => {
                splitter.feed(bytes, &mut |piece| sink.line(piece, mapping))?;
                Ok(())
            }
            (Cutter::Rows { next_row }, Part::Rows(rows)) => {
                for ParquetRow { row, object } in rows {
                    sink.object(row, object);
                    *next_row = row + 1;
                }
                Ok(())
            }
            _ => anyhow::bail!("the input is of another format than its reader"),
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
            Cutter::Rows { next_row } => next_row,
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
        if let Some(missing) = needed.iter().find(|needed| found.members().all(|member| member != *needed)) {
            return Err(lacks(missing, found.members()));
        }
        *columns = Some(found);
        return Ok(());
    };
    match record.raw.map(|raw| columns.object(raw)) {
        None => sink.take(Piece { line: record.line, raw: None, alone: false }),
        Some(object) => sink.object(record.line, object),
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

    fn object(&mut self, line: u64, object: Result<Vec<u8>, RowProblem>) {
        match object {
            Ok(object) => self.take(Piece { line, raw: Some(&object), alone: false }),
            Err(problem) => self.refuse(line, problem),
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
