//! What the tests stand on: a running service, and the program beside it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ipwarden::decisions::Revision;
use ipwarden::record::{BatchHeader, Record, Verdict, wire};
use ipwarden_control_plane::app::App;
use ipwarden_control_plane::clock::Clock;
use ipwarden_control_plane::config::Config;
use ipwarden_control_plane::serve::Service;

/// A service on a free port with a data directory of its own.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) url: String,
    pub(crate) runtime: tokio::runtime::Runtime,
    service: Service,
}

/// How the program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub(crate) fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            data_dir: dir.path().join(".ipwarden"),
            ..Config::default()
        };
        change(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let service = runtime.block_on(Service::start(config, Clock::system())).unwrap();
        let url = format!("http://{}", service.address());
        Self { dir, url, runtime, service }
    }

    /// The parts of the service.
    pub(crate) fn app(&self) -> &App {
        self.service.app()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join(".ipwarden")
    }

    /// The program as a person beside the service starts it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(self.dir.path(), arguments);
        command.env("IPWARDEN_URL", &self.url);
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.command(arguments).output().unwrap())
    }

    /// Runs with `input` on standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &[u8]) -> Ended {
        use std::io::Write as _;
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        ended(child.wait_with_output().unwrap())
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let arguments: Vec<&str> = ["-o", "json"].iter().chain(arguments).copied().collect();
        self.run(&arguments).json()
    }

    pub(crate) fn revision(&self) -> u64 {
        self.json(&["decisions"])["revision"].as_u64().unwrap()
    }

    /// Writes a file beside the service and returns its name.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.dir.path().join(name), content).unwrap();
        name.to_owned()
    }

    /// Ships one batch of records as a proxy does.
    pub(crate) fn ship(&self, number: u64, records: &[Record<'_>]) {
        let token = std::fs::read_to_string(self.data_dir().join("proxy.token")).unwrap();
        let base_us = records[0].time_us;
        let mut encoded = Vec::new();
        let mut previous = base_us;
        for record in records {
            wire::put_record(&mut encoded, previous, record);
            previous = record.time_us;
        }
        let header = BatchHeader {
            stream: 7,
            number,
            started_us: base_us,
            sent_us: now_us(),
            proxy: b"edge-1",
            version: ipwarden::VERSION.as_bytes(),
            key: None,
            applied: Revision { epoch: 0, number: 0 },
            seen: number,
            lost: 0,
            skipped: 0,
        };
        let body = wire::encode(&header, base_us, records.len() as u32, &encoded);
        let request = reqwest::Client::builder()
            .no_proxy()
            .build()
            .unwrap()
            .post(format!("{}/v1/requests", self.url))
            .bearer_auth(token.trim())
            .header("content-type", wire::CONTENT_TYPE)
            .body(body);
        let response = self.runtime.block_on(request.send()).unwrap();
        assert_eq!(response.status(), 200);
    }
}

/// A record of a request that was refused just now.
pub(crate) fn record(path: &[u8]) -> Record<'_> {
    Record {
        time_us: now_us(),
        ip: Some("203.0.113.7".parse().unwrap()),
        form: ipwarden::privacy::AddressForm::Full,
        opted_out: false,
        verdict: Verdict::Blocked,
        weight: 1,
        decision: 12,
        rule: b"",
        method: b"GET",
        host: b"shop.example",
        path,
        query: b"",
        status: 403,
        flags: 0,
        duration_us: 250,
        bytes_in: 300,
        bytes_out: 900,
        user_agent: b"curl/8",
        request_id: b"",
        country: None,
        city: b"",
        asn: None,
        identity: b"",
    }
}

pub(crate) fn now_us() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap()
}

/// The program with nothing from the outer environment.
pub(crate) fn program(here: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipwarden"));
    command
        .args(arguments)
        .current_dir(here)
        .env_clear()
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the program with nothing around it.
pub(crate) fn alone(here: &Path, arguments: &[&str]) -> Ended {
    ended(program(here, arguments).output().unwrap())
}

pub(crate) fn ended(output: Output) -> Ended {
    Ended {
        code: output.status.code().expect("ended by itself"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Ended {
    /// The one document on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error on standard error.
    #[track_caller]
    pub(crate) fn error(&self) -> serde_json::Value {
        let document: serde_json::Value =
            serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        document["error"].clone()
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}
