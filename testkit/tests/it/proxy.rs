//! The fault proxy: each fault seen from both peers.

use std::io::ErrorKind;
use std::time::Duration;

use testkit::proxy::{Direction, Proxy};
use testkit::wait::wait_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const LIMIT: Duration = Duration::from_secs(10);
/// Loopback is a thousand times faster: what has not come within it was held back.
const SILENCE: Duration = Duration::from_millis(100);

/// A server that a test plays itself, with a proxy before it.
struct Line {
    proxy: Proxy,
    server: TcpListener,
}

impl Line {
    async fn new() -> Self {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { proxy: Proxy::to(server.local_addr().unwrap()).await, server }
    }

    async fn dial(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(self.proxy.addr()).await
    }

    /// Both ends of a new connection.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let client = self.dial().await.unwrap();
        let (server, _) = timeout(LIMIT, self.server.accept()).await.unwrap().unwrap();
        (client, server)
    }
}

/// Sends `text` from one end and reads it at the other.
async fn assert_carries(from: &mut TcpStream, to: &mut TcpStream, text: &str) {
    from.write_all(text.as_bytes()).await.unwrap();
    assert_eq!(read(to, text.len()).await, text);
}

async fn read(from: &mut TcpStream, bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    timeout(LIMIT, from.read_exact(&mut buffer)).await.expect("something to read").unwrap();
    String::from_utf8(buffer).unwrap()
}

/// Nothing comes here, not even an end.
async fn assert_silent(stream: &mut TcpStream) {
    let came = timeout(SILENCE, stream.read(&mut [0; 16])).await;
    assert!(came.is_err(), "{came:?}");
}

