//! Postgres as the queue: the conformance suite, and what only this back-end can get wrong.

use std::time::Duration;

use common::db::{Database, destination_state, outbox};
use common::queue::postgres::{PostgresQueue, PostgresQueueSettings};
use common::queue::{BacklogWatch, Consumer, Doorbell, Queue, QueueName};
use common::telemetry::Probe;
use sqlx::Connection;
use testkit::postgres::TestDatabase;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::queue_conformance::{Rig, ids, next, queue_conformance};

struct PostgresRig {
    test: TestDatabase,
    database: Database,
    doorbell: Doorbell,
    queue: PostgresQueue,
}

impl PostgresRig {
    async fn new() -> Self {
        Self::with(PostgresQueueSettings::default()).await
    }

    async fn with(settings: PostgresQueueSettings) -> Self {
        let test = TestDatabase::create().await;
        let database = test.database();
        let doorbell = Doorbell::new();
        let queue = PostgresQueue::new(database.clone(), doorbell.clone(), settings);
        Self { test, database, doorbell, queue }
    }

    async fn push_unrung(&self, queue: &QueueName, refs: &[Uuid], delay: Duration) {
        let mut connection = self.database.pool().acquire().await.unwrap();
        let due_at = (!delay.is_zero()).then(|| OffsetDateTime::now_utc() + delay);
        outbox::push(&mut connection, queue, refs, due_at).await.unwrap();
    }
}

#[async_trait::async_trait]
impl Rig for PostgresRig {
    async fn push(&self, queue: &QueueName, refs: &[Uuid], delay: Duration) {
        self.push_unrung(queue, refs, delay).await;
        self.doorbell.ring(queue);
    }

    async fn consumer(&self, queue: &QueueName) -> Box<dyn Consumer> {
        self.queue.consumer(queue).await.unwrap()
    }

    /// A killed process acknowledges nothing, and its lease runs out: here at once.
    async fn kill(&self, consumer: Box<dyn Consumer>) {
        drop(consumer);
        sqlx::query("UPDATE claygate.outbox SET due_at = now() WHERE claims > 0 AND due_at > now()")
            .execute(self.database.pool())
            .await
            .unwrap();
    }

    async fn backlog(&self) -> usize {
        let n: i64 =
            sqlx::query_scalar("SELECT count(*) FROM claygate.outbox").fetch_one(self.database.pool()).await.unwrap();
        usize::try_from(n).unwrap()
    }
}

queue_conformance!(PostgresRig::new());

#[tokio::test]
async fn a_lease_that_runs_out_gives_the_message_to_others() {
    let settings = PostgresQueueSettings { lease: Duration::from_millis(200), ..Default::default() };
    let rig = PostgresRig::with(settings).await;
    let queue = QueueName::callbacks();
    let refs = ids(3);
    rig.push(&queue, &refs, Duration::ZERO).await;
    let mut stalled = rig.consumer(&queue).await;
    let held = next(&mut *stalled, 3).await;
    let mut other = rig.consumer(&queue).await;
    let again = next(&mut *other, 3).await;
    assert_eq!(again[0].refs, refs);
    assert!(again[0].redelivered);
    assert_eq!(stalled.ack(&[held[0].receipt]).await.unwrap(), 0);
    assert_eq!(other.ack(&[again[0].receipt]).await.unwrap(), 1);
}

/// A poll that nobody waits for: what comes, comes by a ring or because it is due.
const NO_POLL: PostgresQueueSettings = PostgresQueueSettings {
    lease: Duration::from_secs(30),
    poll_every: Duration::from_secs(600),
    rescan_every: Duration::from_secs(5),
};

#[tokio::test]
async fn what_is_not_rung_for_yet_travels_with_what_is() {
    let rig = PostgresRig::with(NO_POLL).await;
    let queue = QueueName::callbacks();
    let mut consumer = rig.consumer(&queue).await;
    assert_eq!(consumer.receive(64).await.unwrap(), [], "nothing is there");
    let refs = ids(2);
    rig.push_unrung(&queue, &refs[..1], Duration::ZERO).await;
    let (messages, ()) = tokio::join!(next(&mut *consumer, 64), rig.push(&queue, &refs[1..], Duration::ZERO));
    let seen: Vec<Uuid> = messages.into_iter().flat_map(|message| message.refs).collect();
    assert_eq!(seen, refs);
}

