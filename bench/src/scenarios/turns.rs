//! Turns: the sides of a comparison run at the same time, and only the one whose turn it is does anything.
//!
//! A machine's minutes differ by more than what is to be compared. Measured one after the other, two sides of a hundred
//! seconds each would tell which had the better minute; in turns of a few seconds both have the same ones.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

/// The right to use the machine, or the wait for it.
pub(super) struct Turn {
    /// Hands itself to those who wait in the order of their coming.
    machine: Arc<Mutex<()>>,
    held: Option<OwnedMutexGuard<()>>,
}

impl Turn {
    /// For each of `sides` one, and nobody has it yet.
    pub(super) fn among(sides: usize) -> Vec<Self> {
        let machine = Arc::new(Mutex::new(()));
        (0..sides).map(|_| Self { machine: Arc::clone(&machine), held: None }).collect()
    }

    /// That of somebody who shares the machine with nobody.
    pub(super) fn alone() -> Self {
        Self { machine: Arc::default(), held: None }
    }

    /// Lets everybody go first who waits, then takes it (again).
    pub(super) async fn pass(&mut self) {
        self.held = None;
        self.held = Some(Arc::clone(&self.machine).lock_owned().await);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn sides_alternate_and_one_that_ends_holds_nobody_up() {
        let order = RefCell::new(Vec::new());
        let sides = Turn::among(2).into_iter().zip([("a", 3), ("b", 5)]).map(|(mut turn, (name, pieces))| {
            let order = &order;
            async move {
                for _ in 0..pieces {
                    turn.pass().await;
                    order.borrow_mut().push(name);
                    tokio::task::yield_now().await;
                }
            }
        });
        join_all(sides).await;
        assert_eq!(order.into_inner(), ["a", "b", "a", "b", "a", "b", "b", "b"]);
    }
}
