//! The words of the domain as types: what the API speaks, the command line prints and the
//! stores keep. JSON names are a contract with users; times are RFC 3339 in UTC.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
pub use ipwarden::decisions::{DecisionId, Revision, Tier};
use ipwarden::privacy::AddressForm;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a decision does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Refuse requests.
    Block,
    /// Let requests pass whatever any block says.
    Allow,
}

impl Action {
    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Allow => "allow",
        }
    }
}

/// Who made a decision: `manual`, `feed:<name>` or `detector:<rule>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Origin {
    /// A person.
    Manual,
    /// A list fetched from elsewhere.
    Feed(String),
    /// A detector's rule.
    Detector(String),
}

impl Origin {
    /// Whether a detector's rule made it.
    #[must_use]
    pub const fn is_detector(&self) -> bool {
        matches!(self, Self::Detector(_))
    }
}

/// The text is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an origin: expected manual, feed:<name> or detector:<rule>")]
pub struct OriginError(String);

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = |name: &str| {
            let fits = !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            fits.then(|| name.to_owned())
        };
        let refused = || OriginError(text.escape_debug().take(80).collect());
        match text.split_once(':') {
            None if text == "manual" => Ok(Self::Manual),
            Some(("feed", name)) => named(name).map(Self::Feed).ok_or_else(refused),
            Some(("detector", rule)) => named(rule).map(Self::Detector).ok_or_else(refused),
            _ => Err(refused()),
        }
    }
}

impl TryFrom<String> for Origin {
    type Error = OriginError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.to_string()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manual => f.write_str("manual"),
            Self::Feed(name) => write!(f, "feed:{name}"),
            Self::Detector(rule) => write!(f, "detector:{rule}"),
        }
    }
}

/// The precedence of an action with an origin.
#[must_use]
pub const fn tier(action: Action, origin: &Origin) -> Tier {
    match (action, origin) {
        (Action::Allow, _) => Tier::Allow,
        (Action::Block, Origin::Manual) => Tier::Manual,
        (Action::Block, Origin::Detector(_)) => Tier::Detector,
        (Action::Block, Origin::Feed(_)) => Tier::Feed,
    }
}

/// What to do with an address or network, until when, and who said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    /// Number, unique for ever in this control plane.
    pub id: DecisionId,
    /// Address or CIDR. A single address is written without a prefix length.
    #[serde(with = "target_text")]
    #[schema(value_type = String, example = "203.0.113.0/24")]
    pub target: IpNet,
    /// Block or allow.
    pub action: Action,
    /// Who made it.
    #[schema(value_type = String, example = "manual")]
    pub origin: Origin,
    /// Why, in words for the operator. Never shown to clients.
    pub reason: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ends; absent for a decision without an end.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

impl Decision {
    /// Its precedence.
    #[must_use]
    pub fn tier(&self) -> Tier {
        tier(self.action, &self.origin)
    }

    /// Whether it applies at `now`.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// Targets as people write them.
pub mod target_text {
    use ipnet::IpNet;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes a bare address for a single host.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(target: &IpNet, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&ipwarden::address::display_target(target))
    }

    /// Reads an address or a CIDR.
    ///
    /// # Errors
    /// The message of [`ipwarden::address::TargetError`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        ipwarden::address::parse_target(&text).map_err(D::Error::custom)
    }
}

/// A decision to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDecision {
    /// Folded, truncated network.
    pub target: IpNet,
    /// Block or allow.
    pub action: Action,
    /// Who makes it.
    pub origin: Origin,
    /// Why.
    pub reason: String,
    /// Absolute end.
    pub expires_at: Option<Timestamp>,
}

/// What a token may do. Each role may do what the ones before it may not; they don't nest,
/// but for `admin`, which may do what `viewer` may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Pull decisions, ship records, ask for places.
    Proxy,
    /// Read everything, change nothing.
    Viewer,
    /// Read what is refused, as lists and as CrowdSec's bouncers do; nothing else.
    Bouncer,
    /// Everything an operator does.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Proxy, Self::Viewer, Self::Bouncer, Self::Admin];

    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Viewer => "viewer",
            Self::Bouncer => "bouncer",
            Self::Admin => "admin",
        }
    }
}

