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

    /// Waits for the next turn: not at all when the last one was long enough ago. Who waits together takes turns in any order.
    ///
    /// # Cancel safety
    /// A turn is taken at its time and not before: who stops waiting costs the others nothing.
    pub async fn turn(&self) {
        while let Some(at) = self.take_or_wait_until() {
            sleep_until(at).await;
        }
    }

    fn take_or_wait_until(&self) -> Option<Instant> {
        let now = Instant::now();
        // An instant is whole wherever a panic could happen.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = *next
            && at > now
        {
            return Some(at);
        }
        *next = Some(now + self.every);
        None
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
        let last = taken.iter().max();
        assert!(last.is_some_and(|last| *last >= 3 * EVERY), "{taken:?}");
        tokio::time::sleep(EVERY).await;
        assert_eq!(spacing.turn().now_or_never(), Some(()));
        assert_eq!(spacing.turn().now_or_never(), None);
    }

    #[tokio::test]
    async fn who_stops_waiting_keeps_nobody_waiting() {
        let spacing = Spacing::new(EVERY);
        spacing.turn().await;
        for _ in 0..1000 {
            let _ = spacing.turn().now_or_never();
        }
        tokio::time::sleep(EVERY).await;
        assert_eq!(spacing.turn().now_or_never(), Some(()));
    }
}
