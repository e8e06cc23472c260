//! The way of answers back to the HTTP threads.
//!
//! Waking a task of another thread's runtime is a system call each time, and a batch answers dozens. So a writer leaves
//! the answers for a thread in its [`Mailbox`] and rings once; that thread then wakes its own requests, for nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::Outcome;

/// Where a request waits for its outcome.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Of the thread that the request belongs to.
    mailbox: Arc<Mailbox>,
    waiting: oneshot::Sender<Outcome>,
}

impl Reply {
    /// A reply by way of `mailbox`, and what to wait for. Dropped unanswered, it is heard of at once.
    pub(crate) fn by(mailbox: &Arc<Mailbox>) -> (Self, oneshot::Receiver<Outcome>) {
        let (waiting, outcome) = oneshot::channel();
        (Self { mailbox: Arc::clone(mailbox), waiting }, outcome)
    }
}

/// The answers for the requests of one thread that it has not seen yet.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    letters: Mutex<Vec<(oneshot::Sender<Outcome>, Outcome)>>,
    rung: Notify,
}

impl Mailbox {
    /// Hands on what comes in, on the thread it is polled by, for as long as it is polled.
    pub(crate) async fn hand_on(self: Arc<Self>) {
        let mut letters = Vec::new();
        loop {
            self.rung.notified().await;
            std::mem::swap(&mut *self.lock(), &mut letters);
            for (waiting, outcome) in letters.drain(..) {
                // Nobody may be waiting any more; what was committed stays committed.
                let _disconnected = waiting.send(outcome);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(oneshot::Sender<Outcome>, Outcome)>> {
        // The letters are whole at every point where a panic could happen.
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends `answers`, and rings once at each mailbox among them.
pub(crate) fn send_all(answers: impl IntoIterator<Item = (Reply, Outcome)>) {
    let mut rung: Vec<Arc<Mailbox>> = Vec::new();
    for (Reply { mailbox, waiting }, outcome) in answers {
        mailbox.lock().push((waiting, outcome));
        if !rung.iter().any(|known| Arc::ptr_eq(known, &mailbox)) {
            rung.push(mailbox);
        }
    }
    for mailbox in rung {
        mailbox.rung.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everyone_gets_an_answer_of_their_own() {
        let mailboxes = [Arc::new(Mailbox::default()), Arc::new(Mailbox::default())];
        for mailbox in &mailboxes {
            tokio::spawn(Arc::clone(mailbox).hand_on());
        }
        for _ in 0..3 {
            let ids: Vec<_> = (0..100).map(|_| common::ids::CallbackId::new()).collect();
            let (replies, outcomes): (Vec<_>, Vec<_>) = mailboxes.iter().cycle().map(Reply::by).take(ids.len()).unzip();
            let at = time::OffsetDateTime::UNIX_EPOCH;
            send_all(replies.into_iter().zip(ids.iter().map(|id| Outcome::Accepted { id: *id, at })));
            for (outcome, id) in outcomes.into_iter().zip(ids) {
                assert_eq!(outcome.await, Ok(Outcome::Accepted { id, at }));
            }
        }
    }

    #[tokio::test]
    async fn who_has_gone_keeps_nobody_waiting() {
        let mailbox = Arc::new(Mailbox::default());
        tokio::spawn(Arc::clone(&mailbox).hand_on());
        let (gone, outcome) = Reply::by(&mailbox);
        drop(outcome);
        let (here, outcome) = Reply::by(&mailbox);
        send_all([(gone, Outcome::Unavailable), (here, Outcome::Present)]);
        assert_eq!(outcome.await, Ok(Outcome::Present));
        let (dropped, outcome) = Reply::by(&mailbox);
        drop(dropped);
        assert!(outcome.await.is_err());
    }
}
