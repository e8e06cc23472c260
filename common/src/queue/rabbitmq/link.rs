//! One connection to the broker, dialled when somebody needs it and again when it is gone.
//!
//! Whoever comes first dials, and the others wait for it; after a failure nobody dials until a pause has passed, so that
//! an outage costs a dial per pause and two lines in the log, whatever the number of users.

use std::sync::Arc;
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::tcp::OwnedTLSConfig;
use lapin::types::FieldTable;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties};
use metrics::gauge;
use percent_encoding::percent_decode_str;
use rand::Rng;
use secrecy::ExposeSecret;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::{BrokerError, RabbitSettings};
use crate::telemetry::logs::chain;
use crate::telemetry::metrics::BROKER_CONNECTED;

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Twice this without a byte from the broker, and the library calls the connection dead.
const HEARTBEAT_SECONDS: u16 = 10;
/// Bytes of a frame. The library keeps 64 of them per connection; our messages are far smaller.
const FRAME_MAX: u32 = 16 * 1024;
const PORT: u16 = 5672;
const TLS_PORT: u16 = 5671;

/// A connection for one purpose.
pub(super) struct Link {
    purpose: &'static str,
    settings: RabbitSettings,
    state: Mutex<State>,
}

struct State {
    connection: Option<Arc<Connection>>,
    /// Since when there is none, where that was said in the log.
    down_since: Option<Instant>,
    /// Nobody dials before.
    not_before: Option<Instant>,
    pause: Duration,
}

/// A channel, and the way to give its connection up.
pub(super) struct Session {
    pub(super) channel: Channel,
    connection: Arc<Connection>,
    link: Arc<Link>,
}

impl Link {
    pub(super) fn new(settings: &RabbitSettings, purpose: &'static str) -> Arc<Self> {
        let state = State { connection: None, down_since: None, not_before: None, pause: PAUSE_MIN };
        Arc::new(Self { purpose, settings: settings.clone(), state: Mutex::new(state) })
    }

