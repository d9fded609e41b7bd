//! A private Redis.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::root;

/// A Redis on a port of its own; killed when this is dropped.
#[derive(Debug)]
pub struct Redis {
    guard: Child,
    input: Option<ChildStdin>,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Removed by the guard.
    _directory: tempfile::TempDir,
}

impl Redis {
    /// Starts one, on `port` if one is given; `None` where none is installed, loudly.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(port: Option<u16>) -> Option<Self> {
        let found = Command::new("sh")
            .args(["-c", "command -v redis-server || command -v valkey-server"])
            .output();
        if !found.is_ok_and(|found| found.status.success()) {
            eprintln!("SKIPPED: no redis-server: apt-get install redis-server");
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut guard = Command::new("bash")
            .arg(root().join("control-plane/tests/redis/server.sh"))
            .arg(directory.path())
            .arg("single")
            .args(port.map(|port| port.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash");
        let mut line = String::new();
        let output = guard.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let port = line.trim().parse().expect("redis-server starts");
        let input = guard.stdin.take();
        Some(Self { guard, input, port, _directory: directory })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.guard.wait();
    }
}
