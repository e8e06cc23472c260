//! RabbitMQ as the queue: the conformance suite, and what only this back-end can get wrong.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::db::{Database, outbox};
use common::queue::rabbitmq::{RabbitQueue, RabbitSettings, Relay};
use common::queue::{Consumer, Doorbell, Message, Queue, QueueError, QueueName, Receipt};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use testkit::postgres::TestDatabase;
use testkit::rabbitmq::TestBroker;
use testkit::wait::wait_for;
use time::OffsetDateTime;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::queue_conformance::{LIMIT, Rig, ids, next, queue_conformance};

/// A relay on a broker, and what its consumers hold.
struct RabbitRig {
    _test: TestDatabase,
    broker: TestBroker,
    database: Database,
    doorbell: Doorbell,
    /// Messages that were received and not settled, by consumer.
    held: Arc<Mutex<HashMap<usize, usize>>>,
    opened: AtomicUsize,
    _relay: DropGuard,
}

const QUEUES: [&str; 4] = ["order", "delay", "busy", "quiet"];

impl RabbitRig {
    async fn new() -> Self {
        let test = TestDatabase::create().await;
        let broker = TestBroker::shared().await;
        let database = test.database();
        let doorbell = Doorbell::new();
        let shutdown = CancellationToken::new();
        let queue = RabbitQueue::new(settings(&broker), database.clone(), doorbell.clone());
        let queues = [QueueName::callbacks(), QueueName::released()].into_iter();
        let relay = Relay::new(&queue, queues.chain(QUEUES.into_iter().map(QueueName::deliver)));
        tokio::spawn(relay.run(shutdown.clone()));
        let held = Arc::default();
        let opened = AtomicUsize::new(0);
        Self { _test: test, broker, database, doorbell, held, opened, _relay: shutdown.drop_guard() }
    }

    /// The broker over connections of its own.
    fn queue(&self) -> RabbitQueue {
        RabbitQueue::new(settings(&self.broker), self.database.clone(), self.doorbell.clone())
    }

    /// Messages that wait in the broker, over all queues.
    async fn waiting(&self) -> usize {
        let connection =
            lapin::Connection::connect(self.broker.url(), lapin::ConnectionProperties::default()).await.unwrap();
        let mut waiting = 0;
        let queues = QUEUES.iter().map(|name| format!("deliver.{name}"));
        for name in queues.chain(["callbacks".to_owned(), "dead".to_owned()]) {
            let channel = connection.create_channel().await.unwrap();
            let name = format!("{}.{name}", self.broker.prefix());
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            // A queue that is not there holds nothing.
            let queue = channel.queue_declare(name.into(), passive, FieldTable::default()).await;
            waiting += queue.map_or(0, |queue| usize::try_from(queue.message_count()).unwrap());
        }
        waiting
    }

    /// Pushes each of `refs` so that it has a message of its own.
    async fn push_apart(&self, queue: &QueueName, refs: &[Uuid]) {
        for one in refs {
            self.push(queue, &[*one], Duration::ZERO).await;
            self.wait_for_relay().await;
        }
    }

    async fn wait_for_relay(&self) {
        wait_for("the relay to be done", LIMIT, async || match self.entries().await {
            0 => Ok(()),
            n => Err(n),
        })
        .await;
    }

    async fn entries(&self) -> usize {
        let n: i64 =
            sqlx::query_scalar("SELECT count(*) FROM claygate.outbox").fetch_one(self.database.pool()).await.unwrap();
        usize::try_from(n).unwrap()
    }
}

fn settings(broker: &TestBroker) -> RabbitSettings {
    let mut url: url::Url = broker.url().parse().unwrap();
    let password = url.password().unwrap().to_owned();
    url.set_password(None).unwrap();
    let usual = RabbitSettings::new(url, Some(password.into()), broker.prefix());
    RabbitSettings { idle_after: Duration::from_millis(400), ..usual }
}

#[async_trait::async_trait]
impl Rig for RabbitRig {
    async fn push(&self, queue: &QueueName, refs: &[Uuid], delay: Duration) {
        let mut connection = self.database.pool().acquire().await.unwrap();
        let due_at = (!delay.is_zero()).then(|| OffsetDateTime::now_utc() + delay);
        outbox::push(&mut connection, queue, refs, due_at).await.unwrap();
        self.doorbell.ring(queue);
    }