    /// A channel of its own, over the connection that all users of this link share.
    ///
    /// # Errors
    /// [`BrokerError`]; [`BrokerError::Down`] when dialling failed, and at once while nobody may dial.
    pub(super) async fn open(self: &Arc<Self>) -> Result<Session, BrokerError> {
        let connection = self.connection().await?;
        let session = |channel| Session { channel, connection: Arc::clone(&connection), link: Arc::clone(self) };
        match timeout(self.settings.command_timeout, connection.create_channel()).await {
            Ok(Ok(channel)) => Ok(session(channel)),
            Ok(Err(_)) if !connection.status().connected() => Err(BrokerError::Down),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                self.give_up(&connection).await;
                Err(BrokerError::Silent("opening a channel"))
            }
        }
    }

    async fn connection(&self) -> Result<Arc<Connection>, BrokerError> {
        let mut state = self.state.lock().await;
        if let Some(connection) = state.connection.as_ref().filter(|connection| connection.status().connected()) {
            return Ok(Arc::clone(connection));
        }
        if state.connection.take().is_some() {
            tracing::warn!(purpose = self.purpose, "the connection to RabbitMQ was lost");
            gauge!(BROKER_CONNECTED, "link" => self.purpose).set(0.0);
        }
        if state.not_before.is_some_and(|not_before| Instant::now() < not_before) {
            return Err(BrokerError::Down);
        }
        match self.dial().await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                let away = state.down_since.take().map(|since| since.elapsed().as_secs());
                tracing::info!(purpose = self.purpose, away_seconds = away, "connected to RabbitMQ");
                gauge!(BROKER_CONNECTED, "link" => self.purpose).set(1.0);
                state.connection = Some(Arc::clone(&connection));
                (state.not_before, state.pause) = (None, PAUSE_MIN);
                Ok(connection)
            }
            Err(error) => {
                let error = chain(&error);
                if state.down_since.is_none() {
                    state.down_since = Some(Instant::now());
                    tracing::warn!(purpose = self.purpose, error, "there is no connection to RabbitMQ; trying again");
                } else {
                    tracing::debug!(purpose = self.purpose, error, "there is still no connection to RabbitMQ");
                }
                // Jitter, so that many processes do not dial a broker that just came back at one moment.
                let jitter = rand::rng().random_range(0.5..1.0);
                state.not_before = Some(Instant::now() + state.pause.mul_f64(jitter));
                state.pause = (state.pause * 2).min(PAUSE_MAX);
                // Its first user makes the series: a process that never consumes has none of that kind.
                gauge!(BROKER_CONNECTED, "link" => self.purpose).set(0.0);
                Err(BrokerError::Down)
            }
        }
    }

    /// Dials and hangs up.
    pub(super) async fn try_dial(&self) -> Result<(), BrokerError> {
        Ok(self.dial().await?.close(200, "tried".into()).await?)
    }

    async fn dial(&self) -> Result<Connection, BrokerError> {
        let name = format!("claygate {} {}", self.purpose, std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime()?;
        let dialling = Connection::connect_uri_with_config(self.uri(), properties, OwnedTLSConfig::default(), runtime);
        match timeout(DIAL_TIMEOUT, dialling).await {
            Ok(connection) => Ok(connection?),
            Err(_) => Err(BrokerError::Silent("connecting")),
        }
    }

    fn uri(&self) -> AMQPUri {
        let url = &self.settings.url;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let mut uri = AMQPUri::default();
        let is_tls = url.scheme() == "amqps";
        uri.scheme = if is_tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP };
        uri.authority.host = url.host_str().unwrap_or("localhost").to_owned();
        uri.authority.port = url.port().unwrap_or(if is_tls { TLS_PORT } else { PORT });
        if !url.username().is_empty() {
            uri.authority.userinfo.username = decoded(url.username());
        }
        if let Some(password) = &self.settings.password {
            uri.authority.userinfo.password = password.expose_secret().to_owned();
        }
        // `amqp://host` and `amqp://host/` are the default virtual host.
        let vhost = decoded(url.path().trim_start_matches('/'));
        uri.vhost = if vhost.is_empty() { "/".to_owned() } else { vhost };
        uri.query.heartbeat = Some(HEARTBEAT_SECONDS);
        uri.query.frame_max = Some(FRAME_MAX);
        uri
    }

    /// Gives a connection up that does not answer; the next user dials.
    async fn give_up(&self, connection: &Arc<Connection>) {
        let mut state = self.state.lock().await;
        if state.connection.as_ref().is_some_and(|present| Arc::ptr_eq(present, connection)) {
            tracing::warn!(purpose = self.purpose, "RabbitMQ does not answer; its connection was given up");
            state.connection = None;
            gauge!(BROKER_CONNECTED, "link" => self.purpose).set(0.0);
        }
        let (connection, limit) = (Arc::clone(connection), self.settings.command_timeout);
        tokio::spawn(async move {
            // Whether the other side hears it or not: it ends here.
            let _ = timeout(limit, connection.close(200, "no answer".into())).await;
        });
    }
}

impl Session {
    /// Whether the broker has said that it does not read from this connection now.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Whether messages can pass.
    pub(super) fn is_open(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    /// Waits for a command, within the limit; a connection that does not answer is given up.
    pub(super) async fn command<T>(
        &self,
        what: &'static str,
        command: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        match timeout(self.link.settings.command_timeout, command).await {
            Ok(done) => done.map_err(|error| self.judge(error)),
            Err(_) => {
                self.give_up().await;
                Err(BrokerError::Silent(what))
            }
        }
    }

    /// What an error means: the loss of the connection concerns all its users, and is told once.
    pub(super) fn judge(&self, error: lapin::Error) -> BrokerError {
        if self.connection.status().connected() { BrokerError::Failed(error) } else { BrokerError::Down }
    }

    /// How many messages wait in `queue`, and how many consumers it has.
    pub(super) async fn look_at(&self, queue: lapin::types::ShortString) -> Result<(u32, u32), BrokerError> {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let looking = self.channel.queue_declare(queue, passive, FieldTable::default());
        let queue = self.command("looking at a queue", looking).await?;
        Ok((queue.message_count(), queue.consumer_count()))
    }

    /// Gives the connection up.
    pub(super) async fn give_up(&self) {
        self.link.give_up(&self.connection).await;
    }
}
