//! Named points at which a test lets a process die: between two steps that a crash must be able to part.
//!
//! Without the feature `crash-points`, which `e2e` alone asks for, a point is an empty function: release builds contain
//! nothing of this (ADR 21). With it, `CLAYGATE_TEST_CRASH_AT=after-send:3` ends the process at its third passage of
//! that point, at once, as `kill -9` does: nothing is unwound, flushed or told.

/// The points, in the order of a callback's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A callback is proven and read, and nothing is kept of it yet.
    AfterVerify,
    /// Callbacks are committed, and nobody was answered.
    AfterCommit,
    /// Callbacks are in the synced spool, and nobody was answered.
    AfterSpool,
    /// Callbacks of the spool are committed, and still in the spool.
    WhileDraining,
    /// The broker has confirmed messages, and their outbox entries are still there.
    AfterPublish,
    /// Messages were received, and nothing was done with them.
    AfterClaim,
    /// Callbacks are routed, and their messages are not acknowledged; nothing was sent.
    AfterRoute,
    /// Deliveries are leased, and nothing was sent.
    AfterLease,
    /// A row is counted, and was not sent.
    AfterCount,
    /// A destination has answered, and nothing is written of it.
    AfterSend,
    /// Outcomes are written, and nobody was told.
    AfterRecord,
    /// The worker was told to stop, and attempts are under way.
    WhileStopping,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::AfterVerify,
        Self::AfterCommit,
        Self::AfterSpool,
        Self::WhileDraining,
        Self::AfterPublish,
        Self::AfterClaim,
        Self::AfterRoute,
        Self::AfterLease,
        Self::AfterCount,
        Self::AfterSend,
        Self::AfterRecord,
        Self::WhileStopping,
    ];

    /// Its name in the variable.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AfterVerify => "after-verify",
            Self::AfterCommit => "after-commit",
            Self::AfterSpool => "after-spool",
            Self::WhileDraining => "while-draining",
            Self::AfterPublish => "after-publish",
            Self::AfterClaim => "after-claim",
            Self::AfterRoute => "after-route",
            Self::AfterLease => "after-lease",
            Self::AfterCount => "after-count",
            Self::AfterSend => "after-send",
            Self::AfterRecord => "after-record",
            Self::WhileStopping => "while-stopping",
        }
    }
}

/// Passes `point`. The process ends here if it was told to.
#[inline(always)]
pub fn point(point: Point) {
    #[cfg(feature = "crash-points")]
    armed::pass(point);
    #[cfg(not(feature = "crash-points"))]
    let _ = point;
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Point;

    /// A point's name, and the number of the passage that ends the process.
    const VARIABLE: &str = "CLAYGATE_TEST_CRASH_AT";

    struct Armed {
        at: String,
        passages_left: AtomicU32,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| read(&std::env::var(VARIABLE).ok()?));

    fn read(text: &str) -> Option<Armed> {
        let (at, passages) = text.split_once(':').unwrap_or((text, "1"));
        Some(Armed { at: at.to_owned(), passages_left: AtomicU32::new(passages.parse().ok()?) })
    }

    pub(super) fn pass(point: Point) {
        let Some(armed) = ARMED.as_ref().filter(|armed| armed.at == point.as_str()) else { return };
        if armed.passages_left.fetch_sub(1, Ordering::SeqCst) == 1 {
            std::process::abort();
        }
    }
}