async fn assert_reset(stream: &mut TcpStream) {
    let ended = timeout(LIMIT, stream.read(&mut [0; 16])).await.expect("an end");
    assert_eq!(ended.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
}

async fn assert_ended(stream: &mut TcpStream) {
    assert_eq!(timeout(LIMIT, stream.read(&mut [0; 16])).await.expect("an end").unwrap(), 0);
}

#[tokio::test]
async fn a_healthy_proxy_carries_both_ways_and_counts() {
    let line = Line::new().await;
    let (mut client, mut server) = line.connect().await;
    assert_carries(&mut client, &mut server, "ping").await;
    assert_carries(&mut server, &mut client, "pong").await;
    // More than is read ahead, so that both wait for each other.
    let much = "x".repeat(4 << 20);
    let (sent, came) = tokio::join!(client.write_all(much.as_bytes()), read(&mut server, much.len()));
    sent.unwrap();
    assert!(came == much, "what came is what was sent");
    let (second, _other_end) = line.connect().await;
    assert_eq!((line.proxy.open(), line.proxy.accepted()), (2, 2));

    client.shutdown().await.unwrap();
    assert_ended(&mut server).await;
    assert_carries(&mut server, &mut client, "still").await;
    drop((client, server));
    wait_until("the connection to be gone", LIMIT, || async { line.proxy.open() == 1 }).await;
    drop(line.proxy);
    drop(second);
}

#[tokio::test]
async fn a_url_leads_through_the_proxy() {
    let line = Line::new().await;
    let target = line.server.local_addr().unwrap();
    let url = line.proxy.url(&format!("amqp://user:word@{target}/%2f"));
    assert_eq!(url, format!("amqp://user:word@{}/%2f", line.proxy.addr()));
}

#[tokio::test]
async fn a_cut_resets_what_is_open_and_nothing_else() {
    let line = Line::new().await;
    let (mut client, mut server) = line.connect().await;
    line.proxy.cut().await;
    assert_eq!(line.proxy.open(), 0);
    assert_reset(&mut client).await;
    assert_reset(&mut server).await;
    let (mut client, mut server) = line.connect().await;
    assert_carries(&mut client, &mut server, "again").await;
}

#[tokio::test]
async fn refusing_concerns_new_connections_alone() {
    let line = Line::new().await;
    let (mut client, mut server) = line.connect().await;
    line.proxy.refuse().await;
    for _ in 0..3 {
        assert_eq!(line.dial().await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    assert_carries(&mut client, &mut server, "open").await;
    line.proxy.accept().await;
    let (mut client, mut server) = line.connect().await;
    assert_carries(&mut client, &mut server, "new").await;
    line.proxy.refuse().await;
    line.proxy.heal().await;
    line.connect().await;
}

#[tokio::test]
async fn a_black_hole_is_silent_until_it_is_healed() {
    let line = Line::new().await;
    let (mut client, mut server) = line.connect().await;
    line.proxy.black_hole();
    client.write_all(b"late").await.unwrap();
    server.write_all(b"tardy").await.unwrap();
    assert_silent(&mut client).await;
    assert_silent(&mut server).await;
    let mut new = line.dial().await.unwrap();
    new.write_all(b"hello").await.unwrap();
    assert!(timeout(SILENCE, line.server.accept()).await.is_err(), "nobody came through");
    assert_eq!(line.proxy.open(), 2);

    line.proxy.heal().await;
    assert_eq!(read(&mut server, 4).await, "late");
    assert_eq!(read(&mut client, 5).await, "tardy");
    let (mut accepted, _) = timeout(LIMIT, line.server.accept()).await.unwrap().unwrap();
    assert_eq!(read(&mut accepted, 5).await, "hello");
}

#[tokio::test]
async fn a_death_in_a_black_hole_is_not_heard_of_before_the_end_of_it() {
    let line = Line::new().await;
    let (client, mut server) = line.connect().await;
    line.proxy.black_hole();
    client.set_zero_linger().unwrap();
    drop(client);
    assert_silent(&mut server).await;
    line.proxy.heal().await;
    assert_reset(&mut server).await;
}

#[tokio::test]
async fn a_black_hole_in_one_direction_lets_the_other_through() {
    let line = Line::new().await;
    let (mut client, mut server) = line.connect().await;
    line.proxy.black_hole_towards(Direction::ToClient);
    assert_carries(&mut client, &mut server, "there").await;
    server.write_all(b"and back").await.unwrap();
    assert_silent(&mut client).await;
    line.proxy.heal().await;
    assert_eq!(read(&mut client, 8).await, "and back");

    line.proxy.black_hole_towards(Direction::ToTarget);
    client.set_zero_linger().unwrap();
    drop(client);
    // The dead client's host resets what it is sent, by the way that is silent.
    server.write_all(b"anybody there?").await.unwrap();
    server.write_all(b"anybody?").await.unwrap();
    assert_silent(&mut server).await;
    line.proxy.heal().await;
    assert_reset(&mut server).await;
}

#[tokio::test]
async fn half_closing_ends_one_direction() {
    let line = Line::new().await;
    let (mut client, mut server) = line.connect().await;
    line.proxy.half_close(Direction::ToTarget);
    assert_ended(&mut server).await;
    assert_carries(&mut server, &mut client, "still here").await;
    client.write_all(b"into nothing").await.unwrap();
    assert_carries(&mut server, &mut client, "and here").await;
    line.proxy.half_close(Direction::ToClient);
    assert_ended(&mut client).await;
}

#[tokio::test]
async fn what_is_delayed_comes_later_and_in_order() {
    const DELAY: Duration = Duration::from_millis(80);
    let line = Line::new().await;
    let (mut client, mut server) = line.connect().await;
    line.proxy.delay(DELAY);
    let sent = Instant::now();
    for piece in ["one ", "two ", "three"] {
        client.write_all(piece.as_bytes()).await.unwrap();
    }
    assert_eq!(read(&mut server, 13).await, "one two three");
    assert!(sent.elapsed() >= DELAY, "{:?}", sent.elapsed());

    // Healing concerns what is on its way, too.
    line.proxy.delay(LIMIT * 10);
    client.write_all(b"soon").await.unwrap();
    assert_silent(&mut server).await;
    line.proxy.heal().await;
    assert_eq!(read(&mut server, 4).await, "soon");
}

#[tokio::test]
async fn without_a_server_behind_it_connections_are_reset() {
    let line = Line::new().await;
    let Line { proxy, server } = line;
    drop(server);
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_reset(&mut client).await;
    proxy.black_hole();
    let mut waiting = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_silent(&mut waiting).await;
    proxy.cut().await;
    assert_reset(&mut waiting).await;
}
