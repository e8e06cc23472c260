//! Dockerfile and .dockerignore, as far as this repository uses them.

use std::path::{Path, PathBuf};

use super::repository;

/// One `FROM` and what follows it.
pub(super) struct Stage {
    pub(super) base: String,
    pub(super) name: Option<String>,
    /// Instruction and arguments, continued lines joined.
    pub(super) steps: Vec<(String, String)>,
}

/// The Dockerfile's stages, in order.
pub(super) fn read_stages() -> Vec<Stage> {
    let text = std::fs::read_to_string(repository().join("Dockerfile")).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let mut stages: Vec<Stage> = Vec::new();
    for line in joined.lines().filter(|line| !line.trim().is_empty()) {
        let (instruction, arguments) = line.split_once(' ').unwrap();
        if instruction == "FROM" {
            let (base, name) = match arguments.split_once(" AS ") {
                Some((base, name)) => (base, Some(name.to_owned())),
                None => (arguments, None),
            };
            stages.push(Stage { base: base.to_owned(), name, steps: Vec::new() });
        } else {
            let steps = &mut stages.last_mut().unwrap().steps;
            steps.push((instruction.to_owned(), arguments.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
    }
    stages
}

impl Stage {
    /// The arguments of every `instruction`.
    pub(super) fn all(&self, instruction: &str) -> Vec<&str> {
        self.steps.iter().filter(|(name, _)| name == instruction).map(|(_, arguments)| &**arguments).collect()
    }

    /// The arguments of the only `instruction`.
    pub(super) fn only(&self, instruction: &str) -> &str {
        let found = self.all(instruction);
        assert_eq!(found.len(), 1, "{instruction}: {found:?}");
        found[0]
    }
}

/// Every file that a build sees, relative to the repository.
pub(super) fn context() -> Vec<PathBuf> {
    let patterns = std::fs::read_to_string(repository().join(".dockerignore")).unwrap();
    let patterns: Vec<&str> =
        patterns.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).collect();
    let mut found = Vec::new();
    walk(Path::new(""), &patterns, &mut found);
    found
}

fn walk(folder: &Path, patterns: &[&str], found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(repository().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = folder.join(entry.file_name());
        if patterns.iter().any(|pattern| matches(pattern, &path)) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            walk(&path, patterns, found);
        } else {
            found.push(path);
        }
    }
}

/// Patterns are a path, or one with `**/` before it for every folder; `*` stands for the beginning of a name.
fn matches(pattern: &str, path: &Path) -> bool {
    let name = path.file_name().unwrap().to_str().unwrap();
    let (anywhere, pattern) = match pattern.strip_prefix("**/") {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    assert!(!pattern.contains('/') && !pattern.starts_with('!'), "{pattern} is not understood here");
    let is_here = anywhere || path.components().count() == 1;
    is_here && pattern.strip_prefix('*').map_or(name == pattern, |end| name.ends_with(end))
}
