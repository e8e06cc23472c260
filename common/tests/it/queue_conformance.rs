//! What every queue back-end has to do, whatever carries the messages.
//!
//! A back-end gives a [`Rig`] and gets every case by `queue_conformance!(rig)`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use common::queue::{BATCH_MAX, Consumer, Message, QueueName};
use time::OffsetDateTime;
use uuid::Uuid;

/// One queue of a back-end, private to the test.
#[async_trait::async_trait]
pub(crate) trait Rig: Send + Sync {
    /// Commits work that is due `delay` from now.
    async fn push(&self, queue: &QueueName, refs: &[Uuid], delay: Duration);
    /// A consumer of its own connection or session.
    async fn consumer(&self, queue: &QueueName) -> Box<dyn Consumer>;
    /// Makes everything that `consumer` holds without acknowledgement come again, as if its process had been killed.
    async fn kill(&self, consumer: Box<dyn Consumer>);
    /// Entries and messages that wait or are held.
    async fn backlog(&self) -> usize;
}

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn ids(n: usize) -> Vec<Uuid> {
    (0..n).map(|_| Uuid::now_v7()).collect()
}

/// Receives until something comes.
pub(crate) async fn next(consumer: &mut dyn Consumer, want: usize) -> Vec<Message> {
    let receiving = async {
        loop {
            let messages = consumer.receive(want).await.unwrap();
            if !messages.is_empty() {
                return messages;
            }
        }
    };
    tokio::time::timeout(LIMIT, receiving).await.expect("a message within the limit")
}

async fn ack_all(consumer: &mut dyn Consumer, messages: &[Message]) -> usize {
    let receipts: Vec<_> = messages.iter().map(|message| message.receipt).collect();
    consumer.ack(&receipts).await.unwrap()
}

fn flat(messages: &[Message]) -> Vec<Uuid> {
    messages.iter().flat_map(|message| message.refs.clone()).collect()
}

pub(crate) async fn what_was_committed_together_travels_together(rig: &dyn Rig) {
    let queue = QueueName::callbacks();
    let refs = ids(BATCH_MAX);
    rig.push(&queue, &refs, Duration::ZERO).await;
    let mut consumer = rig.consumer(&queue).await;
    let messages = next(&mut *consumer, 1).await;
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].refs, refs);
    assert!(!messages[0].redelivered);
    assert_eq!(ack_all(&mut *consumer, &messages).await, 1);
    assert_eq!(rig.backlog().await, 0);
}

pub(crate) async fn a_large_commit_is_cut_into_bounded_messages(rig: &dyn Rig) {
    let queue = QueueName::callbacks();
    let refs = ids(2 * BATCH_MAX + 1);
    rig.push(&queue, &refs, Duration::ZERO).await;
    let mut consumer = rig.consumer(&queue).await;
    let mut seen = Vec::new();
    while seen.len() < refs.len() {
        let messages = next(&mut *consumer, BATCH_MAX).await;
        assert!(messages.iter().all(|message| message.refs.len() <= BATCH_MAX));
        ack_all(&mut *consumer, &messages).await;
        seen.extend(flat(&messages));
    }
    assert_eq!(seen.iter().collect::<BTreeSet<_>>(), refs.iter().collect());
    assert_eq!(rig.backlog().await, 0);
}

pub(crate) async fn earlier_due_comes_first(rig: &dyn Rig) {
    let queue = QueueName::deliver("order");
    let refs = ids(3);
    // Pushed in the wrong order. When each is due does not depend on how long pushing the others takes.
    let due = [600, 700, 800].map(|millis| Instant::now() + Duration::from_millis(millis));
    for (place, due) in due.into_iter().enumerate().rev() {
        rig.push(&queue, &refs[place..=place], due - Instant::now()).await;
    }
    let mut consumer = rig.consumer(&queue).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let messages = next(&mut *consumer, 1).await;
        ack_all(&mut *consumer, &messages).await;
        seen.extend(flat(&messages));
    }
    assert_eq!(seen, refs);
}

pub(crate) async fn nothing_comes_before_it_is_due(rig: &dyn Rig) {
    let queue = QueueName::deliver("delay");
    let refs = ids(1);
    let pushed_at = OffsetDateTime::now_utc();
    rig.push(&queue, &refs, Duration::from_millis(700)).await;
    let mut consumer = rig.consumer(&queue).await;
    let messages = next(&mut *consumer, 1).await;
    assert!(OffsetDateTime::now_utc() - pushed_at >= Duration::from_millis(700));
    assert_eq!(flat(&messages), refs);
    ack_all(&mut *consumer, &messages).await;
}

pub(crate) async fn a_message_belongs_to_one_consumer_at_a_time(rig: &dyn Rig) {
    let queue = QueueName::callbacks();
    for _ in 0..40 {
        rig.push(&queue, &ids(5), Duration::ZERO).await;
    }
    let mut consumers = Vec::new();
    for _ in 0..4 {
        consumers.push(rig.consumer(&queue).await);
    }
    let mut seen: BTreeMap<Uuid, usize> = BTreeMap::new();
    let mut held = Vec::new();
    while seen.len() < 200 {
        for (at, consumer) in consumers.iter_mut().enumerate() {
            if seen.len() < 200 {
                let messages = consumer.receive(10).await.unwrap();
                flat(&messages).into_iter().for_each(|id| *seen.entry(id).or_default() += 1);
                held.push((at, messages));
            }
        }
    }
    assert!(seen.values().all(|times| *times == 1), "an id was given out twice: {seen:?}");
    for (at, messages) in held {
        ack_all(&mut *consumers[at], &messages).await;
    }
    assert_eq!(rig.backlog().await, 0);
}

