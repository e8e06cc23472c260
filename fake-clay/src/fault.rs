//! Failures that a test asks for.

/// One failure in place of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub(crate) how: How,
    /// The row is taken first, and its sender cannot know.
    pub(crate) takes_row: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// No answer; the connection stays open.
    Hang,
    /// The connection is closed instead.
    Reset,
    /// This status.
    Status(u16),
}

impl Fault {
    /// No answer at all.
    pub const fn hang() -> Self {
        Self { how: How::Hang, takes_row: false }
    }

    /// The connection is closed instead of an answer.
    pub const fn reset() -> Self {
        Self { how: How::Reset, takes_row: false }
    }

    /// An answer with this status, such as 500.
    pub const fn status(status: u16) -> Self {
        Self { how: How::Status(status), takes_row: false }
    }

    /// The same, after the row was taken: what is lost is the answer.
    #[must_use]
    pub const fn after_taking(self) -> Self {
        Self { takes_row: true, ..self }
    }
}
