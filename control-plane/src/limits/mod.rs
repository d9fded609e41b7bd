//! Limits as the control plane keeps them: changes that lie over what each proxy configures;
//! and the policy that carries them, with the decisions by region ([`crate::regions`]).
//!
//! Owns the words (override, reset, policy) and the payload that the proxies read. What a
//! limit means, and whether one is well formed, is the filter's to say: its own code is
//! asked ([`ipwarden::config::check_limit`]), and a limit is kept as the JSON that it reads.
//!
//! | module | owns |
//! |---|---|
//! | [`fleet`] | limits over all proxies: what they report is summed here |
//! | [`keys`] | whose bucket a reset empties: the text, checked |
//! | [`reports`] | what the proxies say they configure, in bounded memory |
//! | [`view`] | what is in force where: reports and changes laid over each other |

pub mod fleet;
pub mod keys;
pub mod reports;
pub mod view;

use ipwarden::limits::policy::MAX_RESETS;
use ipwarden::limits::{MAX_NAME_BYTES, Mode, Rate};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::model::Actor;
use crate::regions;

/// A reset older than this is forgotten: no bucket takes longer to fill by itself.
pub const RESET_LIFETIME: SignedDuration =
    SignedDuration::from_secs(Rate::MAX_PER.as_secs().cast_signed());

/// A change to one limit, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Name of the limit.
    pub name: String,
    /// A whole limit in JSON; absent where only the mode of a configured one is changed.
    pub definition: Option<String>,
    /// In the place of the mode that the definition, or the configured limit, has.
    pub mode: Option<Mode>,
    /// When it was last changed.
    pub changed_at: Timestamp,
    /// By whom.
    pub changed_by: Actor,
}

impl Override {
    /// The whole limit as it is in force; `None` where only the mode is changed, or the
    /// kept text is damaged.
    #[must_use]
    pub fn limit(&self) -> Option<Value> {
        let limit = serde_json::from_str(self.definition.as_deref()?).ok()?;
        Some(match self.mode {
            Some(mode) => with_mode(limit, mode),
            None => limit,
        })
    }

    /// As the proxies read it.
    fn wire(&self) -> Option<Value> {
        match (&self.definition, self.mode) {
            (Some(_), _) => self.limit(),
            (None, Some(mode)) => Some(json!({ "name": self.name, "mode": mode.as_str() })),
            (None, None) => None,
        }
    }
}

/// The same limit in another mode. Enforcing is the default and not written.
#[must_use]
pub fn with_mode(mut limit: Value, mode: Mode) -> Value {
    if let Some(members) = limit.as_object_mut() {
        match mode {
            Mode::Enforce => drop(members.remove("mode")),
            Mode::Shadow => drop(members.insert("mode".to_owned(), mode.as_str().into())),
        }
    }
    limit
}

/// The mode that a limit's JSON says.
#[must_use]
pub fn mode_of(limit: &Value) -> Mode {
    match limit.get("mode").and_then(Value::as_str) {
        Some(word) if word == Mode::Shadow.as_str() => Mode::Shadow,
        _ => Mode::Enforce,
    }
}

/// A mode by its word.
#[must_use]
pub fn parse_mode(word: &str) -> Option<Mode> {
    [Mode::Enforce, Mode::Shadow].into_iter().find(|mode| mode.as_str() == word)
}

/// Whether a text can be the name of a limit.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

/// What [`is_name`] expects, for messages.
pub const NAME_EXPECTED: &str = "1 to 64 lower-case letters, digits, '-' or '_'";

/// Why a text can't be a limit of some name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No JSON.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// JSON, but no object.
    #[error("expected a limit as a JSON object")]
    NotAnObject,
    /// It names another limit.
    #[error("found '{found}': expected '{expected}', or no name")]
    Other {
        /// The name in the text, shortened.
        found: String,
        /// The name asked for.
        expected: String,
    },
}

