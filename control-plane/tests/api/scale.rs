//! Thousands of waiting proxies: what they cost, and how fast they are told.
//!
//! The bounds asserted are generous, for slow machines; the measured numbers are printed
//! (`cargo test --test api scale -- --nocapture`).

use std::sync::Arc;
use std::time::Duration;

use ipwarden_control_plane::hub::Polled;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{Running, until};

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

async fn block(running: &Running, target: &str) {
    running.post("/v1/decisions", json!({"targets": [target], "action": "block"})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_waiting_polls_cost_little_and_are_answered_together() {
    const POLLS: usize = 10_000;
    let running = Running::start().await;
    let hub = running.service.app().hub.clone();
    let at = hub.revision();
    let before = resident();
    let mut polls = JoinSet::new();
    for _ in 0..POLLS {
        let hub = hub.clone();
        polls.spawn(async move { hub.poll(Some(at), 0, Duration::from_secs(55)).await });
    }
    until(|| hub.waiting() == POLLS).await;
    let each = resident().saturating_sub(before) / POLLS as u64;

    let started = Instant::now();
    block(&running, "203.0.113.7").await;
    let mut shared = None;
    while let Some(polled) = polls.join_next().await {
        let Polled::Delta(bytes) = polled.unwrap() else { panic!("expected a delta") };
        assert_eq!(*shared.get_or_insert(bytes.as_ptr()), bytes.as_ptr(), "encoded twice");
    }
    let took = started.elapsed();
    println!("{POLLS} polls: {each} bytes each, all answered {took:?} after the request to block");
    assert!(each < 8 * 1024, "{each} bytes");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(hub.waiting(), 0);
}

/// As above through sockets, with as many as fit into the usual limit of open files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_connections_cost_little_and_are_answered_together() {
    let running = Running::start().await;
    let app = Arc::clone(running.service.app());
    // Both ends are in this process, and other tests need files too.
    let connections = (app.config.limits.connections / 5).min(2_000);
    let address = running.service.address();
    let at = app.hub.revision();
    let token = std::fs::read_to_string(running.directory.path().join("proxy.token")).unwrap();
    let request = format!(
        "GET /v1/decisions/stream?epoch={}&after={}&wait=55s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        at.epoch,
        at.number,
        token.trim()
    );
    let before = resident();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let request = request.clone();
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut start = [0; 15];
            stream.read_exact(&mut start).await.unwrap();
            assert_eq!(&start, b"HTTP/1.1 200 OK");
        });
    }
    until(|| app.hub.waiting() == connections).await;
    let each = resident().saturating_sub(before) / connections as u64;
    let started = Instant::now();
    block(&running, "203.0.113.7").await;
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let took = started.elapsed();
    println!(
        "{connections} connections: {each} bytes each (both ends), all answered {took:?} after the request to block"
    );
    assert!(each < 64 * 1024, "{each} bytes");
    assert!(took < Duration::from_secs(3), "{took:?}");
}
