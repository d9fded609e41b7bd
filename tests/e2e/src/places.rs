//! A provider of places for tests: counts what it is asked, and behaves as it is told.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the provider does with a request.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Answers 200 with this JSON.
    Answer(String),
    /// The same after this time.
    Slow(Duration, String),
    /// Answers with this status and an empty object.
    Status(u16),
    /// Answers 200 with what is no JSON.
    Garbage,
    /// Answers 200 with so many bytes.
    Huge(usize),
    /// Redirects elsewhere.
    Redirect,
    /// Closes the connection at once.
    Hangs,
}

/// A provider on a free port of 127.0.0.1.
#[derive(Debug, Clone)]
pub struct Places {
    /// Its port.
    pub port: u16,
    asked: Arc<AtomicU32>,
    last: Arc<Mutex<String>>,
    behaviour: Arc<Mutex<Behaviour>>,
    token: Option<&'static str>,
}

impl Places {
    /// Starts it. With `token` it answers 401 to requests without `?token=…`.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start(behaviour: Behaviour, token: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let places = Self {
            port: listener.local_addr().expect("its address").port(),
            asked: Arc::default(),
            last: Arc::default(),
            behaviour: Arc::new(Mutex::new(behaviour)),
            token,
        };
        let serving = places.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        places
    }

    /// Changes what it does from now on.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().expect("no panic") = behaviour;
    }

    /// Requests so far.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    /// The head of the last request.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    #[must_use]
    pub fn last(&self) -> String {
        self.last.lock().expect("no panic").clone()
    }

    /// The cluster `geo` that leads here, in front of the bootstrap's cluster `ipwarden`.
    #[must_use]
    pub fn cluster(&self) -> (String, String) {
        let before = "  - name: ipwarden\n    type: STATIC\n".to_owned();
        let port = self.port;
        let cluster = format!(
            "  - name: geo\n    type: STATIC\n    connect_timeout: 1s\n    load_assignment:\n      \
             cluster_name: geo\n      endpoints:\n      - lb_endpoints:\n        - endpoint: \
             {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}\n{before}"
        );
        (before, cluster)
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut request = Vec::new();
        let mut chunk = [0; 4_096];
        while !request.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut chunk).await {
                Ok(read @ 1..) => request.extend_from_slice(&chunk[..read]),
                _ => return,
            }
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        let head = String::from_utf8_lossy(&request).into_owned();
        let behaviour = self.behaviour.lock().expect("no panic").clone();
        let granted = self.token.is_none_or(|token| head.contains(&format!("?token={token} ")));
        *self.last.lock().expect("no panic") = head;
        let (status, more, body) = match behaviour {
            _ if !granted => (401, "", "{}".to_owned()),
            Behaviour::Answer(body) => (200, "", body),
            Behaviour::Slow(time, body) => {
                tokio::time::sleep(time).await;
                (200, "", body)
            }
            Behaviour::Status(status) => (status, "", "{}".to_owned()),
            Behaviour::Garbage => (200, "", "<html>\u{0}{{{{".to_owned()),
            Behaviour::Huge(bytes) => (200, "", " ".repeat(bytes)),
            Behaviour::Redirect => (302, "location: http://127.0.0.1:1/\r\n", "{}".to_owned()),
            Behaviour::Hangs => return,
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{more}connection: close\r\n\r\n"
        );
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(body.as_bytes()).await;
    }
}
