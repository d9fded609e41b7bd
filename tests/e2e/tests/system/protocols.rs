//! Every protocol that passes through the filter: admitted, refused and recorded alike. The
//! names end in the protocol: `make test-matrix` makes a table of them.

use ipwarden_e2e::{Options, System, Upstream, eventually, exchange, processor_time, raw_request};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A system before an upstream that takes and sends what is asked for.
async fn with_upstream(bare: bool) -> (System, Upstream) {
    let upstream = Upstream::start().await;
    let system = System::start(Options {
        bare,
        upstream: Some(upstream.port),
        replace: vec![(
            "          request_headers_timeout: 10s\n".to_owned(),
            "          request_headers_timeout: 10s\n          upgrade_configs: [{upgrade_type: websocket}]\n"
                .to_owned(),
        )],
        ..Options::default()
    })
    .await;
    (system, upstream)
}

async fn block(system: &System) {
    system.decide("block", &["203.0.113.8"], json!({})).await;
    system.settles("203.0.113.8", 403).await;
}

/// Waits until a path has been recorded for the client, once.
async fn is_recorded(system: &System, client: &str, path: &str, status: u16) {
    eventually("it is recorded", async || {
        let found = system.records(&format!("ip={client}&path={path}")).await;
        found.len() == 1 && found[0]["status"] == status
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admitted_refused_and_recorded_over_http1() {
    let (system, _upstream) = with_upstream(false).await;
    block(&system).await;
    assert_eq!(system.request("203.0.113.7", "/one", &[]).await.status, 200);
    assert_eq!(system.request("203.0.113.8", "/two", &[]).await.status, 403);
    is_recorded(&system, "203.0.113.7", "/one", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admitted_refused_and_recorded_over_http2() {
    let (system, _upstream) = with_upstream(false).await;
    block(&system).await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let get = |path: &str, from: &str| {
        client
            .get(format!("http://127.0.0.1:{}{path}", system.site_port))
            .header("x-forwarded-for", from)
            .send()
    };
    // Thirty streams at once on one connection.
    let all = (0..30).map(|_| get("/many", "203.0.113.9"));
    for answer in futures_util::future::join_all(all).await {
        let answer = answer.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
    }
    assert_eq!(get("/one", "203.0.113.7").await.unwrap().status(), 200);
    assert_eq!(get("/two", "203.0.113.8").await.unwrap().status(), 403);
    is_recorded(&system, "203.0.113.7", "/one", 200).await;
    eventually("all thirty are recorded", async || {
        system.records("ip=203.0.113.9&path=/many").await.len() == 30
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admitted_refused_and_recorded_over_grpc() {
    let (system, _upstream) = with_upstream(false).await;
    block(&system).await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let call = |from: &str| {
        client
            .post(format!("http://127.0.0.1:{}/shop.Cart/Add", system.site_port))
            .header("x-forwarded-for", from)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(vec![0, 0, 0, 0, 1, 7])
            .send()
    };
    let admitted = call("203.0.113.7").await.unwrap();
    assert_eq!(admitted.status(), 200);
    assert_eq!(admitted.text().await.unwrap(), "6", "the message arrived");
    let refused = call("203.0.113.8").await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["grpc-status"]),
        (200, &"7".parse().unwrap())
    );
    is_recorded(&system, "203.0.113.7", "/shop.Cart/Add", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admitted_refused_and_recorded_over_websocket() {
    let (system, _upstream) = with_upstream(false).await;
    block(&system).await;
    let upgrade = |from: &str| {
        format!(
            "GET /socket HTTP/1.1\r\nhost: site.example\r\nx-forwarded-for: {from}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let refused = raw_request(system.site_port, upgrade("203.0.113.8").as_bytes()).await;
    assert_eq!(refused.status, 403);
    let mut stream = TcpStream::connect(("127.0.0.1", system.site_port)).await.unwrap();
    stream.write_all(upgrade("203.0.113.7").as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    let mut back = vec![0; sent.len()];
    let (mut read, mut write) = stream.split();
    let (written, _) = tokio::join!(write.write_all(&sent), read.read_exact(&mut back));
    written.unwrap();
    assert!(sent == back, "frames pass as they are");
    // A record is written when the connection ends.
    drop(stream);
    is_recorded(&system, "203.0.113.7", "/socket", 101).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admitted_refused_and_recorded_over_streaming() {
    const BYTES: u64 = 32 * 1024 * 1024;
    let (system, upstream) = with_upstream(false).await;
    block(&system).await;
    assert_eq!(download(&system, "203.0.113.7", BYTES).await, BYTES);
    assert_eq!(upload(&system, "203.0.113.7", BYTES).await, 200);
    assert_eq!(upstream.received(), BYTES);
    // A refused upload is answered before its body has come.
    let head = "POST /up HTTP/1.1\r\nhost: site.example\r\nx-forwarded-for: 203.0.113.8\r\ncontent-length: 1000000\r\n\r\n";
    let mut stream = TcpStream::connect(("127.0.0.1", system.site_port)).await.unwrap();
    assert_eq!(exchange(&mut stream, head.as_bytes()).await.status, 403);
    assert_eq!(upstream.received(), BYTES, "none of it reached the upstream");
    is_recorded(&system, "203.0.113.7", &format!("/bytes/{BYTES}"), 200).await;
    is_recorded(&system, "203.0.113.7", "/up", 200).await;
    let sent = &system.records("ip=203.0.113.7&path=/up").await[0];
    assert!(sent["bytes_in"].as_u64() > Some(BYTES), "{sent}");
}

/// Bytes of the body that a download brought.
async fn download(system: &System, client: &str, bytes: u64) -> u64 {
    let request = format!(
        "GET /bytes/{bytes} HTTP/1.1\r\nhost: site.example\r\nx-forwarded-for: {client}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(("127.0.0.1", system.site_port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    let mut piece = vec![0; 256 * 1024];
    let mut got = 0;
    while got < bytes {
        match stream.read(&mut piece).await.unwrap() {
            0 => break,
            read => got += read as u64,
        }
    }
    got
}

/// The status that an upload gets.
async fn upload(system: &System, client: &str, bytes: u64) -> u16 {
    let head = format!(
        "POST /up HTTP/1.1\r\nhost: site.example\r\nx-forwarded-for: {client}\r\ncontent-length: {bytes}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(("127.0.0.1", system.site_port)).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let piece = vec![7; 256 * 1024];
    let mut left = bytes;
    while left > 0 {
        let most = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        stream.write_all(&piece[..most]).await.unwrap();
        left -= most as u64;
    }
    exchange(&mut stream, b"").await.status
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures: make bench-bodies"]
async fn what_a_gigabyte_costs_beside_bare_envoy() {
    const GIB: u64 = 1 << 30;
    let mut took = Vec::new();
    for bare in [true, false] {
        let (system, _upstream) = with_upstream(bare).await;
        let pid = system.envoy_pid();
        for _ in 0..2 {
            download(&system, "203.0.113.7", 1 << 26).await;
        }
        let mut best = [std::time::Duration::MAX; 2];
        for _ in 0..3 {
            let start = processor_time(pid);
            assert_eq!(download(&system, "203.0.113.7", GIB).await, GIB);
            let between = processor_time(pid);
            assert_eq!(upload(&system, "203.0.113.7", GIB).await, 200);
            let end = processor_time(pid);
            best = [best[0].min(between - start), best[1].min(end - between)];
        }
        took.push(best);
    }
    let [bare, with] = [took[0], took[1]];
    for (what, bare, with) in [("download", bare[0], with[0]), ("upload", bare[1], with[1])] {
        println!(
            "1 GiB {what}: Envoy's CPU {bare:?} bare, {with:?} with the filter ({:+.1} %)",
            (with.as_secs_f64() / bare.as_secs_f64() - 1.0) * 100.0
        );
    }
}
