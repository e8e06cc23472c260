//! Readiness: what each part says of itself when `/readyz` asks.

/// What a part says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Whether it can do its work now.
    pub ready: bool,
    /// Why not, or what it is doing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What an operator should know although it works.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Verdict {
    /// It works.
    pub fn ready() -> Self {
        Self { ready: true, ..Self::default() }
    }

    /// It does not work, because of `detail`.
    pub fn not_ready(detail: impl Into<String>) -> Self {
        Self { ready: false, detail: detail.into(), ..Self::default() }
    }

    /// The same with a warning more.
    #[must_use]
    pub fn with_warning(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }
}

/// A part that `/readyz` asks. Answers from memory: a probe must not hang when the thing it watches hangs.
pub trait Probe: Send + Sync {
    /// The part's name, for example `intake`.
    fn name(&self) -> &str;
    /// What it says now.
    fn check(&self) -> Verdict;
}