/// A limit's JSON with its name in it. The text stays as it is otherwise, because the filter's
/// check notices members that are given twice, which a parsed value has forgotten. `name`
/// must be one (see [`is_name`]).
///
/// # Errors
/// [`NameError`].
pub fn named(name: &str, text: &[u8]) -> Result<Vec<u8>, NameError> {
    let limit: Value =
        serde_json::from_slice(text).map_err(|error| NameError::NotJson(error.to_string()))?;
    let members = limit.as_object().ok_or(NameError::NotAnObject)?;
    match members.get("name") {
        Some(Value::String(other)) if other != name => Err(NameError::Other {
            found: other.chars().take(80).flat_map(char::escape_debug).collect(),
            expected: name.to_owned(),
        }),
        Some(_) => Ok(text.to_vec()),
        None => {
            // After the opening brace; a checked name needs no escapes.
            let rest = text.trim_ascii_start().get(1..).unwrap_or_default();
            let comma = if members.is_empty() { "" } else { "," };
            let mut out = format!("{{\"name\":\"{name}\"{comma}").into_bytes();
            out.extend_from_slice(rest);
            Ok(out)
        }
    }
}

/// A bucket that is to be full again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// Running number, never given twice.
    pub id: u64,
    /// Whose: see [`keys`].
    pub key: String,
    /// In which limit; `None`: in all.
    pub limit: Option<String>,
    /// When it was asked for.
    pub time: Timestamp,
}

/// Everything that lies over the proxies' own limits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Revision of the last change; 0: never changed.
    pub number: u64,
    /// By name, each once.
    pub overrides: Vec<Override>,
    /// The latest, oldest first; at most [`MAX_RESETS`], none older than [`RESET_LIFETIME`].
    pub resets: Vec<Reset>,
    /// Decisions by region that have not ended, by number.
    pub regions: Vec<regions::Rule>,
}

/// One change to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A whole limit, in the place of whatever was kept under its name.
    Set {
        /// Its name.
        name: String,
        /// Its JSON.
        definition: String,
    },
    /// Another mode; a kept definition stays.
    Mode {
        /// Name of the limit.
        name: String,
        /// Its new mode.
        mode: Mode,
    },
    /// What is kept under a name goes: the configured limit is in force again.
    Remove {
        /// Name of the limit.
        name: String,
    },
    /// A bucket is to be full again.
    Reset {
        /// Whose.
        key: String,
        /// In which limit; `None`: in all.
        limit: Option<String>,
    },
    /// Of decisions by region.
    Regions(regions::Change),
}

impl Change {
    /// The limit that it is about; `None` for a reset in all of them, and for regions.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Set { name, .. } | Self::Mode { name, .. } | Self::Remove { name } => Some(name),
            Self::Reset { limit, .. } => limit.as_deref(),
            Self::Regions(_) => None,
        }
    }
}