    async fn consumer(&self, queue: &QueueName) -> Box<dyn Consumer> {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        let consumer = self.queue().consumer(queue).await.unwrap();
        Box::new(Counted { consumer, number, held: Arc::clone(&self.held) })
    }

    /// Its connection ends with it, as that of a killed process.
    async fn kill(&self, consumer: Box<dyn Consumer>) {
        drop(consumer);
    }

    /// What the relay has published is no entry any more; until it is done with that, an entry may count twice.
    async fn backlog(&self) -> usize {
        self.wait_for_relay().await;
        self.waiting().await + self.held.lock().unwrap().values().sum::<usize>()
    }
}

/// A consumer that counts what it holds: the broker tells only what waits.
struct Counted {
    consumer: Box<dyn Consumer>,
    number: usize,
    held: Arc<Mutex<HashMap<usize, usize>>>,
}

impl Counted {
    fn change(&self, by: isize) {
        let mut held = self.held.lock().unwrap();
        let mine = held.entry(self.number).or_default();
        *mine = mine.saturating_add_signed(by);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.held.lock().unwrap().remove(&self.number);
    }
}

#[async_trait::async_trait]
impl Consumer for Counted {
    async fn receive(&mut self, want: usize) -> Result<Vec<Message>, QueueError> {
        let messages = self.consumer.receive(want).await?;
        self.change(isize::try_from(messages.len()).unwrap());
        Ok(messages)
    }

    fn more_may_wait(&self) -> bool {
        self.consumer.more_may_wait()
    }

    async fn ack(&mut self, receipts: &[Receipt]) -> Result<usize, QueueError> {
        let acked = self.consumer.ack(receipts).await?;
        self.change(-isize::try_from(acked).unwrap());
        Ok(acked)
    }

    async fn release(&mut self, receipts: &[Receipt]) -> Result<(), QueueError> {
        self.consumer.release(receipts).await?;
        self.change(-isize::try_from(receipts.len()).unwrap());
        Ok(())
    }
}

queue_conformance!(RabbitRig::new());

#[tokio::test]
async fn what_was_acknowledged_does_not_come_again_with_the_end_of_the_connection() {
    let rig = RabbitRig::new().await;
    let queue = QueueName::callbacks();
    let refs = ids(6);
    rig.push_apart(&queue, &refs).await;
    let mut consumer = rig.queue().consumer(&queue).await.unwrap();
    let mut receipts = Vec::new();
    while receipts.len() < refs.len() {
        receipts.extend(next(&mut *consumer, 64).await.iter().map(|message| message.receipt));
    }
    // The third is left open: what lies above it must not be acknowledged with all that lies below.
    let open = receipts.remove(2);
    assert_eq!(consumer.ack(&receipts).await.unwrap(), 5);
    assert_eq!(consumer.ack(&receipts).await.unwrap(), 0, "settled once");
    drop(consumer);

    let mut other = rig.queue().consumer(&queue).await.unwrap();
    let again = next(&mut *other, 64).await;
    assert_eq!(again.iter().flat_map(|message| message.refs.clone()).collect::<Vec<_>>(), [refs[2]], "{open:?}");
    assert!(again[0].redelivered);
}

