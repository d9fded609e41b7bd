//! Requests byte by byte: what no well-behaved client would send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

/// Sends bytes and reads until the other side closes (or has said nothing for ten seconds).
///
/// # Panics
/// When nobody listens.
pub async fn raw_request(port: u16, bytes: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the site listens");
    // The other side may answer and close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut chunk = [0; 16 * 1024];
    while let Ok(Ok(read @ 1..)) =
        tokio::time::timeout(Duration::from_secs(10), stream.read(&mut chunk)).await
    {
        answer.extend_from_slice(&chunk[..read]);
    }
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Reply { status, head: head.to_lowercase(), body: body.to_owned() }
}