#[tokio::test]
async fn what_becomes_due_while_its_consumer_is_busy_is_found_by_the_next_receive() {
    let rig = PostgresRig::with(NO_POLL).await;
    let queue = QueueName::callbacks();
    let mut consumer = rig.consumer(&queue).await;
    let (at_once, put_off) = (ids(1), ids(1));
    rig.push_unrung(&queue, &put_off, Duration::from_secs(1)).await;
    rig.push_unrung(&queue, &at_once, Duration::ZERO).await;
    assert_eq!(next(&mut *consumer, 64).await[0].refs, at_once);
    let due = "SELECT count(*) > 0 FROM claygate.outbox WHERE due_at <= now()";
    while !sqlx::query_scalar::<_, bool>(due).fetch_one(rig.database.pool()).await.unwrap() {}
    assert_eq!(next(&mut *consumer, 64).await[0].refs, put_off);
}

#[tokio::test]
async fn who_rings_for_what_is_put_off_has_it_found_when_it_is_due() {
    let rig = PostgresRig::with(NO_POLL).await;
    let queue = QueueName::callbacks();
    let mut consumer = rig.consumer(&queue).await;
    assert_eq!(consumer.receive(1).await.unwrap(), [], "nothing is there");
    let refs = ids(1);
    rig.push(&queue, &refs, Duration::from_millis(300)).await;
    assert_eq!(next(&mut *consumer, 1).await[0].refs, refs);
}

/// A stop cuts receives short. What the statement under way takes must not wait for its claim to run out.
#[tokio::test]
async fn a_receive_that_is_cut_short_keeps_nothing() {
    let rig = PostgresRig::new().await;
    let queue = QueueName::callbacks();
    let refs = ids(60);
    for one in &refs {
        rig.push(&queue, &[*one], Duration::ZERO).await;
    }
    let mut seen = Vec::new();
    for n in 0..40 {
        let mut consumer = rig.consumer(&queue).await;
        let cut_short = tokio::time::timeout(Duration::from_micros(100 * n), consumer.receive(1)).await;
        for message in cut_short.map(Result::unwrap).unwrap_or_default() {
            assert_eq!(consumer.ack(&[message.receipt]).await.unwrap(), 1);
            seen.extend(message.refs);
        }
    }
    let mut consumer = rig.consumer(&queue).await;
    let rest = async {
        while seen.len() < refs.len() {
            for message in consumer.receive(64).await.unwrap() {
                assert!(!message.redelivered, "nobody has seen it before");
                seen.extend(message.refs);
            }
        }
    };
    tokio::time::timeout(PostgresQueueSettings::default().lease / 2, rest).await.expect("nothing is held");
    seen.sort_unstable();
    assert_eq!(seen, refs);
}

/// A snapshot keeps finished entries in the index as dead ones; claims go on above them and miss nothing.
#[tokio::test]
async fn a_long_snapshot_elsewhere_hides_no_entry() {
    let rig = PostgresRig::new().await;
    let queue = QueueName::callbacks();
    let mut analyst = rig.database.settings().connect_directly().await.unwrap();
    let mut snapshot = analyst.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    let _: i64 = sqlx::query_scalar("SELECT count(*) FROM claygate.outbox").fetch_one(&mut *snapshot).await.unwrap();

    let mut consumer = rig.consumer(&queue).await;
    let mut taken = 0;
    for _ in 0..30 {
        for _ in 0..20 {
            rig.push(&queue, &ids(2), Duration::ZERO).await;
        }
        let mut round = 0;
        while round < 40 {
            let messages = next(&mut *consumer, 64).await;
            round += messages.iter().map(|message| message.refs.len()).sum::<usize>();
            let receipts: Vec<_> = messages.iter().map(|message| message.receipt).collect();
            consumer.ack(&receipts).await.unwrap();
        }
        taken += round;
    }
    assert_eq!(taken, 1_200);
    assert_eq!(rig.backlog().await, 0);
    snapshot.rollback().await.unwrap();
}

/// The low-water mark is an optimisation only: an entry that was committed late, far below the mark, is found.
#[tokio::test]
async fn an_entry_committed_below_the_mark_is_found_by_the_rescan() {
    let settings = PostgresQueueSettings { rescan_every: Duration::from_millis(100), ..Default::default() };
    let rig = PostgresRig::with(settings).await;
    let queue = QueueName::callbacks();
    let mut consumer = rig.consumer(&queue).await;
    rig.push(&queue, &ids(1), Duration::ZERO).await;
    let first = next(&mut *consumer, 1).await;
    consumer.ack(&[first[0].receipt]).await.unwrap();

    let late = ids(1);
    let mut connection = rig.database.pool().acquire().await.unwrap();
    let long_ago = OffsetDateTime::now_utc() - Duration::from_secs(3_600);
    outbox::push(&mut connection, &queue, &late, Some(long_ago)).await.unwrap();
    assert_eq!(next(&mut *consumer, 1).await[0].refs, late);
}

/// Two processes over one database that hear each other. Polling is out of the way, so that only their bells wake them.
struct Neighbours {
    here: PostgresRig,
    elsewhere_bell: Doorbell,
    elsewhere: PostgresQueue,
    shutdown: CancellationToken,
    ringing: [tokio::task::JoinHandle<()>; 2],
}

