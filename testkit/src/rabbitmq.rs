//! A message broker for tests: one that they share, with a prefix for each, or one of their own for tests that break it.
//!
//! The shared one is the broker that `CLAYGATE_TEST_AMQP` names (`cargo xtask test` starts it for the whole run), else one
//! that this process starts when it first needs it and that dies with it.

use std::sync::Arc;

use embedded::rabbitmq::{Broker, Error, Settings};
use tokio::sync::OnceCell;

/// The variable that names a running broker: `amqp://user:password@host:port/vhost`.
pub const BROKER_VARIABLE: &str = "CLAYGATE_TEST_AMQP";

/// The shared broker, as one test sees it.
#[derive(Clone, Debug)]
pub struct TestBroker {
    url: String,
    prefix: String,
}

impl TestBroker {
    /// The shared broker, with a prefix that nobody else has.
    ///
    /// # Panics
    /// When there is no RabbitMQ, or it does not start: no test can go on then.
    pub async fn shared() -> Self {
        Self { url: shared_url().await, prefix: fresh_prefix() }
    }

    /// `amqp://user:password@host:port/vhost`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What the names of this test's exchanges and queues begin with, as `t-5f0c…`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

/// A broker that one test has for itself, to break it. Ends with the last clone.
#[derive(Clone)]
pub struct OwnBroker {
    broker: Arc<Broker>,
    prefix: String,
}

impl OwnBroker {
    /// Starts one, which takes some seconds.
    ///
    /// # Panics
    /// When there is no RabbitMQ, or it does not start.
    pub async fn start() -> Self {
        let broker = off_the_runtime(|| Broker::start(&Settings::throw_away("a test"))).await;
        let broker = broker.unwrap_or_else(|error| panic!("{:#}", anyhow::Error::from(error)));
        Self { broker: Arc::new(broker), prefix: fresh_prefix() }
    }

    /// As [`Broker::url`]. It stays the same when the broker is started again.
    pub fn url(&self) -> String {
        self.broker.url()
    }

    /// As [`TestBroker::prefix`], for code that is used with both.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The port on 127.0.0.1, which stays the same.
    pub fn port(&self) -> u16 {
        self.broker.port()
    }

    /// Stops it in an orderly way, as an operator does.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(&self) {
        self.run("stop", |broker| broker.stop()).await;
    }

    /// Kills it; its data stays as it is on the disk.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub async fn kill(&self) {
        self.run("kill", |broker| broker.kill()).await;
    }

    /// Starts it again after [`OwnBroker::stop`] or [`OwnBroker::kill`], and waits until it serves.
    ///
    /// # Panics
    /// When it runs, or does not come up.
    pub async fn start_again(&self) {
        self.run("start again", |broker| broker.start_again()).await;
    }

    /// Leaves its connections open and answers nothing, until [`OwnBroker::resume`].
    ///
    /// # Panics
    /// When it cannot be signalled.
    pub async fn pause(&self) {
        self.run("pause", |broker| broker.pause()).await;
    }

    /// Undoes [`OwnBroker::pause`].
    ///
    /// # Panics
    /// When it cannot be signalled.
    pub async fn resume(&self) {
        self.run("resume", |broker| broker.resume()).await;
    }

    /// What `rabbitmqctl` prints, as [`Broker::ctl`].
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        self.run("answer", move |broker| broker.ctl(&arguments.iter().map(String::as_str).collect::<Vec<_>>())).await
    }

    async fn run<T: Send + 'static>(
        &self,
        what: &str,
        action: impl FnOnce(&Broker) -> Result<T, Error> + Send + 'static,
    ) -> T {
        let broker = Arc::clone(&self.broker);
        let done = off_the_runtime(move || action(&broker)).await;
        done.unwrap_or_else(|error| panic!("the broker did not {what}: {:#}", anyhow::Error::from(error)))
    }
}

/// The broker of this run.
async fn shared_url() -> String {
    // A static is never dropped: the parent-death signal ends the broker.
    static STARTED: OnceCell<OwnBroker> = OnceCell::const_new();
    match std::env::var(BROKER_VARIABLE) {
        Ok(url) if !url.is_empty() => url,
        _ => STARTED.get_or_init(OwnBroker::start).await.url(),
    }
}

fn fresh_prefix() -> String {
    format!("t-{}", uuid::Uuid::new_v4().simple())
}

async fn off_the_runtime<T: Send + 'static>(action: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(action).await.expect("the action does not panic")
}
