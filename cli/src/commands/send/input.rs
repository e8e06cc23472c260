//! The file or stream that is sent: its format, its digest, what is read of it.

use std::io::SeekFrom;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt};

use super::parquet::{Parquet, ParquetRow};
use super::table::Mapping;

/// Bytes of one read.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes that are given at a time: a group of rows is not much larger than its bounds.
const PART_BYTES: usize = 16 << 10;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How rows lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Fields between commas; the first record names the columns.
    Csv,
    /// The same between tabs.
    Tsv,
    /// One JSON object per line.
    #[value(alias = "ndjson")]
    Jsonl,
    /// Apache Parquet: columns with a name and a type.
    Parquet,
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }

    /// What a place in the file is called.
    pub(super) fn place(self) -> &'static str {
        match self {
            Self::Csv | Self::Tsv | Self::Jsonl => "line",
            Self::Parquet => "row",
        }
    }
}

/// How long an input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Bytes(u64),
    Rows(u64),
}

/// What an input gives at a time.
pub(super) enum Part<'a> {
    /// Text; empty: the end.
    Bytes(&'a [u8]),
    /// Rows; none: the end.
    Rows(Vec<ParquetRow>),
}

impl Part<'_> {
    /// In the unit of [`Input::length`].
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Rows(rows) => rows.len() as u64,
        }
    }

    /// The input has ended.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

enum Content {
    Text(Text),
    Parquet(Parquet),
}

/// An open file, or standard input.
pub(super) struct Input {
    content: Content,
    pub(super) name: String,
    pub(super) format: Format,
    /// Of its content and of how it is read; `None`: standard input, which cannot be read twice.
    pub(super) digest: Option<[u8; 32]>,
    /// `None`: nobody knows.
    pub(super) length: Option<Length>,
}

impl Input {
    /// Opens `path` (`-`: standard input).
    pub(super) async fn open(path: &PathBuf, format: Option<Format>, mapping: &Mapping) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            return Self::of_stdin(format);
        }
        let Some(format) = format.or_else(|| Format::of(path)) else {
            bail!(
                "{} is neither .csv, .tsv, .jsonl, .ndjson nor .parquet: say how to read it by --format",
                path.display()
            );
        };
        let reading = || format!("reading {}", path.display());
        let mut file = File::open(path).await.with_context(reading)?;
        if !file.metadata().await.with_context(reading)?.is_file() {
            bail!("{} is no regular file: give a stream to standard input, as `-`", path.display());
        }
        let digest = digest(&mut file, format, mapping).await.with_context(reading)?;
        let bytes = file.seek(SeekFrom::Start(0)).await.and(file.metadata().await).with_context(reading)?.len();
        let (content, length) = match format {
            Format::Parquet => {
                let parquet = Parquet::open(file.into_std().await, mapping).await.with_context(reading)?;
                let length = Length::Rows(parquet.rows());
                (Content::Parquet(parquet), length)
            }
            Format::Csv | Format::Tsv | Format::Jsonl => {
                (Content::Text(Text::new(Box::new(file))), Length::Bytes(bytes))
            }
        };
        let name = path.file_name().map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned());
        Ok(Self { content, name, format, digest: Some(digest), length: Some(length) })
    }

    fn of_stdin(format: Option<Format>) -> anyhow::Result<Self> {
        let Some(format) = format else { bail!("say how standard input is to be read: --format csv, tsv or jsonl") };
        if format == Format::Parquet {
            bail!("Parquet is read from its end, which a stream does not have yet: write it to a file, and send that");
        }
        let stdin = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
        let content = Content::Text(Text::new(Box::new(File::from_std(stdin))));
        Ok(Self { content, name: "-".to_owned(), format, digest: None, length: None })
    }

    /// Says from which line or row on it is needed; `needed`: members without which it cannot be meant. What is text is
    /// given from its start all the same, since its lines have to be counted and its header be read.
    pub(super) fn begin(&mut self, from: u64, needed: &[String]) -> anyhow::Result<()> {
        match &mut self.content {
            Content::Text(_) => Ok(()),
            Content::Parquet(parquet) => parquet.begin(from, needed),
        }
    }

    /// The next part; an empty one: the end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Part<'_>> {
        let name = &self.name;
        let reading = || format!("reading {name}");
        match &mut self.content {
            Content::Text(text) => text.next().await.map(Part::Bytes).with_context(reading),
            Content::Parquet(parquet) => parquet.next().await.map(Part::Rows).with_context(reading),
        }
    }
}

/// Bytes as they come.
struct Text {
    bytes: Box<dyn AsyncRead + Unpin + Send>,
    buffer: Vec<u8>,
    /// What of the buffer was given, and where its content ends.
    given: usize,
    filled: usize,
    at_start: bool,
}

impl Text {
    fn new(bytes: Box<dyn AsyncRead + Unpin + Send>) -> Self {
        Self { bytes, buffer: vec![0; CHUNK_BYTES], given: 0, filled: 0, at_start: true }
    }

    /// The next bytes, without a byte order mark at the start; empty: the end.
    async fn next(&mut self) -> std::io::Result<&[u8]> {
        if self.given == self.filled {
            self.fill().await?;
        }
        let start = self.given;
        self.given = self.filled.min(start + PART_BYTES);
        Ok(self.buffer.get(start..self.given).unwrap_or_default())
    }

    async fn fill(&mut self) -> std::io::Result<()> {
        (self.given, self.filled) = (0, 0);
        // Whole, so that a mark is seen as one.
        while self.filled < self.buffer.len() {
            let free = self.buffer.get_mut(self.filled..).unwrap_or_default();
            match self.bytes.read(free).await? {
                0 => break,
                n => self.filled += n,
            }
        }
        if std::mem::replace(&mut self.at_start, false) && self.buffer.starts_with(BYTE_ORDER_MARK) {
            self.given = BYTE_ORDER_MARK.len();
        }
        Ok(())
    }
}

/// Of what the file holds and of how it is read: another mapping makes other rows.
async fn digest(file: &mut File, format: Format, mapping: &Mapping) -> std::io::Result<[u8; 32]> {
    let how = serde_json::json!([format!("{format:?}"), mapping.renamed, mapping.only]).to_string();
    let mut hasher = Sha256::new();
    hasher.update(b"claygate file 1\0");
    hasher.update((how.len() as u64).to_be_bytes());
    hasher.update(how);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut buffer).await? {
            0 => return Ok(hasher.finalize().into()),
            n => hasher.update(buffer.get(..n).unwrap_or_default()),
        }
    }
}

/// The digest of the file sent for the `again`th time after the first.
pub(super) fn again(digest: &[u8; 32], again: u32) -> [u8; 32] {
    if again == 0 {
        return *digest;
    }
    Sha256::new()
        .chain_update(b"claygate again\0")
        .chain_update(digest)
        .chain_update(again.to_be_bytes())
        .finalize()
        .into()
}
