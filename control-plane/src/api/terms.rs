//! What a new decision says beside its target: checked in one place for single additions
//! and imports.

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use super::input::short;
use crate::model::{Action, NewDecision, Origin};
use crate::problem::{Fault, fault};

/// Longest reason in bytes.
pub const MAX_REASON_BYTES: usize = 1_000;

/// Everything about a decision but its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Block or allow.
    pub action: Action,
    /// Who makes it.
    pub origin: Origin,
    /// Why.
    pub reason: String,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// The same as a client writes it.
#[derive(Debug, Clone, Default)]
pub struct RawTerms {
    /// Why.
    pub reason: String,
    /// How long: `4h`.
    pub lifetime: Option<String>,
    /// Until when: RFC 3339.
    pub expires_at: Option<String>,
    /// Who makes it.
    pub origin: Option<String>,
}

impl RawTerms {
    /// Checks everything. All faults are appended to `faults`; `None` when there are any.
    #[must_use]
    pub fn check(self, action: Action, now: Timestamp, faults: &mut Vec<Fault>) -> Option<Terms> {
        let before = faults.len();
        if self.reason.len() > MAX_REASON_BYTES {
            let found = self.reason.len();
            faults.push(fault(
                "reason",
                format!("expected at most {MAX_REASON_BYTES} bytes, found {found}"),
            ));
        } else if self.reason.chars().any(char::is_control) {
            faults.push(fault("reason", "contains a control character: write it on one line"));
        }
        let origin = match self.origin.as_deref().map(str::parse::<Origin>) {
            None => Origin::Manual,
            Some(Ok(origin)) => origin,
            Some(Err(error)) => {
                faults.push(fault("origin", error.to_string()));
                Origin::Manual
            }
        };
        let expires_at = match (self.lifetime.as_deref(), self.expires_at.as_deref()) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                faults.push(fault("for", "given together with expires_at: give one of them"));
                None
            }
            (Some(lifetime), None) => {
                end_after(lifetime, now).map_err(|message| faults.push(fault("for", message))).ok()
            }
            (None, Some(end)) => {
                end_at(end, now).map_err(|message| faults.push(fault("expires_at", message))).ok()
            }
        };
        (faults.len() == before).then_some(Terms {
            action,
            origin,
            reason: self.reason,
            expires_at,
        })
    }
}

impl Terms {
    /// A decision with these terms.
    #[must_use]
    pub fn decide(&self, target: IpNet) -> NewDecision {
        NewDecision {
            target,
            action: self.action,
            origin: self.origin.clone(),
            reason: self.reason.clone(),
            expires_at: self.expires_at,
        }
    }

    /// The terms in words, for the audit log.
    #[must_use]
    pub fn in_words(&self) -> String {
        let mut words = self.action.as_str().to_owned();
        if self.origin != Origin::Manual {
            words.push_str(&format!(" by {}", self.origin));
        }
        if let Some(end) = self.expires_at {
            words.push_str(&format!(" until {end}"));
        }
        if !self.reason.is_empty() {
            words.push_str(&format!(": {}", self.reason));
        }
        words
    }
}

/// Reads how long something lasts: at least a second.
pub(crate) fn lifetime(text: &str) -> Result<std::time::Duration, String> {
    let lifetime = ipwarden::duration::parse(text)
        .map_err(|error| format!("'{}' is {}", short(text), error_words(error)))?;
    if lifetime.as_secs() == 0 {
        return Err(
            "expected at least one second; leave it out for a decision without an end".to_owned()
        );
    }
    Ok(lifetime)
}

fn end_after(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let lifetime = lifetime(text)?;
    SignedDuration::try_from(lifetime)
        .ok()
        .and_then(|lifetime| now.checked_add(lifetime).ok())
        .ok_or_else(|| "ends after the end of the calendar".to_owned())
}

