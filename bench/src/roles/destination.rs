//! The destinations: one lean HTTP/1.1 server for all of them, each under a path of its own (`/0`, `/1`, …). It counts
//! how often which callback came where, so that what was sent can be compared with what arrived.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::load::{NUMBER_DIGITS, NUMBER_MARK, SENT_DIGITS, SENT_MARK};
use super::wire;
use crate::measure::{Latencies, Quantiles, monotonic_ns};

/// Most bytes of one request.
const REQUEST_MAX: usize = 1 << 20;
const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
/// The paths of the orchestrator's own requests.
pub(crate) const REPORT: &str = "/report";
pub(crate) const MARK: &str = "/mark";
/// No request is refused from now on.
pub(crate) const TAKE_ALL: &str = "/take-all";
/// Every request is refused with 500 from now on.
pub(crate) const FAIL: &str = "/fail";

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// How many destinations.
    pub destinations: usize,
    /// One that takes requests and never answers.
    pub hung: Option<usize>,
    /// How long an answer takes.
    pub delay_ms: u64,
    /// Every request is refused with this status, until told otherwise.
    pub refuse: Option<u16>,
}

/// Said when it listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listening {
    /// The address.
    pub address: SocketAddr,
}

/// What was taken. A destination that hangs is not counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Requests, by destination, without those that were refused.
    pub requests: Vec<u64>,
    /// Different callbacks, by destination.
    pub callbacks: Vec<u64>,
    /// Requests that were refused, at all destinations.
    pub refused: u64,
    /// One past the highest number that came anywhere.
    pub numbers_below: u64,
    /// From the moment that a callback was to be sent at to its arrival here, in milliseconds, since the last mark.
    pub latency: Quantiles,
}

struct State {
    plan: Plan,
    /// By destination and number.
    seen: Vec<Vec<bool>>,
    requests: Vec<u64>,
    refused: u64,
    latencies: Latencies,
}

/// Serves until the parent ends it.
///
/// # Errors
/// When there is no port.
pub(super) async fn run(plan: Plan) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    wire::say(&Listening { address: listener.local_addr()? })?;
    let state = Rc::new(RefCell::new(State {
        seen: vec![Vec::new(); plan.destinations],
        requests: vec![0; plan.destinations],
        refused: 0,
        latencies: Latencies::new(),
        plan,
    }));
    let accepting = tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await?;
            let state = Rc::clone(&state);
            // A client that goes away ends its connection and nothing else.
            tokio::task::spawn_local(async move { serve(stream, &state).await });
        }
    });
    tokio::select! {
        ended = wire::wait_for_end() => ended,
        broken = accepting => broken?,
    }
}

async fn serve(mut stream: TcpStream, state: &RefCell<State>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(4096);
    let delay = Duration::from_millis(state.borrow().plan.delay_ms);
    loop {
        let request = loop {
            if let Some(request) = Request::read(&buffer)? {
                break request;
            }
            if buffer.len() > REQUEST_MAX {
                return Err(io::Error::other(format!("a request is longer than {REQUEST_MAX} bytes")));
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let answer = state.borrow_mut().answer(&request);
        buffer.drain(..request.bytes);
        match answer {
            Some(answer) => {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                stream.write_all(&answer).await?;
            }
            // Hung: until the client gives up.
            None => while stream.read_buf(&mut buffer).await? > 0 {},
        }
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Option<Vec<u8>> {
        match &request.target {
            Target::Mark => self.latencies = Latencies::new(),
            Target::Report => return Some(self.report()),
            Target::Destination(number) if self.plan.hung == Some(*number) => return None,
            Target::TakeAll => self.plan.refuse = None,
            Target::Fail => self.plan.refuse = Some(500),
            Target::Destination(number) => match self.plan.refuse {
                Some(status) => {
                    self.refused += 1;
                    return Some(refused(status));
                }
                None => self.count(*number, request),
            },
        }
        Some(TAKEN.to_vec())
    }

    fn count(&mut self, destination: usize, request: &Request) {
        let (Some(seen), Some(requests)) = (self.seen.get_mut(destination), self.requests.get_mut(destination)) else {
            return;
        };
        *requests += 1;
        let Some(number) = request.number.and_then(|number| usize::try_from(number).ok()) else { return };
        if seen.len() <= number {
            seen.resize(number + 1, false);
        }
        if let Some(place) = seen.get_mut(number) {
            *place = true;
        }
        if let Some(sent_ns) = request.sent_ns.filter(|sent_ns| *sent_ns > 0) {
            self.latencies.add(Duration::from_nanos(monotonic_ns().saturating_sub(sent_ns)));
        }
    }

    fn report(&self) -> Vec<u8> {
        let report = Report {
            requests: self.requests.clone(),
            callbacks: self.seen.iter().map(|seen| seen.iter().filter(|there| **there).count() as u64).collect(),
            refused: self.refused,
            numbers_below: self.seen.iter().map(Vec::len).max().unwrap_or(0) as u64,
            latency: self.latencies.quantiles(),
        };
        let body = serde_json::to_vec(&report).unwrap_or_default();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), &body].concat()
    }
}

fn refused(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} Refused\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

#[derive(Debug, PartialEq, Eq)]
enum Target {
    Destination(usize),
    Report,
    Mark,
    TakeAll,
    Fail,
}

/// What is needed of a request.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    target: Target,
    number: Option<u64>,
    sent_ns: Option<u64>,
    /// Its length, head and body.
    bytes: usize,
}

