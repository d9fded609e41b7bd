//! Sends what hooks have still to be told: one task a hook, one message at a time, in order.
//!
//! A message that was not taken is sent again after 1 s, 2 s, 4 s … up to five minutes, or when
//! the receiver says (`retry-after`); after [`GIVE_UP`] its events are given up and counted.
//! What was taken is forgotten only then: a crash in between sends it twice, with the same id.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::{StatusCode, Url, header};
use serde_json::Value;

use super::{GIVE_UP, Hook, Kind, NotifyError, Pending, Source, Subscription, message, parse_url};
use crate::cli::client::cause;
use crate::clock::Clock;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::notify::sign::Key;
use crate::store::{Result as StoreResult, StateStore};

/// How often the store is asked for news. What happens in between is one message.
const LOOK: Duration = Duration::from_secs(1);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Longest pause that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3_600);
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take, all in all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest file with a URL or secret in bytes.
const MAX_FILE_BYTES: u64 = 4_096;

/// All hooks. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Notifier(Arc<Inner>);

struct Inner {
    hooks: Vec<Ready>,
    http: reqwest::Client,
    state: Arc<dyn StateStore>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// A hook with what its files held.
struct Ready {
    hook: Hook,
    url: Url,
    key: Option<Key>,
    health: Mutex<Health>,
}

/// How a hook is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// When a message was taken last, since the start of the service.
    pub sent_at: Option<Timestamp>,
    /// Attempts that failed since then.
    pub failures: u32,
    /// When the first of them failed.
    pub failing_since: Option<Timestamp>,
    /// Why the last of them did.
    pub problem: Option<String>,
}

/// A hook as others may know it: neither its URL nor its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookView {
    /// Its name.
    pub name: String,
    /// How it is told.
    pub kind: Kind,
    /// Scheme, host and port of its URL.
    pub to: String,
    /// How it is doing.
    pub health: Health,
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// In words; without the URL.
    pub problem: String,
    /// What the receiver answered.
    pub status: Option<u16>,
    /// When it wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl Notifier {
    /// Reads the hooks' files, and has the store note what they are to be told from now on.
    ///
    /// # Errors
    /// [`NotifyError`] for files; those of the store.
    pub async fn start(
        hooks: Vec<Hook>,
        state: Arc<dyn StateStore>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<StoreResult<Self>, NotifyError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("ipwarden/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| NotifyError::Http(cause(&error)))?;
        let hooks = hooks.into_iter().map(ready).collect::<Result<Vec<_>, _>>()?;
        let subscriptions = hooks.iter().map(|ready| ready.subscription()).collect();
        let subscribed = state.subscribe(subscriptions).await;
        let inner = Inner { hooks, http, state, clock, metrics };
        Ok(subscribed.map(|()| Self(Arc::new(inner))))
    }

    /// Sends until the service stops.
    pub async fn run(self, hub: Hub) {
        let all = self.0.hooks.iter().map(|ready| self.keep(ready, hub.clone()));
        futures_util::future::join_all(all).await;
    }

    /// The hooks, in the order of the configuration.
    #[must_use]
    pub fn hooks(&self) -> Vec<HookView> {
        self.0.hooks.iter().map(Ready::view).collect()
    }

    /// Sends a message that says that it is a test, once. `None` when there is no such hook.
    pub async fn test(&self, name: &str) -> Option<Result<StatusCode, Refused>> {
        let ready = self.0.hooks.iter().find(|ready| ready.hook.name == name)?;
        let now = self.0.clock.now();
        let id = format!("msg_test_{}", now.as_microsecond());
        let body = match ready.hook.kind {
            Kind::Webhook => message::test_webhook(&id, name, now),
            Kind::Slack => message::test_slack(name),
        };
        Some(self.post(ready, &id, &body).await)
    }

    async fn keep(&self, ready: &Ready, hub: Hub) {
        // Of several control planes one tells.
        let leadership = self.0.state.leadership();
        loop {
            // A message that is under way when the service stops is sent again at the next start.
            let pause = tokio::select! {
                () = leadership.gained() => tokio::select! {
                    told = self.tell(ready) => told.err().unwrap_or(LOOK),
                    () = hub.stopping() => return,
                },
                () = hub.stopping() => return,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = hub.stopping() => return,
            }
        }
    }

    /// Tells a hook what waits, as much as fits into one message. An error says how long to
    /// wait before the next attempt.
    async fn tell(&self, ready: &Ready) -> Result<(), Duration> {
        let inner = &self.0;
        let name = &ready.hook.name;
        let unread = |error| {
            tracing::warn!(hook = %name, "notifications can't be read, trying again: {error}");
            LOOK
        };
        let most = match ready.hook.kind {
            Kind::Webhook => message::WEBHOOK_EVENTS,
            Kind::Slack => message::SLACK_EVENTS,
        };
        let events = inner.state.pending(name, most).await.map_err(unread)?;
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(()) };
        let oldest = inner.clock.now().checked_sub(GIVE_UP).unwrap_or(Timestamp::MIN);
        if first.time <= oldest {
            let dropped = inner.state.expire_pending(name, oldest).await.map_err(unread)?;
            inner.metrics.notified("dropped", dropped);
            tracing::error!(hook = %name, dropped, "notifications were given up: see `ipwarden doctor`");
            return Ok(());
        }
        let (id, last) = (self.message_id(first, last).await.map_err(unread)?, last.id);
        let body = match ready.hook.kind {
            Kind::Webhook => {
                message::webhook(&id, &events, ready.hook.addresses, inner.clock.now())
            }
            Kind::Slack => {
                let waiting = self.waiting(name).await.map_err(unread)?;
                let more = waiting.saturating_sub(events.len() as u64);
                message::slack(&events, more, ready.hook.addresses)
            }
        };
        match self.post(ready, &id, &body).await {
            Ok(_) => {
                inner.state.told(name, last).await.map_err(unread)?;
                inner.metrics.notified("sent", events.len() as u64);
                ready.took(inner.clock.now());
                Ok(())
            }
            Err(refused) => {
                inner.metrics.notified("failed", events.len() as u64);
                let failures = ready.refused(&refused, inner.clock.now());
                if failures == 1 {
                    tracing::warn!(hook = %name, "a notification was not taken, it is sent again: {}", refused.problem);
                }
                Err(refused.retry_after.unwrap_or_else(|| pause(failures)))
            }
        }
    }

    /// The same events have the same id, however often they are sent.
    async fn message_id(&self, first: &Pending, last: &Pending) -> StoreResult<String> {
        let epoch = self.0.state.revision().await?.epoch;
        Ok(format!("msg_{epoch:016x}_{}_{}", first.id, last.id))
    }

    async fn waiting(&self, name: &str) -> StoreResult<u64> {
        let all = self.0.state.backlog().await?;
        Ok(all.iter().find(|backlog| backlog.hook == name).map_or(0, |backlog| backlog.waiting))
    }

    async fn post(&self, ready: &Ready, id: &str, body: &Value) -> Result<StatusCode, Refused> {
        let body = body.to_string();
        let mut request =
            self.0.http.post(ready.url.clone()).header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &ready.key {
            let timestamp = self.0.clock.now().as_second();
            request = request
                .header("webhook-id", id)
                .header("webhook-timestamp", timestamp)
                .header("webhook-signature", key.sign(id, timestamp, body.as_bytes()));
        }
        let answer = request.body(body).send().await.map_err(|error| Refused {
            problem: cause(&error.without_url()),
            status: None,
            retry_after: None,
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(status);
        }
        Err(Refused {
            problem: format!("it answers {status}"),
            status: Some(status.as_u16()),
            retry_after: answer
                .headers()
                .get(header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.trim().parse().ok())
                .map(|seconds| Duration::from_secs(seconds).clamp(LOOK, LONGEST_ASKED)),
        })
    }
}

