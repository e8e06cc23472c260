//! A keep-alive HTTP/1.1 client connection that does nothing but send prepared bytes and read the answer. It shares the
//! machine with what it measures, so every microsecond that it does not use is one that does not distort.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Most bytes of an answer; anything longer is a mistake.
const ANSWER_MAX: usize = 64 * 1024;

/// One connection, one request at a time.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    /// The status code.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: &'a [u8],
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// As the system says.
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends `request` and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer has no `content-length`.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            self.read_more().await?;
            if let Some(head) = Head::read(&self.buffer)? {
                break head;
            }
        };
        while self.buffer.len() < head.ends_at + head.body_bytes {
            self.read_more().await?;
        }
        let body = self.buffer.get(head.ends_at..head.ends_at + head.body_bytes).unwrap_or_default();
        Ok(Answer { status: head.status, body })
    }

    async fn read_more(&mut self) -> io::Result<()> {
        if self.buffer.len() > ANSWER_MAX {
            return Err(io::Error::other(format!("an answer is longer than {ANSWER_MAX} bytes")));
        }
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// What is needed of status line and headers.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    ends_at: usize,
    body_bytes: usize,
}

impl Head {
    /// `None`: not all of it is there yet.
    fn read(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some(length) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("an answer has no {what}"));
        let head =
            bytes.get(..length).and_then(|head| str::from_utf8(head).ok()).ok_or_else(|| invalid("text head"))?;
        let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(|| invalid("status"))?;
        let body_bytes = head
            .split("\r\n")
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse().ok())
            .ok_or_else(|| invalid("content-length"))?;
        Ok(Some(Self { status, ends_at: length + 4, body_bytes }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn heads_are_read_when_they_are_whole() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let whole = Head { status: 200, ends_at: 38, body_bytes: 5 };
        assert_eq!(Head::read(text).unwrap(), Some(whole));
        assert_eq!(Head::read(&text[..37]).unwrap(), None);
    }

    #[test]
    fn an_answer_without_a_length_is_refused() {
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(Head::read(text).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
