//! Hooks are told of suspects: signed, until they take it, through a kill.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use ipwarden_control_plane::clock::Clock;
use ipwarden_control_plane::config::Config;
use ipwarden_control_plane::detect::Severity;
use ipwarden_control_plane::notify::sign::Key;
use ipwarden_control_plane::notify::{Addresses, EventKind, Hook, Kind, Secret, Source};
use ipwarden_control_plane::serve::Service;
use ipwarden_control_plane::store::StateStore as _;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::bench::{Bench, record};
use crate::killed::{Served, metric, prepare, state};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A message as it arrived, and the way to answer it.
struct Arrived {
    headers: HeaderMap,
    body: Vec<u8>,
    answer: oneshot::Sender<u16>,
}

impl Arrived {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// What it says, if the signature is right.
    #[track_caller]
    fn verified(&self) -> Value {
        let timestamp: i64 = self.header("webhook-timestamp").parse().unwrap();
        let now = jiff::Timestamp::now().as_second();
        assert!((now - timestamp).abs() < 300, "{timestamp}");
        let (id, signature) = (self.header("webhook-id"), self.header("webhook-signature"));
        let key = Key::of_secret(SECRET).unwrap();
        assert!(key.verifies(signature, id, timestamp, &self.body), "{signature}");
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(body["id"], id);
        body
    }
}

/// A receiver on a free port; the test answers each message.
async fn receiver() -> (String, mpsc::Receiver<Arrived>) {
    let (arrive, arrived) = mpsc::channel(16);
    let take =
        async |State(arrive): State<mpsc::Sender<Arrived>>, headers, body: axum::body::Bytes| {
            let (answer, status) = oneshot::channel();
            let _ = arrive.send(Arrived { headers, body: body.to_vec(), answer }).await;
            StatusCode::from_u16(status.await.unwrap_or(500)).unwrap()
        };
    let router = axum::Router::new().route("/in", post(take)).with_state(arrive);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/in", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, arrived)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_again_until_it_takes_it_also_after_a_kill() {
    let (url, mut arrived) = receiver().await;
    let dir = tempfile::tempdir().unwrap();
    let settings = format!(
        "[[notify]]\nname = \"hook\"\nurl = \"{url}\"\nsecret = \"{SECRET}\"\nmin_severity = \"low\"\n"
    );
    prepare(dir.path(), 30, &settings).await;
    let served = Served::start(dir.path());

    let first = arrived.recv().await.unwrap();
    let told = first.verified();
    let events = told["events"].as_array().unwrap();
    assert_eq!(events.len(), 30);
    assert_eq!(events[0]["type"], "suspect.opened");
    assert_eq!(events[0]["suspect"]["target"], "32.0.0.0");
    assert_eq!(events[0]["suspect"]["reasons"][0]["rule"], "sensitive-path");
    let id = first.header("webhook-id").to_owned();
    first.answer.send(500).unwrap();

    let second = arrived.recv().await.unwrap();
    assert_eq!(
        (second.header("webhook-id"), second.verified()["events"].clone()),
        (id.as_str(), told["events"].clone())
    );
    // It has arrived and is not answered: killed here it must come again.
    served.kill();
    drop(second);
    let served = Served::start(dir.path());
    let third = arrived.recv().await.unwrap();
    assert_eq!(
        (third.header("webhook-id"), third.verified()["events"].clone()),
        (id.as_str(), told["events"].clone())
    );
    third.answer.send(204).unwrap();
    served.until(|text| metric(text, "ipwarden_notifications_total{kind=\"sent\"}") == 30).await;
    served.kill();
    let left = state(dir.path()).backlog().await.unwrap();
    assert_eq!((left[0].waiting, left[0].dropped), (0, 0), "told once, and nothing was lost");
}

fn hook(name: &str, kind: Kind, url: &str) -> Hook {
    Hook {
        name: name.to_owned(),
        url: Source::Text(Secret::new(url)),
        kind,
        secret: (kind == Kind::Webhook).then(|| Source::Text(Secret::new(SECRET))),
        events: EventKind::ALL.to_vec(),
        min_severity: Severity::Low,
        addresses: Addresses::Masked,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_does_not_answer_does_not_hold_the_service_up() {
    let (url, mut arrived) = receiver().await;
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path(), 1, "").await;
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        data_dir: dir.path().join(".ipwarden"),
        notify: vec![hook("silent", Kind::Webhook, &url)],
        ..Config::default()
    };
    let service = Service::start(config, Clock::system()).await.unwrap();
    let message = arrived.recv().await.unwrap();
    let stopped = tokio::time::timeout(Duration::from_secs(5), service.stop()).await;
    stopped.expect("it stops at once");
    drop(message);
}

#[test]
fn a_test_says_what_became_of_it_and_doctor_names_who_cant_be_told() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (url, mut arrived) = runtime.block_on(receiver());
    let hooks = vec![hook("chat", Kind::Slack, &url), hook("alerts", Kind::Webhook, &url)];
    let bench = Bench::start_with(|config| config.notify = hooks);
    // Answers the webhook with an error and the chat with success, whatever comes.
    let answers = runtime.spawn(async move {
        let mut chat = Vec::new();
        while let Some(message) = arrived.recv().await {
            let is_chat = !message.headers.contains_key("webhook-id");
            if is_chat {
                chat.push(serde_json::from_slice::<Value>(&message.body).unwrap());
            } else {
                message.verified();
            }
            let _ = message.answer.send(if is_chat { 200 } else { 503 });
            if chat.len() == 2 {
                return chat;
            }
        }
        chat
    });
    let tested = bench.run(&["notify", "test"]).expect(1);
    assert_eq!(
        tested.stdout,
        "chat took the message (status 200).\n\
         alerts did not take the message: it answers 503 Service Unavailable.\n"
    );
    let error = bench.run(&["notify", "test", "nobody"]).expect(1).stderr;
    assert!(error.contains("there is no hook of that name"), "{error}");

    let visit = record(b"/admin");
    bench.ship(1, &[visit]);
    let time = jiff::Timestamp::from_microsecond(visit.time_us.cast_signed()).unwrap();
    bench.run(&["detect", "--hour", &time.strftime("%Y-%m-%dT%H").to_string()]).expect(0);
    let chat = runtime.block_on(answers).unwrap();
    assert_eq!(chat[0]["text"], "ipwarden: a test of the notification `chat`");
    assert_eq!(
        chat[1]["text"],
        "`203.0.113.0/24` is a new suspect (suspect 1, low, score 0.20): `sensitive-path: visited the sensitive path /admin`"
    );

    // Until the hook's own task has tried.
    let hooks = loop {
        let listed = bench.json(&["notify"]);
        let failed = listed["hooks"][1]["failures"].as_u64().is_some_and(|failures| failures > 0);
        if failed && listed["hooks"][0]["waiting"] == 0 {
            break listed["hooks"].clone();
        }
    };
    assert_eq!((&hooks[0]["name"], &hooks[0]["problem"]), (&json!("chat"), &Value::Null));
    assert_eq!(
        (&hooks[1]["waiting"], hooks[1]["to"].as_str()),
        (&json!(1), url.strip_suffix("/in"))
    );
    let doctor = bench.json(&["doctor"]);
    let check = doctor["checks"].as_array().unwrap().iter().find(|check| check["name"] == "notify");
    let check = check.unwrap();
    assert_eq!(check["status"], "warn");
    assert!(check["detail"].as_str().unwrap().starts_with("'alerts' ("), "{check}");
    assert_eq!(
        check["mend"],
        "mend the receiver or the hook in ipwarden.toml, then `ipwarden notify test alerts`"
    );
}
