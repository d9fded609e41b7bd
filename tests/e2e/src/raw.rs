//! Requests byte by byte: what no well-behaved client would send.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// An HTTP/1.1 reply, read until the connection closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Its status; 0 when the connection closed without one.
    pub status: u16,
    /// Its head, in lower case.
    pub head: String,
    /// Its body as text.
    pub body: String,
}

impl Reply {
    /// The first value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends bytes and reads the reply: as many bytes as it announces, or until the other side
/// closes (or has said nothing for ten seconds). Envoy waits a second before it closes after
/// a reply of its own, which nobody needs to wait for.
///
/// # Panics
/// When nobody listens.
pub async fn raw_request(port: u16, bytes: &[u8]) -> Reply {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the site listens");
    exchange(stream, bytes).await
}

/// The same over a connection that is already open.
pub async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &[u8]) -> Reply {
    // The other side may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    read_reply(&mut stream).await
}

/// Reads one reply.
pub(crate) async fn read_reply<S: AsyncRead + Unpin>(stream: &mut S) -> Reply {
    let mut answer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    while let Ok(Ok(read @ 1..)) =
        tokio::time::timeout(Duration::from_secs(10), stream.read(&mut chunk)).await
    {
        answer.extend_from_slice(&chunk[..read]);
        if is_complete(&answer) {
            break;
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Reply { status, head: head.to_lowercase(), body: body.to_owned() }
}

fn is_complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_lowercase();
    let Some((head, _)) = text.split_once("\r\n\r\n") else { return false };
    let announced = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let body = answer.len() - answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(0) - 4;
    announced.and_then(|length| length.parse().ok()).is_some_and(|length: usize| body >= length)
}
