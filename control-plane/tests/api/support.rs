//! A service on a free port with a temporary data directory, and ways to talk to it.

use std::path::Path;
use std::time::Duration;

use ipwarden::decisions::{Change, Entry, Revision, wire};
use ipwarden::record::{BatchHeader, Record, Verdict, wire as records};
use ipwarden_control_plane::clock::{Clock, ManualClock};
use ipwarden_control_plane::config::Config;
use ipwarden_control_plane::serve::Service;
use jiff::Timestamp;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

/// When every manual clock starts.
pub(crate) const START: &str = "2026-11-22T16:00:00Z";

pub(crate) struct Running {
    pub(crate) service: Service,
    pub(crate) directory: TempDir,
    pub(crate) clock: ManualClock,
    client: Client,
    url: String,
    admin: String,
    proxy: String,
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change).await
    }

    pub(crate) async fn start_in(directory: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(directory.path());
        change(&mut config);
        let (clock, handle) = Clock::manual(START.parse().unwrap());
        let service = Service::start(config, clock).await.unwrap();
        let token =
            |file| std::fs::read_to_string(directory.path().join(file)).unwrap().trim().to_owned();
        Self {
            url: format!("http://{}", service.address()),
            admin: token("admin.token"),
            proxy: token("proxy.token"),
            client: Client::new(),
            clock: handle,
            directory,
            service,
        }
    }

    /// Stops it, and starts it again on the same data.
    pub(crate) async fn restart(self) -> Self {
        self.service.stop().await;
        Self::start_in(self.directory, |_| {}).await
    }

    /// A request without a token.
    pub(crate) fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(crate) fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(&self.admin)
    }

    pub(crate) fn proxy(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(&self.proxy)
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        ok(self.admin(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        ok(self.admin(Method::POST, path).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str, body: Value) -> Value {
        ok(self.admin(Method::DELETE, path).json(&body)).await
    }

    /// A poll as the filter makes it.
    pub(crate) async fn poll(&self, after: Option<Revision>, wait: &str) -> Polled {
        let mut path = format!("/v1/decisions/stream?wait={wait}");
        if let Some(after) = after {
            path.push_str(&format!("&epoch={}&after={}", after.epoch, after.number));
        }
        let response = self
            .proxy(Method::GET, &path)
            .header("x-ipwarden-proxy", "edge-1")
            .header("x-ipwarden-version", "0.1.0")
            .header("x-ipwarden-instance", "1f")
            .send()
            .await
            .unwrap();
        if response.status() == StatusCode::NO_CONTENT {
            return Polled::Nothing;
        }
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], wire::CONTENT_TYPE);
        Polled::read(&response.bytes().await.unwrap())
    }

    pub(crate) async fn ship(&self, batch: Vec<u8>) -> Response {
        self.proxy(Method::POST, "/v1/requests")
            .header("content-type", records::CONTENT_TYPE)
            .body(batch)
            .send()
            .await
            .unwrap()
    }
}

pub(crate) fn config(directory: &Path) -> Config {
    Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        data_dir: directory.to_owned(),
        ..Config::default()
    }
}

/// The JSON of a response that must be a success.
pub(crate) async fn ok(request: RequestBuilder) -> Value {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// A response that must be a problem document of this status.
pub(crate) async fn problem(request: RequestBuilder, status: u16) -> Value {
    problem_of(request.send().await.unwrap(), status).await
}

pub(crate) async fn problem_of(response: Response, status: u16) -> Value {
    assert_eq!(response.status().as_u16(), status, "{response:?}");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body: Value = response.json().await.unwrap();
    assert_eq!((&body["status"], &body["type"]), (&status.into(), &"about:blank".into()));
    body
}

/// `place: message` of each error in a problem.
pub(crate) fn faults(problem: &Value) -> Vec<String> {
    let errors = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    errors
        .iter()
        .map(|error| {
            format!("{}: {}", error["place"].as_str().unwrap(), error["message"].as_str().unwrap())
        })
        .collect()
}

#[derive(Debug, PartialEq)]
pub(crate) enum Polled {
    Nothing,
    Snapshot(Revision, Vec<Entry>),
    Delta(u64, Revision, Vec<Change>),
}

impl Polled {
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let message = wire::decode(bytes).unwrap();
        let (mut entries, mut changes) = (Vec::new(), Vec::new());
        for frame in message.frames {
            match message.header.kind {
                wire::Kind::Snapshot => frame.entries(|entry| entries.push(entry)).unwrap(),
                wire::Kind::Delta => frame.changes(|change| changes.push(change)).unwrap(),
            }
        }
        let revision = message.header.revision;
        match message.header.kind {
            wire::Kind::Snapshot => Self::Snapshot(revision, entries),
            wire::Kind::Delta => Self::Delta(message.header.base, revision, changes),
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        match self {
            Self::Nothing => panic!("no message"),
            Self::Snapshot(revision, _) | Self::Delta(_, revision, _) => *revision,
        }
    }
}

/// A batch of `count` records of a stream.
pub(crate) fn batch(stream: u64, number: u64, count: u32) -> Vec<u8> {
    batch_of(stream, number, &vec!["203.0.113.7"; count as usize])
}

/// A batch with one record of each client.
pub(crate) fn batch_of(stream: u64, number: u64, clients: &[&str]) -> Vec<u8> {
    let count = clients.len() as u32;
    let start = START.parse::<Timestamp>().unwrap().as_microsecond() as u64;
    let header = BatchHeader {
        stream,
        number,
        started_us: start - 60_000_000,
        sent_us: start,
        proxy: b"edge-1",
        version: b"0.1.0",
        key: None,
        applied: Revision::default(),
        seen: u64::from(count),
        lost: 0,
        skipped: 0,
    };
    let mut encoded = Vec::new();
    for (n, client) in clients.iter().enumerate() {
        let path = format!("/page/{number}/{n}");
        let record = Record {
            time_us: start,
            ip: Some(client.parse().unwrap()),
            form: ipwarden::privacy::AddressForm::Full,
            opted_out: false,
            verdict: if n % 2 == 0 { Verdict::Admitted } else { Verdict::Blocked },
            weight: 1,
            decision: 0,
            rule: b"",
            method: b"GET",
            host: b"shop.example",
            path: path.as_bytes(),
            query: b"secret=1",
            status: if n % 2 == 0 { 200 } else { 403 },
            flags: 0,
            duration_us: 1_500,
            bytes_in: 100,
            bytes_out: 200,
            user_agent: b"curl/8",
            request_id: b"id",
            country: None,
            city: b"",
            asn: None,
            identity: b"",
        };
        records::put_record(&mut encoded, start, &record);
    }
    records::encode(&header, start, count, &encoded)
}

/// Waits until something holds; fails after ten seconds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it never held");
}