pub(crate) async fn what_a_dead_consumer_held_comes_again_and_says_so(rig: &dyn Rig) {
    let queue = QueueName::callbacks();
    let refs = ids(7);
    rig.push(&queue, &refs, Duration::ZERO).await;
    let mut first = rig.consumer(&queue).await;
    let held = next(&mut *first, 64).await;
    assert_eq!(flat(&held), refs);
    rig.kill(first).await;

    let mut second = rig.consumer(&queue).await;
    let again = next(&mut *second, 64).await;
    assert_eq!(flat(&again), refs);
    assert!(again[0].redelivered);
    assert_eq!(ack_all(&mut *second, &again).await, 1);
    assert_eq!(rig.backlog().await, 0);
}

pub(crate) async fn a_poison_message_is_marked_every_time(rig: &dyn Rig) {
    let queue = QueueName::callbacks();
    rig.push(&queue, &ids(1), Duration::ZERO).await;
    for round in 0..6 {
        let mut consumer = rig.consumer(&queue).await;
        let messages = next(&mut *consumer, 1).await;
        assert_eq!(messages[0].redelivered, round > 0, "round {round}");
        rig.kill(consumer).await;
    }
}

pub(crate) async fn a_released_message_comes_again_at_once(rig: &dyn Rig) {
    let queue = QueueName::callbacks();
    let refs = ids(2);
    rig.push(&queue, &refs, Duration::ZERO).await;
    let mut consumer = rig.consumer(&queue).await;
    let messages = next(&mut *consumer, 2).await;
    consumer.release(&[messages[0].receipt]).await.unwrap();
    let again = next(&mut *consumer, 2).await;
    assert_eq!(flat(&again), refs);
    assert!(again[0].redelivered);
    ack_all(&mut *consumer, &again).await;
}

pub(crate) async fn an_ack_after_the_message_went_to_someone_else_does_nothing(rig: &dyn Rig) {
    let queue = QueueName::callbacks();
    rig.push(&queue, &ids(1), Duration::ZERO).await;
    let mut first = rig.consumer(&queue).await;
    let held = next(&mut *first, 1).await;
    first.release(&[held[0].receipt]).await.unwrap();
    let mut second = rig.consumer(&queue).await;
    let again = next(&mut *second, 1).await;

    assert_eq!(ack_all(&mut *first, &held).await, 0, "the first holder's ack came too late");
    assert_eq!(rig.backlog().await, 1);
    assert_eq!(ack_all(&mut *second, &again).await, 1);
    assert_eq!(rig.backlog().await, 0);
}

pub(crate) async fn no_more_is_taken_than_is_wanted(rig: &dyn Rig) {
    let queue = QueueName::callbacks();
    for _ in 0..50 {
        rig.push(&queue, &ids(4), Duration::ZERO).await;
    }
    let mut greedy = rig.consumer(&queue).await;
    let mut got = 0;
    for _ in 0..3 {
        let messages = next(&mut *greedy, 8).await;
        let n = flat(&messages).len();
        assert!(n < 8 + BATCH_MAX, "asked for 8, got {n}");
        got += n;
    }
    // What the first consumer did not ask for is there for others.
    let mut other = rig.consumer(&queue).await;
    while got < 200 {
        got += flat(&next(&mut *other, 64).await).len();
    }
    assert_eq!(got, 200);
}

pub(crate) async fn queues_do_not_wait_for_each_other(rig: &dyn Rig) {
    let (busy, quiet) = (QueueName::deliver("busy"), QueueName::deliver("quiet"));
    for _ in 0..100 {
        rig.push(&busy, &ids(1), Duration::ZERO).await;
    }
    let refs = ids(1);
    rig.push(&quiet, &refs, Duration::ZERO).await;
    let mut consumer = rig.consumer(&quiet).await;
    assert_eq!(flat(&next(&mut *consumer, 10).await), refs);
}

/// Writes the cases as tests of one back-end. `$rig` is an async expression that gives a fresh [`Rig`].
macro_rules! queue_conformance {
    ($rig:expr; $($case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let rig = $rig.await;
                $crate::queue_conformance::$case(&rig).await;
            }
        )+
    };
    ($rig:expr) => {
        $crate::queue_conformance::queue_conformance!(
            $rig;
            what_was_committed_together_travels_together,
            a_large_commit_is_cut_into_bounded_messages,
            earlier_due_comes_first,
            nothing_comes_before_it_is_due,
            a_message_belongs_to_one_consumer_at_a_time,
            what_a_dead_consumer_held_comes_again_and_says_so,
            a_poison_message_is_marked_every_time,
            a_released_message_comes_again_at_once,
            an_ack_after_the_message_went_to_someone_else_does_nothing,
            no_more_is_taken_than_is_wanted,
            queues_do_not_wait_for_each_other,
        );
    };
}
pub(crate) use queue_conformance;