impl Neighbours {
    async fn new() -> Self {
        let here = PostgresRig::with(NO_POLL).await;
        let (elsewhere_bell, database, shutdown) = (Doorbell::new(), here.test.database(), CancellationToken::new());
        let elsewhere = PostgresQueue::new(database.clone(), elsewhere_bell.clone(), NO_POLL);
        let ringing = [(&here.doorbell, &here.database), (&elsewhere_bell, &database)]
            .map(|(bell, database)| tokio::spawn(bell.clone().run(database.clone(), shutdown.clone())));
        Self { here, elsewhere_bell, elsewhere, shutdown, ringing }
    }

    /// Pushes one entry and rings for it until `consumer`, which waits already, has it: until it has surely begun to listen.
    async fn push_and_ring(&self, bell: &Doorbell, queue: &QueueName, consumer: &mut dyn Consumer) {
        let refs = ids(1);
        self.here.push_unrung(queue, &refs, Duration::ZERO).await;
        let mut waiting = std::pin::pin!(next(consumer, 64));
        let messages = loop {
            bell.ring(queue);
            tokio::select! {
                messages = &mut waiting => break messages,
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        };
        assert_eq!(messages[0].refs, refs);
    }

    async fn stop(self) {
        self.shutdown.cancel();
        for ringing in self.ringing {
            ringing.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_ring_in_another_process_wakes_a_consumer() {
    let neighbours = Neighbours::new().await;
    let queue = QueueName::callbacks();
    let mut consumer = neighbours.here.consumer(&queue).await;
    assert_eq!(consumer.receive(64).await.unwrap(), [], "it looks once, and waits for the bell");
    neighbours.push_and_ring(&neighbours.elsewhere_bell, &queue, &mut *consumer).await;
    neighbours.stop().await;
}

#[tokio::test]
async fn a_process_does_not_wake_itself_again_by_what_it_tells_others() {
    let neighbours = Neighbours::new().await;
    let Neighbours { here, elsewhere_bell, elsewhere, .. } = &neighbours;
    let [own, told, answer] = ["own", "told", "answer"].map(QueueName::deliver);
    let mut consumer = here.consumer(&own).await;
    let mut hears = elsewhere.consumer(&told).await.unwrap();
    let mut answers = here.consumer(&answer).await;
    for consumer in [&mut consumer, &mut hears, &mut answers] {
        assert_eq!(consumer.receive(64).await.unwrap(), []);
    }
    for _ in 0..2 {
        here.push(&own, &ids(1), Duration::ZERO).await;
        next(&mut *consumer, 64).await;
        // What was rung before it is told before it, and what is told before the answer comes back before it.
        neighbours.push_and_ring(&here.doorbell, &told, &mut *hears).await;
        neighbours.push_and_ring(elsewhere_bell, &answer, &mut *answers).await;
    }
    let refs = ids(2);
    here.push_unrung(&own, &refs[..1], Duration::ZERO).await;
    let (messages, ()) = tokio::join!(next(&mut *consumer, 64), here.push(&own, &refs[1..], Duration::ZERO));
    let seen: Vec<Uuid> = messages.into_iter().flat_map(|message| message.refs).collect();
    assert_eq!(seen, refs, "the first was not rung for");
    neighbours.stop().await;
}

/// A backlog of one destination is its own affair; callbacks that nobody routes are everybody's.
#[tokio::test]
async fn an_old_outbox_is_not_ready_unless_a_destination_alone_is_behind() {
    let rig = PostgresRig::new().await;
    let watch = BacklogWatch::new();
    let push = async |queue: QueueName, seconds_ago: u64| {
        let mut connection = rig.database.pool().acquire().await.unwrap();
        let due_at = OffsetDateTime::now_utc() - Duration::from_secs(seconds_ago);
        outbox::push(&mut connection, &queue, &ids(1), Some(due_at)).await.unwrap();
    };
    push(QueueName::deliver("slow"), 4_000).await;
    push(QueueName::deliver("paused"), 9_000).await;
    destination_state::pause(&rig.database, "paused", "by the test").await.unwrap();
    let backlog = outbox::backlog(&rig.database).await.unwrap();
    assert_eq!(backlog.entries, 2);
    assert!((4_000..4_100).contains(&backlog.oldest_age.as_secs()), "{backlog:?}");
    assert_eq!(backlog.oldest_shared_age, Duration::ZERO);
    watch.look(&rig.database).await.unwrap();
    assert!(watch.check().ready);

    push(QueueName::callbacks(), 400).await;
    watch.look(&rig.database).await.unwrap();
    let verdict = watch.check();
    assert!(!verdict.ready && verdict.detail.contains("workers do not keep up"), "{verdict:?}");
}
