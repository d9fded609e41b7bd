//! Telling others of suspects and automatic blocks: webhooks, and chat that takes Slack's JSON.
//!
//! | module | owns |
//! |---|---|
//! | [`message`] | pure: what is said, as JSON |
//! | [`sign`] | the signature of a webhook, and how a receiver verifies it |
//! | [`sender`] | when, again and again, until it was taken |
//!
//! At least once, in order: what is to be told is written in the transaction that made it so
//! ([`crate::store::StateStore::pending`]), and forgotten when the receiver has answered 2xx.
//! Refuses: to tell anybody whom the configuration does not name, to send over plain HTTP to
//! another network ([`plain_is_private`]), to follow redirects, to wait without a bound.

pub mod message;
pub mod sender;
pub mod sign;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;

use crate::detect::Severity;
use crate::model::DecisionId;
use crate::suspects::Suspect;

pub use self::sender::Notifier;

/// Most hooks.
pub const MAX_HOOKS: usize = 16;
/// Most that waits for one hook; of more the oldest is dropped and counted.
pub const MAX_WAITING: u64 = 10_000;
/// What could not be told for so long is given up and counted.
pub const GIVE_UP: Duration = Duration::from_secs(3 * 86_400);
/// Longest name of a hook in bytes.
pub const MAX_NAME_BYTES: usize = 40;
/// Shortest secret in bytes.
pub const MIN_SECRET_BYTES: usize = 16;

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A suspect is new.
    Opened,
    /// An open suspect has become more severe.
    Worse,
    /// The policy blocked a suspect.
    Blocked,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Opened, Self::Worse, Self::Blocked];

    /// The word of a message.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "suspect.opened",
            Self::Worse => "suspect.worse",
            Self::Blocked => "suspect.blocked",
        }
    }

    /// Its bit in a store. Never changes.
    #[must_use]
    pub const fn bit(self) -> u8 {
        match self {
            Self::Opened => 1,
            Self::Worse => 2,
            Self::Blocked => 4,
        }
    }

    /// The inverse of [`EventKind::bit`].
    #[must_use]
    pub fn from_bit(bit: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.bit() == bit)
    }
}

/// The words of the configuration for events.
pub(crate) const EVENT_WORDS: [(&str, &[EventKind]); 2] =
    [("suspect", &[EventKind::Opened, EventKind::Worse]), ("block", &[EventKind::Blocked])];

/// What a hook listens to: all that a store must know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its name.
    pub name: String,
    /// Which events.
    pub events: Vec<EventKind>,
    /// Of suspects at least so severe.
    pub min_severity: Severity,
}

/// Something that a hook has still to be told.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// Growing number.
    pub id: i64,
    /// What.
    pub event: EventKind,
    /// When it happened.
    pub time: Timestamp,
    /// The block.
    pub decision: Option<DecisionId>,
    /// Until when.
    pub blocked_until: Option<Timestamp>,
    /// The suspect as it is now.
    pub suspect: Suspect,
}

/// How much a hook has still to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// Name of the hook.
    pub hook: String,
    /// Events that wait.
    pub waiting: u64,
    /// Events that were given up since the hook was configured first.
    pub dropped: u64,
}

/// How a hook wants to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Our own JSON, signed.
    Webhook,
    /// `{"text": …}` as Slack, Mattermost, Rocket.Chat and others take it.
    Slack,
}

impl Kind {
    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Slack => "slack",
        }
    }
}

/// How addresses appear in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// As they are.
    Full,
    /// Cut to their /24 or /48.
    Masked,
}

/// A text that must not be read in logs: a secret, or the URL of a chat, which is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A text of the configuration, or the file that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Itself.
    Text(Secret),
    /// A file with it, read at the start; white space around it does not count.
    File(PathBuf),
}

/// A `[[notify]]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its name; unique.
    pub name: String,
    /// Where to.
    pub url: Source,
    /// How.
    pub kind: Kind,
    /// What webhooks are signed with.
    pub secret: Option<Source>,
    /// Which events.
    pub events: Vec<EventKind>,
    /// Of suspects at least so severe.
    pub min_severity: Severity,
    /// How addresses appear.
    pub addresses: Addresses,
}

/// Why hooks can't be used.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// A file of a hook can't be read.
    #[error("notify '{hook}': {path} can't be read: {error}: let the service's user read it")]
    File {
        /// Name of the hook.
        hook: String,
        /// Which file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// What a file holds is not what it should be.
    #[error("notify '{hook}': {what}")]
    Content {
        /// Name of the hook.
        hook: String,
        /// What is wrong.
        what: String,
    },
    /// HTTP can't be prepared.
    #[error("HTTP for notifications can't be prepared: {0}")]
    Http(String),
}

/// Reads a URL that messages may be sent to.
///
/// # Errors
/// What is wrong with it and how to mend it, in words that don't repeat it: it may be secret.
pub fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is no URL ({error})"))?;
    let host = url.host_str().unwrap_or_default();
    match url.scheme() {
        "https" if !host.is_empty() => Ok(url),
        "http" if plain_is_private(host) => Ok(url),
        "http" => Err(format!(
            "would send addresses to {host} unencrypted: expected https, or http to this machine or a private network"
        )),
        _ => Err("expected a URL that starts with https://".to_owned()),
    }
}

/// Whether plain HTTP to a host stays on this machine or in a private network: loopback and
/// private addresses, `localhost`, names without a dot and those that only private networks
/// have (`.internal`, `.local`, Kubernetes' `.svc`). Elsewhere messages must be encrypted:
/// they hold addresses of people, and a chat's URL is a secret.
#[must_use]
pub fn plain_is_private(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return match ipwarden::address::fold(ip) {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
            IpAddr::V6(ip) => {
                ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
            }
        };
    }
    let private = [".localhost", ".internal", ".local", ".svc", ".svc.cluster.local"];
    !host.is_empty() && (!host.contains('.') || private.iter().any(|end| host.ends_with(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_at_home() {
        for fine in [
            "https://hooks.example.com/x",
            "http://127.0.0.1:9000/",
            "http://[::1]:9000/",
            "http://localhost/",
            "http://10.1.2.3/",
            "http://[fd00::1]/",
            "http://alerts/",
            "http://alerts.monitoring.svc/",
            "http://alerts.monitoring.svc.cluster.local:8080/",
        ] {
            assert!(parse_url(fine).is_ok(), "{fine}");
        }
        assert_eq!(
            parse_url("http://hooks.example.com/secret").unwrap_err(),
            "would send addresses to hooks.example.com unencrypted: expected https, or http to this machine or a private network"
        );
        for bad in ["http://203.0.113.7/", "ftp://localhost/", "hooks", "", "https://"] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let source = Source::Text(Secret::new("https://hooks.example.com/T0/B0/x"));
        assert_eq!(format!("{source:?}"), "Text(Secret(…))");
    }

    #[test]
    fn bits_are_read_back() {
        for event in EventKind::ALL {
            assert_eq!(EventKind::from_bit(event.bit()), Some(event));
        }
        assert_eq!(EventKind::from_bit(3), None);
    }
}