impl Ready {
    fn subscription(&self) -> Subscription {
        let Hook { name, events, min_severity, .. } = &self.hook;
        Subscription { name: name.clone(), events: events.clone(), min_severity: *min_severity }
    }

    fn view(&self) -> HookView {
        let port = self.url.port().map_or_else(String::new, |port| format!(":{port}"));
        let host = self.url.host_str().unwrap_or_default();
        HookView {
            name: self.hook.name.clone(),
            kind: self.hook.kind,
            to: format!("{}://{host}{port}", self.url.scheme()),
            health: self.health().clone(),
        }
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn took(&self, now: Timestamp) {
        *self.health() = Health { sent_at: Some(now), ..Health::default() };
    }

    /// Notes a failure; returns how many there were in a row.
    fn refused(&self, refused: &Refused, now: Timestamp) -> u32 {
        let mut health = self.health();
        health.failures = health.failures.saturating_add(1);
        health.failing_since.get_or_insert(now);
        health.problem = Some(refused.problem.clone());
        health.failures
    }
}

/// Reads what a hook's files hold.
fn ready(hook: Hook) -> Result<Ready, NotifyError> {
    let content = |what: String| NotifyError::Content { hook: hook.name.clone(), what };
    let url =
        parse_url(&text(&hook, &hook.url)?).map_err(|why| content(format!("its URL {why}")))?;
    let key = match &hook.secret {
        None => None,
        Some(secret) => Some(Key::of_secret(&text(&hook, secret)?).map_err(content)?),
    };
    Ok(Ready { url, key, health: Mutex::default(), hook })
}

fn text(hook: &Hook, source: &Source) -> Result<String, NotifyError> {
    use std::io::Read as _;
    match source {
        Source::Text(secret) => Ok(secret.reveal().to_owned()),
        Source::File(path) => {
            let mut text = String::new();
            std::fs::File::open(path)
                .and_then(|file| file.take(MAX_FILE_BYTES).read_to_string(&mut text))
                .map_err(|error| NotifyError::File {
                    hook: hook.name.clone(),
                    path: path.clone(),
                    error,
                })?;
            Ok(text.trim().to_owned())
        }
    }
}

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    let doubled = 2u64.saturating_pow(failures.saturating_sub(1).min(16));
    Duration::from_secs(doubled).min(LONGEST_PAUSE)
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.0.hooks.iter().map(|ready| ready.hook.name.as_str()).collect();
        write!(f, "Notifier({names:?})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let seconds = |failures| pause(failures).as_secs();
        assert_eq!([1, 2, 3, 9, 10, 4_000_000_000].map(seconds), [1, 2, 4, 256, 300, 300]);
    }
}
