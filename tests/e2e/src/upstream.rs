//! An upstream that takes and sends large bodies and speaks WebSocket's first words, for what
//! passes through the filter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Bytes of one write.
const PIECE: usize = 64 * 1024;

/// A running upstream.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub port: u16,
    received: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Upstream {
    /// Starts it on a free port.
    ///
    /// `GET /bytes/N` answers with N bytes, everything else with the number of bytes that the
    /// request's body had; an upgrade is accepted, and what comes is sent back.
    ///
    /// # Panics
    /// When it can't listen.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let received = Arc::new(AtomicU64::new(0));
        let counted = received.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, counted.clone()));
            }
        });
        Self { port, received, task }
    }

    /// Bytes of bodies that arrived so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, received: Arc<AtomicU64>) {
    let mut stream = BufReader::with_capacity(PIECE, stream);
    while answer(&mut stream, &received).await.is_some() {}
}

/// Answers one request; `None` when the connection is over.
async fn answer(stream: &mut BufReader<TcpStream>, received: &AtomicU64) -> Option<()> {
    let (mut path, mut length, mut upgrade) = (String::new(), 0u64, false);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_ascii_lowercase();
        if path.is_empty() {
            path = line.split(' ').nth(1)?.to_owned();
        } else if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        } else if line.starts_with("upgrade: ") {
            upgrade = true;
        } else if line.is_empty() {
            break;
        }
    }
    if upgrade {
        let head =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut piece = vec![0; PIECE];
        loop {
            let read = stream.read(&mut piece).await.ok().filter(|read| *read > 0)?;
            stream.write_all(&piece[..read]).await.ok()?;
        }
    }
    let mut left = length;
    let mut piece = vec![0; PIECE];
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(PIECE));
        let read = stream.read(&mut piece[..most]).await.ok().filter(|read| *read > 0)?;
        left -= read as u64;
        received.fetch_add(read as u64, Ordering::Relaxed);
    }
    let Some(bytes) = path.strip_prefix("/bytes/").and_then(|n| n.parse::<u64>().ok()) else {
        let body = length.to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        return stream.write_all(head.as_bytes()).await.ok();
    };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;
    let mut left = bytes;
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(PIECE));
        stream.write_all(&piece[..most]).await.ok()?;
        left -= most as u64;
    }
    stream.flush().await.ok()
}
