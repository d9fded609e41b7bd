//! A paced load over kept-alive connections, counting exactly what was answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A running load.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    admitted: AtomicU64,
    refused: AtomicU64,
    other: AtomicU64,
    broken: AtomicU64,
    unconnected: AtomicU64,
    closed: AtomicU64,
    unaccepted: AtomicU64,
    slipped: AtomicU64,
    slowest_us: AtomicU64,
}

/// What a load did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Answered with 200.
    pub admitted: u64,
    /// Answered with 403.
    pub refused: u64,
    /// Answered with anything else.
    pub other: u64,
    /// Not answered: the connection broke, or there was none.
    pub broken: u64,
    /// Of those, not even connected.
    pub unconnected: u64,
    /// Of those, on a kept connection that the server closed without a byte of an answer: what
    /// HTTP clients send again on another one (RFC 9112, 9.3.1).
    pub closed: u64,
    /// Of those, on a new connection that ended without a byte of an answer: the system had
    /// made it, and the listener was gone before it took it.
    pub unaccepted: u64,
    /// Requests from 198.18.1.0/24, which tests block, that were admitted.
    pub slipped: u64,
    /// The slowest answer.
    pub slowest: Duration,
}

impl Sent {
    /// All that was answered.
    #[must_use]
    pub const fn answered(&self) -> u64 {
        self.admitted + self.refused + self.other
    }
}

impl Load {
    /// Starts `connections` connections that make `rate` requests a second in all. Client
    /// addresses are 198.18.x.y, different for each request.
    #[must_use]
    pub fn start(port: u16, connections: u32, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Counts::default());
        let period = Duration::from_secs(1) * connections / rate;
        let tasks = (0..connections)
            .map(|n| tokio::spawn(connection(port, n, period, stop.clone(), counts.clone())))
            .collect();
        Self { stop, tasks, counts }
    }

    /// Ends it after the requests under way.
    pub async fn stop(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let _ = task.await;
        }
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Sent {
            admitted: read(&self.counts.admitted),
            refused: read(&self.counts.refused),
            other: read(&self.counts.other),
            broken: read(&self.counts.broken),
            unconnected: read(&self.counts.unconnected),
            closed: read(&self.counts.closed),
            unaccepted: read(&self.counts.unaccepted),
            slipped: read(&self.counts.slipped),
            slowest: Duration::from_micros(read(&self.counts.slowest_us)),
        }
    }
}

async fn connection(
    port: u16,
    number: u32,
    period: Duration,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
) {
    let mut ticks = tokio::time::interval(period);
    let mut stream = None;
    let mut n = 0u32;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        n = n.wrapping_add(1);
        let network = (number + n / 200) % 256;
        let client = format!("198.18.{network}.{}", n % 200);
        let request = format!(
            "GET /load/{n} HTTP/1.1\r\nhost: site.example\r\nuser-agent: load\r\nx-forwarded-for: {client}\r\n\r\n"
        );
        let start = crate::now();
        let kept = stream.is_some();
        if !kept {
            stream = TcpStream::connect(("127.0.0.1", port)).await.ok();
        }
        let connected = stream.is_some();
        if !connected {
            counts.unconnected.fetch_add(1, Ordering::Relaxed);
        }
        let mut begun = false;
        match exchange(&mut stream, request.as_bytes(), &mut begun).await {
            Some(200) => {
                let slipped = u64::from(network == 1);
                counts.slipped.fetch_add(slipped, Ordering::Relaxed);
                counts.admitted.fetch_add(1, Ordering::Relaxed)
            }
            Some(403) => counts.refused.fetch_add(1, Ordering::Relaxed),
            Some(_) => counts.other.fetch_add(1, Ordering::Relaxed),
            None => {
                stream = None;
                counts.closed.fetch_add(u64::from(kept && !begun), Ordering::Relaxed);
                let unaccepted = connected && !kept && !begun;
                counts.unaccepted.fetch_add(u64::from(unaccepted), Ordering::Relaxed);
                counts.broken.fetch_add(1, Ordering::Relaxed)
            }
        };
        let took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        counts.slowest_us.fetch_max(took_us, Ordering::Relaxed);
    }
}

/// One request over a kept connection, which is given up when the server says so.
/// `begun` says whether any byte of an answer came.
async fn exchange(kept: &mut Option<TcpStream>, request: &[u8], begun: &mut bool) -> Option<u16> {
    let stream = kept.as_mut()?;
    stream.write_all(request).await.ok()?;
    let mut answer = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
        *begun = true;
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .and_then(|length| length.parse().ok())?;
            if body.len() >= length {
                let status = head.split(' ').nth(1)?.parse().ok();
                if head.lines().any(|line| line == "connection: close") {
                    *kept = None;
                }
                return status;
            }
        }
    }
}