impl Request {
    /// `None`: not all of it is there yet.
    fn read(bytes: &[u8]) -> io::Result<Option<Self>> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("a request has no {what}"));
        let Some(head_bytes) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
        let head = bytes.get(..head_bytes).and_then(|head| str::from_utf8(head).ok()).ok_or_else(|| invalid("head"))?;
        let mut lines = head.split("\r\n");
        let path = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or_else(|| invalid("path"))?;
        let target = match path {
            REPORT => Target::Report,
            MARK => Target::Mark,
            TAKE_ALL => Target::TakeAll,
            FAIL => Target::Fail,
            path => Target::Destination(path.trim_start_matches('/').parse().map_err(|_| invalid("known path"))?),
        };
        let body_bytes: usize = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(Ok(0), |(_, value)| value.trim().parse().map_err(|_| invalid("length")))?;
        let body_at = head_bytes + 4;
        let Some(body) = bytes.get(body_at..body_at + body_bytes) else { return Ok(None) };
        let number = digits_after(body, NUMBER_MARK, NUMBER_DIGITS);
        let sent_ns = digits_after(body, SENT_MARK, SENT_DIGITS);
        Ok(Some(Self { target, number, sent_ns, bytes: body_at + body_bytes }))
    }
}

fn digits_after(body: &[u8], mark: &str, digits: usize) -> Option<u64> {
    let at = find(body, mark.as_bytes())? + mark.len();
    str::from_utf8(body.get(at..at + digits)?).ok()?.parse().ok()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn delivery(path: &str, number: u64) -> Vec<u8> {
        let body = format!(r#"{{"lead":{{{NUMBER_MARK}{number:016}",{SENT_MARK}{:020}"}}}}"#, 1);
        format!("POST {path} HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[test]
    fn a_request_is_read_when_it_is_whole() {
        let bytes = delivery("/3", 77);
        let request = Request::read(&bytes).unwrap().unwrap();
        let whole = Request { target: Target::Destination(3), number: Some(77), sent_ns: Some(1), bytes: bytes.len() };
        assert_eq!(request, whole);
        assert_eq!(Request::read(&bytes[..bytes.len() - 1]).unwrap(), None);
    }

    fn state(hung: Option<usize>, refuse: Option<u16>) -> State {
        let plan = Plan { destinations: 2, hung, delay_ms: 0, refuse };
        State { plan, seen: vec![Vec::new(); 2], requests: vec![0; 2], refused: 0, latencies: Latencies::new() }
    }

    #[test]
    fn what_is_refused_is_counted_apart() {
        let mut state = state(None, Some(400));
        let mut send = |path: &str| state.answer(&Request::read(&delivery(path, 7)).unwrap().unwrap()).unwrap();
        assert!(send("/0").starts_with(b"HTTP/1.1 400 "));
        send(TAKE_ALL);
        assert_eq!(send("/0"), TAKEN);
        send(FAIL);
        assert!(send("/0").starts_with(b"HTTP/1.1 500 "));
        assert_eq!((state.refused, state.requests), (2, vec![1, 0]));
    }

    #[test]
    fn what_came_is_counted_by_destination_and_the_hung_one_never_answers() {
        let mut state = state(Some(1), None);
        let mut send = |path: &str, number| state.answer(&Request::read(&delivery(path, number)).unwrap().unwrap());
        assert!(send("/0", 0).is_some());
        assert!(send("/0", 2).is_some());
        assert!(send("/0", 2).is_some());
        assert_eq!(send("/1", 0), None);
        let answer = send("/report", 0).unwrap();
        let report: Report = serde_json::from_slice(&answer[find(&answer, b"\r\n\r\n").unwrap() + 4..]).unwrap();
        assert_eq!(report.requests, [3, 0]);
        assert_eq!(report.callbacks, [2, 0]);
        assert_eq!(report.numbers_below, 3);
    }
}