fn error_words(error: ipwarden::duration::DurationError) -> String {
    match error {
        ipwarden::duration::DurationError::Syntax => error.to_string(),
        ipwarden::duration::DurationError::TooLong => {
            "longer than ten years: leave it out for a decision without an end".to_owned()
        }
    }
}

fn end_at(end: &str, now: Timestamp) -> Result<Timestamp, String> {
    let end: Timestamp = end.parse().map_err(|_| {
        format!("'{}' is no time: expected RFC 3339 such as 2026-11-22T16:00:00Z", short(end))
    })?;
    if end <= now {
        return Err(format!("{end} is in the past: the service's clock says {now}"));
    }
    let most = i64::try_from(ipwarden::duration::MAX_SECONDS).unwrap_or(i64::MAX);
    if end.duration_since(now) > SignedDuration::from_secs(most) {
        return Err(
            "more than ten years ahead: leave it out for a decision without an end".to_owned()
        );
    }
    // Stores keep microseconds; what is answered is what will be listed.
    Ok(Timestamp::from_microsecond(end.as_microsecond()).unwrap_or(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T16:00:00Z".parse().unwrap()
    }

    #[track_caller]
    fn refused(raw: RawTerms, expected: &[&str]) {
        let mut faults = Vec::new();
        assert_eq!(raw.check(Action::Block, now(), &mut faults), None);
        let faults: Vec<String> =
            faults.iter().map(|fault| format!("{}: {}", fault.place, fault.message)).collect();
        assert_eq!(faults, expected);
    }

    fn lasting(lifetime: &str) -> RawTerms {
        RawTerms { lifetime: Some(lifetime.into()), ..RawTerms::default() }
    }

    fn ending(end: &str) -> RawTerms {
        RawTerms { expires_at: Some(end.into()), ..RawTerms::default() }
    }

    #[test]
    fn an_end_is_absolute() {
        let check = |raw: RawTerms| raw.check(Action::Block, now(), &mut Vec::new()).unwrap();
        let end = check(lasting("4h")).expires_at.unwrap();
        assert_eq!(end.to_string(), "2026-11-22T20:00:00Z");
        let end = check(ending("2026-11-22T18:00:00+01:00")).expires_at.unwrap();
        assert_eq!(end.to_string(), "2026-11-22T17:00:00Z");
        assert_eq!(check(RawTerms::default()).expires_at, None);
    }

    #[test]
    fn bad_terms_say_how_to_mend_them() {
        refused(
            RawTerms { expires_at: Some("2027-01-01T00:00:00Z".into()), ..lasting("4h") },
            &["for: given together with expires_at: give one of them"],
        );
        refused(
            ending("2026-11-22T15:59:59Z"),
            &[
                "expires_at: 2026-11-22T15:59:59Z is in the past: the service's clock says 2026-11-22T16:00:00Z",
            ],
        );
        refused(
            ending("tomorrow"),
            &["expires_at: 'tomorrow' is no time: expected RFC 3339 such as 2026-11-22T16:00:00Z"],
        );
        refused(
            ending("2106-11-22T16:00:00Z"),
            &["expires_at: more than ten years ahead: leave it out for a decision without an end"],
        );
        refused(
            lasting("4 hours"),
            &[
                "for: '4 hours' is not a duration: expected a number with a unit (ms, s, m, h, d, w), such as 30s, 4h or 1h30m",
            ],
        );
        refused(
            lasting("0s"),
            &["for: expected at least one second; leave it out for a decision without an end"],
        );
        refused(
            lasting("11000d"),
            &["for: '11000d' is longer than ten years: leave it out for a decision without an end"],
        );
        refused(
            RawTerms { reason: "a\nb".into(), origin: Some("me".into()), ..RawTerms::default() },
            &[
                "reason: contains a control character: write it on one line",
                "origin: 'me' is not an origin: expected manual, feed:<name> or detector:<rule>",
            ],
        );
        refused(
            RawTerms { reason: "x".repeat(1_001), ..RawTerms::default() },
            &["reason: expected at most 1000 bytes, found 1001"],
        );
    }
}