/// A token as it is listed: never its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Number of the token.
    pub id: i64,
    /// A name for people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last used, to the minute; absent when never.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
}

/// Somebody who acts: a token's name, or a part of the service.
pub type Actor = String;

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Running number.
    pub id: i64,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What: `decisions.add`, `decisions.remove`, `token.create`, `requests.search` ….
    pub action: String,
    /// On what: a target, a token's name, a count.
    pub subject: String,
    /// More, in words.
    pub detail: String,
}

/// One Envoy as the control plane knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Proxy {
    /// Its name.
    pub name: String,
    /// Version of its filter.
    pub version: String,
    /// When it was last heard of.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
    /// Number of the decision set that all its workers have applied, as far as known.
    pub revision: u64,
    /// How many revisions it is behind.
    pub revision_lag: u64,
    /// Requests that its workers saw since they started.
    pub requests_seen: u64,
    /// Requests whose records are stored here (weights).
    pub requests_stored: u64,
    /// Requests whose records were lost, as reported.
    pub requests_lost: u64,
    /// Requests left out on purpose.
    pub requests_skipped: u64,
    /// Its clock minus ours, in milliseconds (includes the way here).
    pub clock_offset_ms: i64,
    /// Workers heard of since its last start.
    pub workers: u64,
}

/// A stored record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoredRecord {
    /// Running number; a later record has a higher one.
    pub id: i64,
    /// Start of the request.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// Client address in the form that `form` says; absent where the listener has none.
    #[schema(value_type = Option<String>)]
    pub ip: Option<IpAddr>,
    /// `full`, `truncated` (the first address of the network) or `pseudonym`.
    #[serde(default, with = "crate::privacy::form_word")]
    #[schema(value_type = String, example = "full")]
    pub form: AddressForm,
    /// The id of a pseudonym's key, where the proxy named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Request method. Bytes that are not UTF-8 are shown as `\xNN`, here and below.
    pub method: String,
    /// Host.
    pub host: String,
    /// Path without the query.
    pub path: String,
    /// Query, only where `store_query` is on.
    pub query: Option<String>,
    /// Response status, 0 when none was sent.
    pub status: u16,
    /// What became of it: admitted, blocked, limited, shadow, unready, redirected, unseen.
    pub verdict: String,
    /// The decision that refused it.
    pub decision: Option<DecisionId>,
    /// The limit or rule that refused it.
    pub rule: Option<String>,
    /// How many requests it stands for.
    pub weight: u32,
    /// Duration in milliseconds.
    pub duration_ms: f64,
    /// Bytes received from the client.
    pub bytes_in: u64,
    /// Bytes sent to the client.
    pub bytes_out: u64,
    /// Envoy's response flags as in its access log (`UH,UF` …), absent for none.
    pub flags: Option<String>,
    /// User agent.
    pub user_agent: String,
    /// `x-request-id`.
    pub request_id: String,
    /// ISO 3166-1 alpha-2 code of the country, absent when unknown.
    pub country: Option<String>,
    /// City, absent when unknown.
    pub city: Option<String>,
    /// Number of the autonomous system, absent when unknown.
    #[serde(default)]
    pub asn: Option<u32>,
    /// Name of the proxy.
    pub proxy: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_round_trip_and_bad_ones_are_named() {
        for text in ["manual", "feed:spamhaus-drop", "detector:probing"] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), text);
        }
        assert_eq!(
            "feed:".parse::<Origin>().unwrap_err().to_string(),
            "'feed:' is not an origin: expected manual, feed:<name> or detector:<rule>"
        );
        assert!("feed:a b".parse::<Origin>().is_err());
    }

    #[test]
    fn a_single_address_is_written_without_a_prefix() {
        let decision: Decision = serde_json::from_str(
            r#"{"id":1,"target":"::ffff:203.0.113.7","action":"block","origin":"manual","reason":"","created_at":"2026-11-22T16:00:00Z","expires_at":null}"#,
        )
        .unwrap();
        assert_eq!(serde_json::to_value(&decision).unwrap()["target"], "203.0.113.7");
        assert_eq!(decision.tier(), Tier::Manual);
    }
}