#[tokio::test]
async fn what_an_idle_consumer_prefetched_goes_to_others_and_does_not_count_as_returned() {
    let rig = RabbitRig::new().await;
    let queue = QueueName::callbacks();
    let refs = ids(12);
    rig.push_apart(&queue, &refs).await;
    let mut idle = rig.queue().consumer(&queue).await.unwrap();
    let first = next(&mut *idle, 1).await;
    wait_for("the rest to be given back", LIMIT, async || match rig.waiting().await + rig.entries().await {
        11 => Ok(()),
        n => Err(n),
    })
    .await;
    let mut other = rig.queue().consumer(&queue).await.unwrap();
    let mut seen = first[0].refs.clone();
    while seen.len() < refs.len() {
        for message in next(&mut *other, 64).await {
            assert!(!message.redelivered);
            seen.extend(message.refs);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, refs);
    // It can go on with what it has, and receive anew.
    assert_eq!(idle.ack(&[first[0].receipt]).await.unwrap(), 1);
    rig.push(&queue, &refs[..1], Duration::ZERO).await;
    assert_eq!(next(&mut *idle, 1).await[0].refs, refs[..1]);
}

#[tokio::test]
async fn what_is_held_too_long_is_given_to_others() {
    let rig = RabbitRig::new().await;
    let queue = QueueName::callbacks();
    let refs = ids(2);
    rig.push(&queue, &refs, Duration::ZERO).await;
    let impatient = RabbitSettings { hold_max: Duration::from_millis(300), ..settings(&rig.broker) };
    let forgetful = RabbitQueue::new(impatient, rig.database.clone(), rig.doorbell.clone());
    let mut first = forgetful.consumer(&queue).await.unwrap();
    let held = next(&mut *first, 1).await;

    let mut other = rig.queue().consumer(&queue).await.unwrap();
    let again = next(&mut *other, 1).await;
    assert_eq!(again[0].refs, refs);
    assert!(again[0].redelivered);
    assert_eq!(first.ack(&[held[0].receipt]).await.unwrap(), 0);
    assert_eq!(other.ack(&[again[0].receipt]).await.unwrap(), 1);
}

#[tokio::test]
async fn a_message_that_is_not_ours_is_put_aside_and_holds_nothing_up() {
    let rig = RabbitRig::new().await;
    let queue = QueueName::callbacks();
    let mut consumer = rig.queue().consumer(&queue).await.unwrap();
    let stranger = lapin::Connection::connect(rig.broker.url(), lapin::ConnectionProperties::default()).await.unwrap();
    let channel = stranger.create_channel().await.unwrap();
    let (exchange, key) = (rig.broker.prefix().into(), "callbacks".into());
    channel
        .basic_publish(exchange, key, BasicPublishOptions::default(), b"buy now", BasicProperties::default())
        .await
        .unwrap();
    let refs = ids(1);
    rig.push(&queue, &refs, Duration::ZERO).await;
    let messages = next(&mut *consumer, 1).await;
    assert_eq!(messages[0].refs, refs);
    consumer.ack(&[messages[0].receipt]).await.unwrap();

    wait_for("it to be among the dead letters", LIMIT, async || match rig.waiting().await {
        1 => Ok(()),
        n => Err(n),
    })
    .await;
    let mut dead = rig.queue().consumer(&QueueName::dead()).await.unwrap();
    let dropped = async {
        while rig.waiting().await > 0 {
            assert_eq!(dead.receive(1).await.unwrap(), []);
        }
    };
    tokio::time::timeout(LIMIT, dropped).await.expect("it is taken");
    drop(dead);
    assert_eq!(rig.waiting().await, 0, "it was not dropped, only held");
}

#[tokio::test]
async fn what_is_relayed_here_is_not_told_elsewhere() {
    let rig = RabbitRig::new().await;
    let mut elsewhere = sqlx::postgres::PgListener::connect_with(rig.database.pool()).await.unwrap();
    elsewhere.listen("claygate_outbox").await.unwrap();
    // In the order of their names, once both can be told.
    rig.doorbell.ring(&QueueName::callbacks());
    rig.doorbell.ring(&QueueName::deliver("not_relayed_here"));
    let shutdown = CancellationToken::new();
    let telling = tokio::spawn(rig.doorbell.clone().run(rig.database.clone(), shutdown.clone()));
    let first = tokio::time::timeout(LIMIT, elsewhere.recv()).await.expect("something is told").unwrap();
    assert_eq!(first.payload(), "deliver.not_relayed_here");
    shutdown.cancel();
    telling.await.unwrap();
}

/// Fresh work costs no note, so that the intake's rows are written once less; old work is noted before its entry goes.
#[tokio::test]
async fn publishing_notes_what_has_been_on_its_way_for_long() {
    let rig = RabbitRig::new().await;
    let (fresh, old) = (Uuid::now_v7(), Uuid::now_v7());
    for (id, age) in [(fresh, 0), (old, 3_600)] {
        sqlx::query(
            "INSERT INTO claygate.callbacks (id, source, key, key_kind, digest, received_at)
             VALUES ($1, 'clay', sha256($1::text::bytea), 'header', sha256('x'), now() - make_interval(secs => $2))",
        )
        .bind(id)
        .bind(f64::from(age))
        .execute(rig.database.pool())
        .await
        .unwrap();
    }
    rig.push(&QueueName::callbacks(), &[fresh, old], Duration::ZERO).await;
    wait_for("the entry to be published", LIMIT, async || match rig.entries().await {
        0 => Ok(()),
        n => Err(n),
    })
    .await;
    let noted: Vec<Uuid> =
        sqlx::query_scalar("SELECT id FROM claygate.callbacks WHERE enqueued_at > now() - '1 min'::interval")
            .fetch_all(rig.database.pool())
            .await
            .unwrap();
    assert_eq!(noted, [old]);
}
