//! The file or stream that is sent: its format, its digest, its bytes.

use std::io::SeekFrom;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt};

use super::table::Mapping;

/// Bytes of one read.
const CHUNK_BYTES: usize = 64 << 10;
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
}

impl Format {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            _ => None,
        }
    }

    /// What stands between fields.
    pub(super) fn delimiter(self) -> Option<u8> {
        match self {
            Self::Csv => Some(b','),
            Self::Tsv => Some(b'\t'),
            Self::Jsonl => None,
        }
    }
}

/// An open file, or standard input.
pub(super) struct Input {
    bytes: Box<dyn AsyncRead + Unpin + Send>,
    buffer: Vec<u8>,
    at_start: bool,
    pub(super) name: String,
    pub(super) format: Format,
    /// Of its content and of how it is read; `None`: standard input, which cannot be read twice.
    pub(super) digest: Option<[u8; 32]>,
    /// Its length in bytes, where that is known.
    pub(super) length: Option<u64>,
}

impl Input {
    /// Opens `path` (`-`: standard input).
    pub(super) async fn open(path: &PathBuf, format: Option<Format>, mapping: &Mapping) -> anyhow::Result<Self> {
        if path.as_os_str() == "-" {
            let Some(format) = format else {
                bail!("say how standard input is to be read: --format csv, tsv or jsonl")
            };
            let stdin = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
            return Ok(Self::new(Box::new(File::from_std(stdin)), "-".to_owned(), format));
        }
        let Some(format) = format.or_else(|| Format::of(path)) else {
            bail!("{} is neither .csv, .tsv, .jsonl nor .ndjson: say how to read it by --format", path.display());
        };
        let open = async || -> std::io::Result<(File, [u8; 32], u64)> {
            let mut file = File::open(path).await?;
            let digest = digest(&mut file, format, mapping).await?;
            let length = file.stream_position().await?;
            file.seek(SeekFrom::Start(0)).await?;
            Ok((file, digest, length))
        };
        let (file, digest, length) = open().await.with_context(|| format!("reading {}", path.display()))?;
        let name = path.file_name().map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned());
        let input = Self::new(Box::new(file), name, format);
        Ok(Self { digest: Some(digest), length: Some(length), ..input })
    }

    fn new(bytes: Box<dyn AsyncRead + Unpin + Send>, name: String, format: Format) -> Self {
        Self { bytes, buffer: vec![0; CHUNK_BYTES], at_start: true, name, format, digest: None, length: None }
    }

    /// The next bytes, without a byte order mark at the start; empty: the end.
    pub(super) async fn next(&mut self) -> anyhow::Result<&[u8]> {
        let mut filled = 0;
        // Whole, so that a mark is seen as one.
        while filled < self.buffer.len() {
            let free = self.buffer.get_mut(filled..).unwrap_or_default();
            match self.bytes.read(free).await.with_context(|| format!("reading {}", self.name))? {
                0 => break,
                n => filled += n,
            }
        }
        let chunk = self.buffer.get(..filled).unwrap_or_default();
        let is_first = std::mem::replace(&mut self.at_start, false);
        Ok(if is_first { chunk.strip_prefix(BYTE_ORDER_MARK).unwrap_or(chunk) } else { chunk })
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
