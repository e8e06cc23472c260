//! One HTTP client per destination, kept for the life of the process (a connector per request leaks slowly).
//!
//! It follows no redirect, uses no proxy from the environment, unpacks nothing, and reads a bounded part of the
//! answer. Whatever goes wrong is told in words of this module's own: the libraries' messages show URLs.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::retry::parse_retry_after;
use reqwest::redirect::Policy;
use reqwest::{Client, Request, Response};
use tokio::time::{Instant, timeout_at};

use super::guard::{Guard, Refused};

/// Most of an answer's body that is read; what is beyond costs the connection.
const READ_MAX: usize = 64 * 1024;
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A time-out that comes later than this after its time says that this process stood still, not that the destination did.
const LATE: Duration = Duration::from_millis(100);
/// How long what came in meanwhile may take to be read. A lease has far more beyond its request's time.
const GRACE: Duration = Duration::from_secs(1);

/// A destination's answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// The body, as far as it was read.
    pub body: Vec<u8>,
    /// How reading it ended.
    pub end: BodyEnd,
    /// How long the destination asked to be left alone.
    pub retry_after: Option<Duration>,
}

/// How reading a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// With the body's own end.
    Complete,
    /// There was more than is ever read.
    TooLarge,
    /// The connection broke, or the total time was over.
    BrokenOff,
}

/// Why there is no answer. Carries no part of the request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The name leads to an address that destinations may not reach.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The name was not resolved.
    #[error("the destination's name could not be resolved")]
    Name,
    /// No connection came about in time.
    #[error("connecting timed out after {} ms", .0.as_millis())]
    ConnectTimeout(Duration),
    /// No connection came about.
    #[error("connecting failed: {0}")]
    Connect(String),
    /// The total time was over before the answer was there.
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The connection broke before the answer was there.
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client could not be made (are root certificates installed?)")]
pub struct ClientProblem(#[source] reqwest::Error);

/// The client of one destination.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client,
    timeout: Duration,
    connect_timeout: Duration,
}

impl HttpClient {
    /// A client that connects where `guard` allows. `idle` connections are kept.
    ///
    /// # Errors
    /// [`ClientProblem`] when TLS cannot be set up.
    pub fn new(guard: Guard, timeout: Duration, connect_timeout: Duration, idle: usize) -> Result<Self, ClientProblem> {
        // The first one to come installs it; all of them want the same.
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .redirect(Policy::none())
            .referer(false)
            .no_proxy()
            .dns_resolver(Arc::new(guard))
            .connect_timeout(connect_timeout)
            .pool_max_idle_per_host(idle)
            .pool_idle_timeout(IDLE_MAX)
            .tcp_nodelay(true)
            .build()
            .map_err(ClientProblem)?;
        Ok(Self { client, timeout, connect_timeout })
    }

    /// Sends `request` and reads what comes back, all within the total time. After a standstill of this process (SIGSTOP, a
    /// paused machine) that outlasted it, what has come in meanwhile is read still: it is no reason to send again.
    ///
    /// A body that breaks off, hangs or does not end leaves an incomplete [`Reply`]: the status is known by then.
    ///
    /// # Errors
    /// [`SendError`] when no status came.
    ///
    /// # Cancel safety
    /// Cancelling closes the connection; the destination may have taken the request.
    pub async fn send(&self, request: Request) -> Result<Reply, SendError> {
        let deadline = Instant::now() + self.timeout;
        let response = match listen_until(deadline, self.client.execute(request)).await {
            Some(answered) => answered.map_err(|error| self.explain(&error))?,
            None => return Err(SendError::Timeout(self.timeout)),
        };
        let status = response.status().as_u16();
        let retry_after = retry_after(&response);
        let mut body = Vec::new();
        let end = match listen_until(deadline, read_bounded(response, &mut body)).await {
            Some(Ok(end)) => end,
            Some(Err(_)) | None => BodyEnd::BrokenOff,
        };
        Ok(Reply { status, body, end, retry_after })
    }

    fn explain(&self, error: &reqwest::Error) -> SendError {
        let mut io_error = None;
        let mut of_name = false;
        let mut source: Option<&(dyn StdError + 'static)> = Some(error);
        while let Some(cause) = source {
            if let Some(refused) = cause.downcast_ref::<Refused>() {
                return SendError::Refused(*refused);
            }
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return SendError::Connect(explain_tls(tls).to_owned());
            }
            if let Some(cause) = cause.downcast_ref::<io::Error>() {
                io_error = Some(cause);
                if let Some(tls) = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                    return SendError::Connect(explain_tls(tls).to_owned());
                }
            }
            // hyper-util's connector says it in the text of a private type; nothing else tells a failed look-up.
            of_name |= cause.to_string() == "dns error";
            source = cause.source();
        }
        let kind = io_error.map_or_else(|| "no further detail".to_owned(), |error| error.kind().to_string());
        match error {
            _ if of_name => SendError::Name,
            error if error.is_timeout() && error.is_connect() => SendError::ConnectTimeout(self.connect_timeout),
            error if error.is_connect() => SendError::Connect(kind),
            error if error.is_timeout() => SendError::Timeout(self.timeout),
            _ => SendError::Broken(kind),
        }
    }
}

/// What `answer` gives by `deadline`, or a little later: when the time is over, an answer may lie in the socket, unread because
/// nothing ran. On a timer that is in time this takes [`LATE`] longer, since a standstill may have ended right before.
async fn listen_until<T>(deadline: Instant, answer: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(answer);
    if let Ok(answer) = timeout_at(deadline, &mut answer).await {
        return Some(answer);
    }
    let now = Instant::now();
    let grace = if now.duration_since(deadline) > LATE { GRACE } else { LATE };
    timeout_at(now + grace, answer).await.ok()
}

/// What of a TLS failure helps an operator; certificates' own texts are not repeated.
fn explain_tls(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(_) => "the TLS certificate is not valid for this destination",
        rustls::Error::AlertReceived(_) => "the destination refused the TLS handshake",
        _ => "the TLS handshake failed",
    }
}

fn retry_after(response: &Response) -> Option<Duration> {
    let value = response.headers().get(reqwest::header::RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(value, SystemTime::now())
}

/// Reads up to [`READ_MAX`] bytes into `body`, which keeps what came when reading fails or is cancelled.
async fn read_bounded(mut response: Response, body: &mut Vec<u8>) -> Result<BodyEnd, reqwest::Error> {
    while let Some(chunk) = response.chunk().await? {
        let room = READ_MAX - body.len();
        if chunk.len() > room {
            body.extend_from_slice(&chunk[..room]);
            return Ok(BodyEnd::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(BodyEnd::Complete)
}
