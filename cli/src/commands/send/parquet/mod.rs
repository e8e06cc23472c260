//! The rows of a Parquet file, as objects.
//!
//! The end of the file describes it: columns, row groups, how many rows there are. What of it cannot be read is said before a
//! row is stored. Then a thread of its own reads one row group after the other, of each column a page at a time, and hands
//! on few rows at a time: memory depends on neither the file nor a row group.

mod shape;
#[cfg(test)]
mod tests;
mod value;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::reader::TreeBuilder;
use ::parquet::schema::types::{SchemaDescriptor, Type, TypePtr};
use anyhow::{Context, anyhow, bail, ensure};
use common::rows::prepare::RowProblem;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use self::shape::Shape;
use super::table::{Mapping, lacks, members};

/// Rows of one part, and bytes at which it is full earlier.
const PART_ROWS_MAX: usize = 250;
const PART_BYTES_MAX: usize = 256 << 10;
/// Parts that wait to be stored.
const PARTS_MAX: usize = 2;
const MAGIC: &[u8; 4] = b"PAR1";
/// Stands for [`MAGIC`] where the description is encrypted.
const MAGIC_ENCRYPTED: &[u8; 4] = b"PARE";

/// One row.
#[derive(Debug)]
pub(super) struct ParquetRow {
    /// Its place in the file, from 1.
    pub(super) row: u64,
    /// The object that it becomes.
    pub(super) object: Result<Vec<u8>, RowProblem>,
}

type Parts = mpsc::Sender<Vec<ParquetRow>>;

/// A file whose description was read.
pub(super) struct Parquet {
    rows: u64,
    members: Vec<String>,
    state: State,
}

enum State {
    Opened(Opened),
    Reading { parts: mpsc::Receiver<Vec<ParquetRow>>, thread: JoinHandle<anyhow::Result<()>> },
    Ended,
}

/// What its thread reads.
struct Opened {
    file: SerializedFileReader<File>,
    /// The columns that are sent, and what each becomes.
    schema: Arc<SchemaDescriptor>,
    columns: Vec<Column>,
}

struct Column {
    member: String,
    shape: Shape,
}

impl Parquet {
    /// Reads the description.
    pub(super) async fn open(file: File, mapping: &Mapping) -> anyhow::Result<Self> {
        let mapping = mapping.clone();
        spawn_blocking(move || Self::describe(file, &mapping)).await.unwrap_or_else(|error| Err(broken(error)))
    }

    fn describe(file: File, mapping: &Mapping) -> anyhow::Result<Self> {
        check_magic(&file)?;
        let file = SerializedFileReader::new(file).map_err(|error| damaged("its description", error))?;
        let metadata = file.metadata();
        let root = metadata.file_metadata().schema_descr().root_schema();
        let names: Vec<String> = root.get_fields().iter().map(|field| field.name().to_owned()).collect();
        ensure!(!names.is_empty(), "it has no columns");
        ensure!(
            mapping.only || !names.contains(&String::new()),
            "one of its columns has no name: choose others by --only"
        );
        let mut sent: Vec<TypePtr> = Vec::new();
        let mut columns = Vec::new();
        for (field, member) in root.get_fields().iter().zip(members(&names, mapping)?) {
            let Some(member) = member else { continue };
            let shape = Shape::of(field).map_err(|what| {
                anyhow!("the column \"{}\" holds {what}: name those that are sent by --map and --only", field.name())
            })?;
            columns.push(Column { member, shape });
            sent.push(Arc::clone(field));
        }
        check_compression(metadata, &sent)?;
        let rows = rows_of(metadata)?.iter().sum();
        let schema = Type::group_type_builder(root.name()).with_fields(sent).build();
        let schema = Arc::new(SchemaDescriptor::new(Arc::new(schema.map_err(|error| damaged("its schema", error))?)));
        let members = columns.iter().map(|column| column.member.clone()).collect();
        Ok(Self { rows, members, state: State::Opened(Opened { file, schema, columns }) })
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Starts the thread, at the row `from`; `needed`: members without which the file cannot be meant.
    pub(super) fn begin(&mut self, from: u64, needed: &[String]) -> anyhow::Result<()> {
        if let Some(missing) = needed.iter().find(|member| !self.members.contains(member)) {
            return Err(lacks(missing, self.members.iter().map(String::as_str)));
        }
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Opened(opened) => {
                let (sender, parts) = mpsc::channel(PARTS_MAX);
                let thread = spawn_blocking(move || opened.read(from, &sender));
                self.state = State::Reading { parts, thread };
            }
            begun => self.state = begun,
        }
        Ok(())
    }

