//! Keeps the beginnings of something apart, so that what arrives meanwhile shares the next one.
//!
//! A statement costs the same before its first row, whatever it carries, and a commit waits for the disk once. Under load
//! a few milliseconds of patience make one of several; what comes alone does not wait at all.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Turns that are at least so far apart. Shared by whoever takes them.
#[derive(Debug)]
pub struct Spacing {
    every: Duration,
    next: Mutex<Option<Instant>>,
}

impl Spacing {
    /// Turns `every` so often at most. The first comes at once.
    pub const fn new(every: Duration) -> Self {
        Self { every, next: Mutex::new(None) }
    }

    /// Waits for the next turn: not at all when the last one was long enough ago.
    ///
    /// # Cancel safety
    /// A turn that nobody waits for any more is lost; the one after it is not sooner for that.
    pub async fn turn(&self) {
        let now = Instant::now();
        let at = {
            // An instant is whole wherever a panic could happen.
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let at = next.map_or(now, |next| next.max(now));
            *next = Some(at + self.every);
            at
        };
        if at > now {
            sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const EVERY: Duration = Duration::from_millis(10);

    #[tokio::test]
    async fn turns_are_apart_and_what_comes_alone_does_not_wait() {
        let (spacing, start) = (Spacing::new(EVERY), Instant::now());
        let turns = (0..4).map(async |_| {
            spacing.turn().await;
            start.elapsed()
        });
        let taken = futures_util::future::join_all(turns).await;
        assert!((0..4).zip(&taken).all(|(n, taken)| *taken >= n * EVERY), "{taken:?}");
        tokio::time::sleep(EVERY).await;
        assert_eq!(spacing.turn().now_or_never(), Some(()));
        assert_eq!(spacing.turn().now_or_never(), None);
    }
}