impl Policy {
    /// What is kept under a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Override> {
        self.overrides.iter().find(|kept| kept.name == name)
    }

    /// The policy after a change, without a new number: what a store will make of it.
    #[must_use]
    pub fn after(&self, change: &Change, actor: &str, now: Timestamp) -> Self {
        let mut next = self.clone();
        let before = change.name().and_then(|name| self.get(name));
        let kept = |name: &str, definition: Option<String>, mode| Override {
            name: name.to_owned(),
            definition,
            mode,
            changed_at: now,
            changed_by: actor.to_owned(),
        };
        let put = match change {
            Change::Set { name, definition } => Some(kept(name, Some(definition.clone()), None)),
            Change::Mode { name, mode } => {
                let definition = before.and_then(|before| before.definition.clone());
                Some(kept(name, definition, Some(*mode)))
            }
            Change::Remove { .. } => None,
            Change::Reset { key, limit } => {
                let id = self.resets.last().map_or(1, |last| last.id + 1);
                next.resets.push(Reset { id, key: key.clone(), limit: limit.clone(), time: now });
                next.resets.drain(..next.resets.len().saturating_sub(MAX_RESETS));
                return next;
            }
            Change::Regions(change) => {
                // A store has given higher numbers to other decisions meanwhile.
                let next_id = self.regions.last().map_or(1, |last| last.id.saturating_add(1));
                regions::apply(&mut next.regions, change, actor, now, next_id);
                return next;
            }
        };
        next.overrides.retain(|kept| Some(kept.name.as_str()) != change.name());
        next.overrides.extend(put);
        next.overrides.sort_by(|a, b| a.name.cmp(&b.name));
        next
    }

    /// What the proxies read (see [`ipwarden::limits::policy`]).
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let limits: Vec<Value> = self.overrides.iter().filter_map(Override::wire).collect();
        let resets: Vec<Value> = self
            .resets
            .iter()
            .map(|reset| match &reset.limit {
                Some(limit) => json!({ "id": reset.id, "key": reset.key, "limit": limit }),
                None => json!({ "id": reset.id, "key": reset.key }),
            })
            .collect();
        let mut payload = json!({ "limits": limits, "resets": resets });
        // A filter that has never heard of regions takes all the rest.
        if !self.regions.is_empty() {
            payload["regions"] = self.regions.iter().map(regions::Rule::wire).collect();
        }
        payload.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T16:00:00Z".parse().unwrap()
    }

    fn after(changes: &[Change]) -> Policy {
        let apply = |policy: Policy, change| policy.after(change, "ops", now());
        changes.iter().fold(Policy::default(), apply)
    }

    fn set(name: &str, definition: &str) -> Change {
        Change::Set { name: name.to_owned(), definition: definition.to_owned() }
    }

    fn mode(name: &str, mode: Mode) -> Change {
        Change::Mode { name: name.to_owned(), mode }
    }

    fn payload(policy: &Policy) -> Value {
        serde_json::from_slice(&policy.payload()).unwrap()
    }

    #[test]
    fn nothing_changed_is_an_empty_payload() {
        assert_eq!(payload(&Policy::default()), json!({"limits": [], "resets": []}));
    }

    #[test]
    fn a_mode_stands_alone_or_in_the_place_of_the_definitions_own() {
        let policy = after(&[
            mode("api", Mode::Enforce),
            set("login", r#"{"name":"login","anonymous":{"requests":5,"per":"1m"}}"#),
            mode("login", Mode::Shadow),
        ]);
        let limit =
            json!({"name": "login", "anonymous": {"requests": 5, "per": "1m"}, "mode": "shadow"});
        assert_eq!(
            payload(&policy),
            json!({"limits": [{"name": "api", "mode": "enforce"}, limit], "resets": []})
        );
        let policy = policy.after(&mode("login", Mode::Enforce), "ops", now());
        assert_eq!(policy.get("login").unwrap().limit().unwrap().get("mode"), None);
    }

    #[test]
    fn a_whole_limit_replaces_a_mode_and_a_removal_both() {
        let policy = after(&[mode("login", Mode::Shadow), set("login", r#"{"name":"login"}"#)]);
        assert_eq!(payload(&policy)["limits"], json!([{"name": "login"}]));
        let policy = policy.after(&Change::Remove { name: "login".to_owned() }, "ops", now());
        assert_eq!(policy.overrides, []);
    }

    #[test]
    fn the_latest_resets_are_kept_and_numbered_on() {
        let reset = |n: usize| Change::Reset {
            key: format!("identity:{n}"),
            limit: n.is_multiple_of(2).then(|| "login".to_owned()),
        };
        let changes: Vec<Change> = (1..=MAX_RESETS + 3).map(reset).collect();
        let policy = after(&changes);
        assert_eq!(policy.resets.len(), MAX_RESETS);
        let wire = payload(&policy);
        assert_eq!(wire["resets"][0], json!({"id": 4, "key": "identity:4", "limit": "login"}));
        assert_eq!(wire["resets"][1], json!({"id": 5, "key": "identity:5"}));
    }

    #[test]
    fn a_name_is_added_where_there_is_none() {
        let named = |text: &str| Ok(String::from_utf8(named("login", text.as_bytes())?).unwrap());
        let ok = |text: &str| Ok::<_, NameError>(text.to_owned());
        assert_eq!(named(" {}"), ok(r#"{"name":"login"}"#));
        assert_eq!(
            named(r#"{ "mode": "shadow", "mode": "enforce" }"#),
            ok(r#"{"name":"login", "mode": "shadow", "mode": "enforce" }"#)
        );
        assert_eq!(named(r#"{"name":"login"}"#), ok(r#"{"name":"login"}"#));
        assert_eq!(named("[]"), Err(NameError::NotAnObject));
        assert_eq!(
            named(r#"{"name":"api"}"#).unwrap_err().to_string(),
            "found 'api': expected 'login', or no name"
        );
        assert!(named("{").unwrap_err().to_string().starts_with("not JSON: "));
    }

    #[test]
    fn names_are_what_metrics_can_carry() {
        assert!(is_name("login-2_b") && is_name(&"a".repeat(64)));
        for text in ["", "Login", "a b", "käse", &"a".repeat(65)] {
            assert!(!is_name(text), "{text}");
        }
    }
}