    /// The next rows; none: the end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Vec<ParquetRow>> {
        let State::Reading { parts, thread } = &mut self.state else { return Ok(Vec::new()) };
        if let Some(part) = parts.recv().await {
            return Ok(part);
        }
        let ended = thread.await;
        self.state = State::Ended;
        ended.map_err(broken)??;
        Ok(Vec::new())
    }
}

impl Opened {
    /// Gives the rows from `from` on to `parts`. Whole row groups before are passed over unread.
    fn read(&self, from: u64, parts: &Parts) -> anyhow::Result<()> {
        let mut part = Part { rows: Vec::new(), bytes: 0, parts };
        let mut row = 0;
        for (at, length) in rows_of(self.file.metadata())?.into_iter().enumerate() {
            if row + length < from {
                row += length;
                continue;
            }
            let unreadable = |row: u64| move |error| damaged(&format!("row {row}"), error);
            let group = self.file.get_row_group(at).map_err(unreadable(row + 1))?;
            let records = TreeBuilder::new().as_iter(Arc::clone(&self.schema), &*group).map_err(unreadable(row + 1))?;
            for record in records {
                row += 1;
                let record = record.map_err(unreadable(row))?;
                if row < from {
                    continue;
                }
                let fields = self.columns.iter().zip(record.get_column_iter().map(|(_, field)| field));
                let object =
                    value::object(fields.map(|(column, field)| (column.member.as_str(), &column.shape, field)));
                if !part.push(ParquetRow { row, object }) {
                    return Ok(());
                }
            }
        }
        part.hand_on();
        Ok(())
    }
}

/// Rows that are handed on together.
struct Part<'a> {
    rows: Vec<ParquetRow>,
    bytes: usize,
    parts: &'a Parts,
}

impl Part<'_> {
    /// False: nobody wants more.
    fn push(&mut self, row: ParquetRow) -> bool {
        self.bytes += row.object.as_ref().map_or(0, Vec::len);
        self.rows.push(row);
        self.rows.len() < PART_ROWS_MAX && self.bytes < PART_BYTES_MAX || self.hand_on()
    }

    fn hand_on(&mut self) -> bool {
        self.bytes = 0;
        // An empty part would be the end.
        self.rows.is_empty() || self.parts.blocking_send(std::mem::take(&mut self.rows)).is_ok()
    }
}

fn check_magic(file: &File) -> anyhow::Result<()> {
    let bytes = file.metadata()?.len();
    let mut magic = [0; 4];
    // Such a mark at either end, and the length of the description before the last one.
    if bytes >= 12 {
        file.read_exact_at(&mut magic, bytes - 4)?;
    }
    match &magic {
        MAGIC => Ok(()),
        MAGIC_ENCRYPTED => bail!("it is encrypted, and claygate has no key: send a copy that is not"),
        _ => bail!("it is no Parquet file, or its end is missing"),
    }
}

/// Says which column cannot be unpacked, before any row is stored.
fn check_compression(metadata: &ParquetMetaData, sent: &[TypePtr]) -> anyhow::Result<()> {
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let known = matches!(
            column.compression(),
            Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) | Compression::ZSTD(_)
        );
        let path = column.column_path();
        if !known && sent.iter().any(|field| path.parts().first().is_some_and(|first| first == field.name())) {
            bail!(
                "the column \"{}\" is compressed with {:?}; snappy, gzip, zstd and none can be read",
                path.string(),
                column.compression_codec()
            );
        }
    }
    Ok(())
}

/// How many rows each row group has.
fn rows_of(metadata: &ParquetMetaData) -> anyhow::Result<Vec<u64>> {
    let groups = metadata.row_groups().iter();
    let rows: Result<Vec<u64>, _> = groups.map(|group| u64::try_from(group.num_rows())).collect();
    rows.context("it is damaged: a row group has less than no rows")
}

/// The reader's own words, unless they repeat what stands in the file.
fn damaged(what: &str, error: ParquetError) -> anyhow::Error {
    match error {
        ParquetError::General(said) if said.starts_with("Error reading BYTE_ARRAY as String") => {
            anyhow!("{what} cannot be read: a text is not UTF-8")
        }
        error => {
            anyhow::Error::new(error).context(format!("{what} cannot be read: the file is damaged, or encrypted there"))
        }
    }
}

/// The reader gave up where it did not expect what it found.
fn broken(_: JoinError) -> anyhow::Error {
    anyhow!("it cannot be read: the file is damaged")
}
