//! A TCP proxy that fails as networks and servers fail, when a test says so.
//!
//! It stands between any two parts that talk TCP: a client is given [`Proxy::addr`] (or [`Proxy::url`]) instead of the
//! server's. Until told otherwise it carries bytes both ways. Each control acts at once, on open and on new connections,
//! and several hold at the same time:
//!
//! | control | what the peers see | as after |
//! |---|---|---|
//! | [`cut`](Proxy::cut) | a reset of every open connection | a crash of a middlebox |
//! | [`refuse`](Proxy::refuse) | "connection refused" to new ones | a server that is stopped |
//! | [`black_hole`](Proxy::black_hole) | silence; connections stay open | a pulled cable, a frozen host |
//! | [`black_hole_towards`](Proxy::black_hole_towards) | silence in one direction | an asymmetric route |
//! | [`half_close`](Proxy::half_close) | the end of the stream, in one direction | a peer that sends no more |
//! | [`delay`](Proxy::delay) | everything later, in order | a long way |
//!
//! What a black hole swallows is not lost: TCP repeats it, so it arrives after [`heal`](Proxy::heal), as it does after
//! a partition. A peer's end or reset inside a black hole stays unseen as long.

mod connection;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::connection::Orders;

const BACKLOG: u32 = 1_024;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToTarget,
    /// From the server to the client.
    ToClient,
}

impl Direction {
    fn opposite(self) -> Self {
        match self {
            Self::ToTarget => Self::ToClient,
            Self::ToClient => Self::ToTarget,
        }
    }
}

/// What is wrong just now, beside the listener.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    silent_to_target: bool,
    silent_to_client: bool,
    delay: Duration,
}

impl Faults {
    fn is_silent(&self, direction: Direction) -> bool {
        match direction {
            Direction::ToTarget => self.silent_to_target,
            Direction::ToClient => self.silent_to_client,
        }
    }
}

/// A proxy on a loopback port of its own. Dropping it ends its connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The task that owns the listener; `None`: connections are refused.
    accepting: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    /// Bound and never listening: the port stays ours while connections are refused.
    _port: TcpSocket,
}

struct Shared {
    target: SocketAddr,
    faults: watch::Sender<Faults>,
    connections: Mutex<HashMap<u64, Connection>>,
    accepted: AtomicU64,
}

struct Connection {
    orders: Arc<Orders>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to `target`, healthy.
    ///
    /// # Panics
    /// When there is no free port: no test can go on then.
    pub async fn to(target: impl Into<SocketAddr>) -> Self {
        let port = bind((Ipv4Addr::LOCALHOST, 0).into());
        let address = port.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            target: target.into(),
            faults: watch::Sender::new(Faults::default()),
            connections: Mutex::default(),
            accepted: AtomicU64::new(0),
        });
        let proxy = Self { address, shared, accepting: tokio::sync::Mutex::default(), _port: port };
        proxy.accept().await;
        proxy
    }

    /// Where clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// `url`, which names the target's address, with this proxy's instead.
    ///
    /// # Panics
    /// When `url` does not name it.
    pub fn url(&self, url: &str) -> String {
        let (target, here) = (self.shared.target.to_string(), self.address.to_string());
        assert!(url.contains(&target), "the URL does not name {target}");
        url.replacen(&target, &here, 1)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        lock(&self.shared.connections).len()
    }

    /// Connections that were accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Resets every open connection, in both directions. New ones are accepted as before.
    pub async fn cut(&self) {
        let connections: Vec<Connection> = lock(&self.shared.connections).drain().map(|(_, open)| open).collect();
        for connection in connections {
            connection.orders.cut.notify_one();
            // It ends now; a panic in it is its test's failure already.
            let _ = connection.task.await;
        }
    }

    /// Refuses new connections. Open ones go on.
    pub async fn refuse(&self) {
        if let Some(task) = self.accepting.lock().await.take() {
            task.abort();
            // The listener is closed when the task is gone.
            let _ = task.await;
        }
    }

    /// Accepts new connections again.
    ///
    /// # Panics
    /// When the port cannot be listened on.
    pub async fn accept(&self) {
        let mut accepting = self.accepting.lock().await;
        if accepting.is_none() {
            let listener = bind(self.address).listen(BACKLOG).expect("the port is ours");
            *accepting = Some(tokio::spawn(accept_all(listener, Arc::clone(&self.shared))));
        }
    }

    /// Carries nothing more in either direction, and lets neither peer know.
    pub fn black_hole(&self) {
        self.black_hole_towards(Direction::ToTarget);
        self.black_hole_towards(Direction::ToClient);
    }

    /// Carries nothing more in this direction.
    pub fn black_hole_towards(&self, direction: Direction) {
        self.shared.faults.send_modify(|faults| match direction {
            Direction::ToTarget => faults.silent_to_target = true,
            Direction::ToClient => faults.silent_to_client = true,
        });
    }

    /// Ends the stream in this direction on every open connection: the peer it leads to reads its end, and what the
    /// other one still sends that way goes nowhere.
    pub fn half_close(&self, direction: Direction) {
        for connection in lock(&self.shared.connections).values() {
            connection.orders.half_close(direction).notify_one();
        }
    }

    /// Lets everything arrive this much later, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.shared.faults.send_modify(|faults| faults.delay = delay);
    }

    /// Ends silence, delay and refusal. What was cut or half closed stays so.
    pub async fn heal(&self) {
        self.shared.faults.send_replace(Faults::default());
        self.accept().await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.get_mut().take().iter().for_each(JoinHandle::abort);
        lock(&self.shared.connections).drain().for_each(|(_, connection)| connection.task.abort());
    }
}

/// A socket on `address` beside the one that keeps the port.
fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseport(true).expect("a fresh socket takes options");
    socket.set_reuseaddr(true).expect("a fresh socket takes options");
    socket.bind(address).expect("a free port");
    socket
}

async fn accept_all(listener: TcpListener, shared: Arc<Shared>) {
    // An aborted handshake is its client's business.
    loop {
        if let Ok((client, _)) = listener.accept().await {
            shared.open(client);
        }
    }
}

impl Shared {
    fn open(self: &Arc<Self>, client: TcpStream) {
        let number = self.accepted.fetch_add(1, Ordering::SeqCst);
        let orders = Arc::new(Orders::default());
        let running = connection::run(client, self.target, self.faults.subscribe(), Arc::clone(&orders));
        // Held until it is listed, so that its end cannot come before.
        let mut connections = lock(&self.connections);
        let shared = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            running.await;
            if let Some(shared) = shared.upgrade() {
                lock(&shared.connections).remove(&number);
            }
        });
        connections.insert(number, Connection { orders, task });
    }
}

/// Whole at every point where a panic could happen.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
