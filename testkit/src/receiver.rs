//! A destination that does what a test tells it: a real HTTP server on loopback whose answers can change on the way.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use bytes::Bytes;
use futures_util::stream;

use crate::wait::wait_for;

/// How long [`Receiver::wait_for_requests`] waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a receiver answers.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    delay: Duration,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Whole,
    Never,
    Reset,
    Endless,
}

impl Answer {
    /// A status with an empty body.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), delay: Duration::ZERO, how: How::Whole }
    }

    /// None at all; the connection stays open.
    pub fn hang() -> Self {
        Self { how: How::Never, ..Self::status(200) }
    }

    /// None: the connection is closed instead.
    pub fn reset() -> Self {
        Self { how: How::Reset, ..Self::status(200) }
    }

    /// A status with a body that goes on as long as somebody reads it.
    pub fn endless(status: u16) -> Self {
        Self { how: How::Endless, ..Self::status(status) }
    }

    /// A redirect to `location`.
    pub fn redirect(location: &str) -> Self {
        Self::status(307).header("location", location)
    }

    /// The same with a header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same with this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The same, later.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// A request that came in.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// Method, upper case.
    pub method: String,
    /// Path, with the query where there is one.
    pub path: String,
    /// Header names (lower case) and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// When it was there as a whole.
    pub at: Instant,
    /// The status that it is answered with; `None`: it gets no answer.
    pub answer: Option<u16>,
}

impl ReceivedRequest {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// A scriptable HTTP server on 127.0.0.1. Stops when it is dropped.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    handle: ServerHandle,
}

#[derive(Default)]
struct Shared {
    script: Mutex<Script>,
    requests: Mutex<Vec<ReceivedRequest>>,
    in_flight: AtomicUsize,
    in_flight_max: AtomicUsize,
}

struct Script {
    in_turn: VecDeque<Answer>,
    standing: Answer,
    by_path: Vec<(String, Answer)>,
}

impl Default for Script {
    fn default() -> Self {
        Self { in_turn: VecDeque::new(), standing: Answer::status(200), by_path: Vec::new() }
    }
}

impl Receiver {
    /// A receiver that answers 200 to everything.
    ///
    /// # Panics
    /// When there is no free port: no test can go on then.
    #[allow(clippy::expect_used)]
    pub async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let state = Arc::clone(&shared);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::from(Arc::clone(&state)))
                .app_data(web::PayloadConfig::new(16 << 20))
                .default_service(web::to(answer))
        })
        .workers(1)
        .shutdown_timeout(0)
        .disable_signals()
        .listen(listener)
        .expect("the port is ours")
        .run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { address, shared, handle }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of `path` (with a leading slash) here.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers like this from now on.
    pub fn answer_with(&self, answer: Answer) {
        let mut script = lock(&self.shared.script);
        script.in_turn.clear();
        script.standing = answer;
    }

    /// Answers with these first, one after the other, before what it answers otherwise.
    pub fn answer_in_turn(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.shared.script).in_turn.extend(answers);
    }

    /// Answers like this wherever the path begins with `prefix`, whatever it answers otherwise. The last word counts.
    pub fn answer_at(&self, prefix: &str, answer: Answer) {
        lock(&self.shared.script).by_path.insert(0, (prefix.to_owned(), answer));
    }

    /// Everything that came in so far, in order.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        lock(&self.shared.requests).clone()
    }

    /// The same, and forgets them.
    pub fn take_requests(&self) -> Vec<ReceivedRequest> {
        std::mem::take(&mut *lock(&self.shared.requests))
    }

    /// Requests that are under way.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// The most requests that were under way at once.
    pub fn in_flight_max(&self) -> usize {
        self.shared.in_flight_max.load(Ordering::SeqCst)
    }

    /// Waits until at least `n` requests have come in, and gives them.
    ///
    /// # Panics
    /// When they do not come.
    pub async fn wait_for_requests(&self, n: usize) -> Vec<ReceivedRequest> {
        wait_for(&format!("{n} requests"), PATIENCE, async || {
            let requests = self.requests();
            if requests.len() >= n { Ok(requests) } else { Err(requests.len()) }
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // The command is sent at once; nobody has to wait for its end.
        drop(self.handle.stop(false));
    }
}

/// Counts a request as under way until it is dropped.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn new(shared: Arc<Shared>) -> Self {
        let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.in_flight_max.fetch_max(now, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(shared: web::Data<Shared>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let _in_flight = InFlight::new(Arc::clone(&shared));
    let answer = shared.take(&request, &body);
    if !answer.delay.is_zero() {
        tokio::time::sleep(answer.delay).await;
    }
    if matches!(answer.how, How::Never) {
        std::future::pending::<()>().await;
    }
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    for (name, value) in &answer.headers {
        response.append_header((name.as_str(), value.as_str()));
    }
    match answer.how {
        How::Endless => {
            let chunk = Bytes::from(vec![b'x'; 8 * 1024]);
            response.streaming(stream::repeat_with(move || Ok::<_, Infallible>(chunk.clone())))
        }
        // A body that fails before its first byte takes the connection with it.
        How::Reset => {
            response.streaming(stream::iter([Err::<Bytes, _>(std::io::Error::from(std::io::ErrorKind::Other))]))
        }
        How::Whole | How::Never => response.body(answer.body),
    }
}

impl Shared {
    /// Records a request and takes its answer.
    fn take(&self, request: &HttpRequest, body: &[u8]) -> Answer {
        let path = request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        let answer = self.next_answer(&path);
        lock(&self.requests).push(ReceivedRequest {
            method: request.method().to_string(),
            path,
            headers: request
                .headers()
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
                .collect(),
            body: body.to_vec(),
            at: Instant::now(),
            answer: matches!(answer.how, How::Whole | How::Endless).then_some(answer.status),
        });
        answer
    }

    fn next_answer(&self, path: &str) -> Answer {
        let mut script = lock(&self.script);
        if let Some((_, answer)) = script.by_path.iter().find(|(prefix, _)| path.starts_with(prefix)) {
            return answer.clone();
        }
        script.in_turn.pop_front().unwrap_or_else(|| script.standing.clone())
    }
}

/// Whole at every point where a panic could happen.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
