//! As many requests as the proxy takes, each from an address of its own if need be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How many requests were answered with which status. 0 stands for those without an answer.
pub type Sprayed = BTreeMap<u16, u64>;

/// What requests look like.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Path and query.
    pub path: String,
    /// Header lines beside `host` and `x-forwarded-for`, each with its line end.
    pub headers: &'static str,
    /// Kept-alive connections, each of which makes a request as soon as the one before it is
    /// answered.
    pub connections: u32,
    /// Requests in all.
    pub requests: u64,
}

/// How requests were answered.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// By status.
    pub statuses: Sprayed,
    /// How long each took, in microseconds, sorted.
    pub took_us: Vec<u32>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

/// Makes `requests` GET requests for `path` over `connections` kept-alive connections, each
/// as soon as the one before it is answered. The n-th request of all comes from `client(n)`.
///
/// # Panics
/// When nobody listens.
pub async fn spray<C>(port: u16, path: &str, connections: u32, requests: u64, client: C) -> Sprayed
where
    C: Fn(u64) -> String + Send + Sync + 'static,
{
    let shape = Shape { path: path.to_owned(), headers: "", connections, requests };
    spray_timed(port, &shape, client).await.statuses
}

/// The same for requests of any shape, with the time that each took.
///
/// # Panics
/// When nobody listens.
pub async fn spray_timed<C>(port: u16, shape: &Shape, client: C) -> Answers
where
    C: Fn(u64) -> String + Send + Sync + 'static,
{
    let next = Arc::new(AtomicU64::new(0));
    let client = Arc::new(client);
    let start = crate::now();
    let tasks: Vec<_> = (0..shape.connections)
        .map(|_| {
            let (next, client) = (next.clone(), client.clone());
            let head = format!(
                "GET {} HTTP/1.1\r\nhost: site.example\r\n{}x-forwarded-for: ",
                shape.path, shape.headers
            );
            let requests = shape.requests;
            tokio::spawn(async move {
                let mut answers = Answers::default();
                let mut connection = Connection::open(port).await;
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= requests {
                        return answers;
                    }
                    let request = format!("{head}{}\r\n\r\n", client(n));
                    let start = crate::now();
                    let status = connection.exchange(request.as_bytes()).await.unwrap_or(0);
                    let took = start.elapsed().as_micros();
                    answers.took_us.push(u32::try_from(took).unwrap_or(u32::MAX));
                    *answers.statuses.entry(status).or_default() += 1;
                    if status == 0 {
                        connection = Connection::open(port).await;
                    }
                }
            })
        })
        .collect();
    let mut all = Answers::default();
    for task in tasks {
        let answers = task.await.expect("a connection's counts");
        for (status, count) in answers.statuses {
            *all.statuses.entry(status).or_default() += count;
        }
        all.took_us.extend(answers.took_us);
    }
    all.elapsed = start.elapsed();
    all.took_us.sort_unstable();
    all
}
struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
}

impl Connection {
    async fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the site listens");
        stream.set_nodelay(true).expect("a TCP option");
        Self { stream, answer: Vec::with_capacity(4096) }
    }

    /// Status of the answer; `None` when there is none, or one that does not say its length.
    async fn exchange(&mut self, request: &[u8]) -> Option<u16> {
        self.stream.write_all(request).await.ok()?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await.ok()? == 0 {
                return None;
            }
            let Some(end) = find(&self.answer, b"\r\n\r\n") else { continue };
            let head = &self.answer[..end];
            // Envoy writes names in lower case.
            let at = find(head, b"\r\ncontent-length: ")? + 18;
            let length = number(&head[at..])?;
            if self.answer.len() >= end + 4 + length {
                // "HTTP/1.1 200 …"
                return u16::try_from(number(head.get(9..)?)?).ok();
            }
        }
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn number(text: &[u8]) -> Option<usize> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&text[..digits]).ok()?.parse().ok()
}
