//! One connection: two peers, a line in each direction, and the orders that end it.
//!
//! A line reads ahead a bounded number of pieces, each with the time at which it was read, and decides at its far end
//! what becomes of them. So a fault that begins or ends concerns what is on its way too, and nothing overtakes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::{Direction, Faults};

/// Read ahead of the far end, in pieces of at most this size.
const PIECES_MAX: usize = 64;
const PIECE_BYTES_MAX: usize = 16 * 1024;

/// What is asked of one connection, each at most once.
#[derive(Default)]
pub(super) struct Orders {
    pub(super) cut: Notify,
    half_close_to_target: Notify,
    half_close_to_client: Notify,
}

impl Orders {
    pub(super) fn half_close(&self, direction: Direction) -> &Notify {
        match direction {
            Direction::ToTarget => &self.half_close_to_target,
            Direction::ToClient => &self.half_close_to_client,
        }
    }
}

/// What came out of one peer.
struct Piece {
    read_at: Instant,
    what: What,
}

enum What {
    Bytes(Bytes),
    End,
    Broken,
}

/// Carries bytes between `client` and `target` until both have ended, one has broken, or the order to cut.
pub(super) async fn run(
    mut client: TcpStream,
    target: SocketAddr,
    mut faults: watch::Receiver<Faults>,
    orders: Arc<Orders>,
) {
    let is_cut = tokio::select! {
        () = orders.cut.notified() => true,
        () = until_heard(Direction::ToTarget, &mut faults) => false,
    };
    // An order to cut that comes now waits for the other peer, which has to see the reset too.
    let Some(mut server) = (if is_cut { None } else { dial(target).await.ok() }) else { return reset(&client) };
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let ended = tokio::select! {
        () = orders.cut.notified() => Err(io::ErrorKind::ConnectionAborted.into()),
        ended = async { tokio::try_join!(
            carry(from_client, to_server, Direction::ToTarget, faults.clone(), &orders),
            carry(from_server, to_client, Direction::ToClient, faults.clone(), &orders),
        )} => ended.map(drop),
    };
    if ended.is_err() {
        reset(&client);
        reset(&server);
    }
}

async fn dial(target: SocketAddr) -> io::Result<TcpStream> {
    let server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    Ok(server)
}

/// Waits until something in this direction would arrive.
async fn until_heard(direction: Direction, faults: &mut watch::Receiver<Faults>) {
    // Without a proxy there is nobody to wait for.
    let _ = faults.wait_for(|faults| !faults.is_silent(direction)).await.map(drop);
}

/// Makes the close that follows a reset. A socket that refuses is closed already.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// One direction, until its end.
async fn carry(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    direction: Direction,
    faults: watch::Receiver<Faults>,
    orders: &Orders,
) -> io::Result<()> {
    let (pieces, waiting) = mpsc::channel(PIECES_MAX);
    let reading = async {
        read(from, pieces).await;
        Ok(())
    };
    tokio::try_join!(reading, write(waiting, to, direction, faults, orders.half_close(direction))).map(drop)
}

async fn read(mut from: ReadHalf<'_>, pieces: mpsc::Sender<Piece>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(PIECE_BYTES_MAX);
        let what = match from.read_buf(&mut buffer).await {
            Ok(0) => What::End,
            Ok(_) => What::Bytes(buffer.split().freeze()),
            Err(_) => What::Broken,
        };
        let is_last = !matches!(what, What::Bytes(_));
        if pieces.send(Piece { read_at: Instant::now(), what }).await.is_err() || is_last {
            return;
        }
    }
}

async fn write(
    mut pieces: mpsc::Receiver<Piece>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut faults: watch::Receiver<Faults>,
    half_close: &Notify,
) -> io::Result<()> {
    let mut closed = false;
    loop {
        let what = tokio::select! {
            biased;
            () = half_close.notified(), if !closed => {
                to.shutdown().await?;
                closed = true;
                continue;
            }
            what = next(&mut pieces, direction, &mut faults) => what,
        };
        match what {
            What::Bytes(_) if closed => {}
            What::Bytes(bytes) => {
                if let Err(broken) = to.write_all(&bytes).await {
                    // The other peer hears of it by the way back.
                    until_heard(direction.opposite(), &mut faults).await;
                    return Err(broken);
                }
            }
            What::End if closed => return Ok(()),
            What::End => return to.shutdown().await,
            What::Broken => return Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

/// The next piece, as soon as the faults let it arrive.
async fn next(pieces: &mut mpsc::Receiver<Piece>, direction: Direction, faults: &mut watch::Receiver<Faults>) -> What {
    let Some(piece) = pieces.recv().await else { return What::Broken };
    loop {
        let now = *faults.borrow_and_update();
        let due = piece.read_at + now.delay;
        let is_silent = now.is_silent(direction);
        if !is_silent && due <= Instant::now() {
            return piece.what;
        }
        tokio::select! {
            () = tokio::time::sleep_until(due), if !is_silent => {}
            changed = faults.changed() => if changed.is_err() { return What::Broken },
        }
    }
}
