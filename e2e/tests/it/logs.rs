//! What a process writes: a JSON object per line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Twice what any process of these tests has to say within a second: at its start, or when it loses what it leans on.
const LINES_PER_SECOND_MAX: usize = 20;

/// The log of one process, from its start on.
pub(crate) struct Log {
    path: PathBuf,
    /// What predecessors of the same name wrote lies before.
    from: usize,
}

impl Log {
    /// The log of a process that is about to append to `path`.
    pub(crate) fn new(path: PathBuf) -> Self {
        let from = std::fs::read(&path).map_or(0, |text| text.len());
        Self { path, from }
    }

    /// The complete lines so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = std::fs::read(&self.path).unwrap_or_default();
        read(text.get(self.from..).unwrap_or_default())
    }

    /// The first line with this message.
    pub(crate) fn find(&self, message: &str) -> Option<Value> {
        self.lines().into_iter().find(|line| line["message"] == message)
    }

    /// How many lines have this message.
    pub(crate) fn count(&self, message: &str) -> usize {
        self.lines().iter().filter(|line| line["message"] == message).count()
    }

    /// The last lines, for a test that fails.
    pub(crate) fn tail(&self) -> String {
        let lines = self.lines();
        let last = lines.iter().rev().take(10).rev();
        last.map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}

fn read(text: &[u8]) -> Vec<Value> {
    let complete = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let lines = text[..complete].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    // What is no JSON (a panic's text) is kept as a line.
    lines.map(|line| serde_json::from_slice(line).unwrap_or_else(|_| String::from_utf8_lossy(line).into())).collect()
}

/// Fails if more than [`LINES_PER_SECOND_MAX`] lines of the file are of one second.
pub(crate) fn assert_bounded(path: &Path) {
    let mut by_second: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in read(&std::fs::read(path).unwrap()) {
        let second = line["timestamp"].as_str().and_then(|time| time.get(..19)).unwrap_or("no time").to_owned();
        by_second.entry(second).or_default().push(line);
    }
    let loudest = by_second.into_iter().max_by_key(|(_, lines)| lines.len());
    if let Some((second, lines)) = loudest.filter(|(_, lines)| lines.len() > LINES_PER_SECOND_MAX) {
        let mut messages: BTreeMap<String, usize> = BTreeMap::new();
        for line in &lines {
            *messages.entry(line["message"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        panic!("{} wrote {} lines at {second}: {messages:?}", path.display(), lines.len());
    }
}
