//! Suspects: addresses that detectors flagged, with reasons, evidence and a score.
//!
//! | module | owns |
//! |---|---|
//! | [`judge`] | the way from flags to suspects, and from suspects to blocks |
//! | [`words`] | a suspect in sentences |
//!
//! One target is one suspect with many reasons while it is open. A confirmed one takes what
//! else is flagged while its block lasts; of a dismissed one the same rules are not heard for
//! a time, unless they get worse. How flags merge is decided here and is the same for every
//! store; what is kept is bounded whatever a client does.

pub mod judge;
pub mod words;

use std::collections::BTreeMap;

use ipnet::IpNet;
use ipwarden::privacy::{AddressForm, KeyId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::detect::policy::Ground;
use crate::detect::{EVIDENCE_MAX, Evidence, Flag, Severity, Source, combined_score};
use crate::geo::Spot;
use crate::model::{DecisionId, target_text};
use crate::notify::EventKind;
use crate::privacy::Veil;
use crate::store::view::timestamp_of_us;

/// Most reasons of one suspect: more than there are rules. Of more the surest stay.
pub const MAX_REASONS: usize = 48;
/// Of a reason's evidence so much is from its beginning; the rest is the latest.
const FIRST_EVIDENCE: usize = 3;
/// Most open suspects; of more those of the least score go first.
pub const MAX_OPEN: u64 = 100_000;

/// What became of a suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nobody has judged it yet; it may be blocked by the policy.
    Open,
    /// A person agreed: it was blocked.
    Confirmed,
    /// A person disagreed: a false alarm.
    Dismissed,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Open, Self::Confirmed, Self::Dismissed];

    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Confirmed => "confirmed",
            Self::Dismissed => "dismissed",
        }
    }

    /// The status of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

/// An address that detectors flagged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Suspect {
    /// Running number.
    pub id: i64,
    /// The address; for IPv6 its /64.
    #[serde(with = "target_text")]
    #[schema(value_type = String, example = "203.0.113.7")]
    pub target: IpNet,
    /// `full`, `truncated` (the target is the first address of a network) or `pseudonym`.
    #[serde(
        default,
        with = "crate::privacy::form_word",
        skip_serializing_if = "crate::privacy::is_full"
    )]
    #[schema(value_type = String, example = "full")]
    pub form: AddressForm,
    /// The id of a pseudonym's key, where the proxy named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What became of it.
    pub status: Status,
    /// The worst of its reasons: low, medium, high or critical.
    #[serde(with = "severity_word")]
    #[schema(value_type = String, example = "high")]
    pub severity: Severity,
    /// All reasons together, 0 to 1.
    pub score: f64,
    /// First request behind it.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen: Timestamp,
    /// Last request behind it.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
    /// ISO 3166-1 alpha-2 code of the country when it was flagged last; absent when unknown.
    pub country: Option<String>,
    /// City, absent when unknown.
    pub city: Option<String>,
    /// Number of the autonomous system, absent when unknown.
    pub asn: Option<u32>,
    /// Why, the worst first; one for each rule.
    pub reasons: Vec<Reason>,
    /// The latest decision that the policy or a person made about it.
    pub decision: Option<DecisionId>,
    /// When a person judged it.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub closed_at: Option<Timestamp>,
    /// Who.
    pub closed_by: Option<String>,
    /// How many flags it stands for: says whether a suspect is the one that was looked at.
    #[serde(default)]
    pub flags: u64,
}

/// What one rule says of a suspect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// Name of the rule.
    pub rule: String,
    /// low, medium, high or critical.
    #[serde(with = "severity_word")]
    #[schema(value_type = String)]
    pub severity: Severity,
    /// streaming or hourly.
    #[serde(with = "source_word")]
    #[schema(value_type = String)]
    pub source: Source,
    /// In words.
    pub detail: String,
    /// First request behind it.
    #[schema(value_type = String, format = DateTime)]
    pub first_seen: Timestamp,
    /// Last request behind it.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
    /// Requests behind it.
    pub count: u64,
    /// How sure, 0 to 1.
    pub score: f64,
    /// Some of the requests: the first ones and the latest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<EvidenceView>,
    /// What made a score, the weightiest first; only of the isolation forest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub features: BTreeMap<String, f64>,
}

/// One request behind a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EvidenceView {
    /// Start of the request.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// Request method.
    pub method: String,
    /// Path as the client sent it, escaped.
    pub path: String,
    /// Response status, 0 when none was sent.
    pub status: u16,
    /// What the rule matched, decoded; empty when it looks at no text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub matched: String,
}

/// A flag with where its address was.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// The flag.
    pub flag: Flag,
    /// Where.
    pub place: Spot,
}

/// What noting the flags of one target did.
#[derive(Debug, Clone, PartialEq)]
pub enum Noted {
    /// A suspect has more reasons, or a new one is open.
    Suspect {
        /// As it is now.
        suspect: Box<Suspect>,
        /// Whether it is new.
        opened: bool,
    },
    /// A person dismissed the same before: nothing changed.
    Dismissed {
        /// Flags that were dropped.
        flags: u64,
    },
}

/// What flags of one target come to, before it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// The suspect; absent when everything was dismissed before.
    pub suspect: Option<Suspect>,
    /// Whether it is new.
    pub opened: bool,
    /// The severity that it had before.
    was: Option<Severity>,
    flags: usize,
}

impl Merged {
    /// Merges flags, in their order, into what is `known` of their target, the newest first:
    /// an open suspect, and judged ones whose quiet time lasts.
    #[must_use]
    pub fn of(known: Vec<Suspect>, sightings: &[&Sighting]) -> Self {
        // An open one, else a confirmed one whose block lasts.
        let (mut suspect, mut dismissed): (Option<Suspect>, Vec<Suspect>) = (None, Vec::new());
        for found in known {
            match found.status {
                Status::Dismissed => dismissed.push(found),
                Status::Open => suspect = Some(found),
                Status::Confirmed => suspect = suspect.or(Some(found)),
            }
        }
        let was = suspect.as_ref().map(|suspect| suspect.severity);
        let silenced = |flag: &Flag| dismissed.iter().any(|dismissed| dismissed.silences(flag));
        for sighting in sightings.iter().filter(|sighting| !silenced(&sighting.flag)) {
            match &mut suspect {
                Some(suspect) => suspect.absorb(sighting),
                None => suspect = Some(Suspect::new(sighting)),
            }
        }
        Self { opened: suspect.is_some() && was.is_none(), suspect, was, flags: sightings.len() }
    }

    /// What there is to tell of it.
    #[must_use]
    pub fn event(&self) -> Option<EventKind> {
        let suspect = self.suspect.as_ref()?;
        let is_worse = self.was.is_some_and(|was| suspect.severity > was);
        match self.opened {
            true => Some(EventKind::Opened),
            false => (suspect.status == Status::Open && is_worse).then_some(EventKind::Worse),
        }
    }

    /// What was done, once it is kept.
    #[must_use]
    pub fn noted(self) -> Noted {
        match self.suspect {
            Some(suspect) => Noted::Suspect { suspect: Box::new(suspect), opened: self.opened },
            None => Noted::Dismissed { flags: self.flags as u64 },
        }
    }
}

/// A person's judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closing {
    /// Confirmed or dismissed; open takes it back.
    pub status: Status,
    /// The decision that was made with it.
    pub decision: Option<DecisionId>,
    /// Until when the same is not news.
    pub quiet_until: Timestamp,
}

/// Which suspects to list, the latest seen first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SuspectFilter {
    /// Of this status.
    pub status: Option<Status>,
    /// Whose target lies inside this network, or covers it.
    pub target: Option<IpNet>,
    /// With a number below this one (for paging).
    pub before: Option<i64>,
    /// At most this many.
    pub limit: usize,
}

impl Suspect {
    /// A new suspect of one flag. A store gives the number.
    #[must_use]
    pub fn new(sighting: &Sighting) -> Self {
        let at = timestamp_of_us(sighting.flag.time_us);
        let mut suspect = Self {
            id: 0,
            target: sighting.flag.target,
            form: sighting.flag.veil.form,
            key: sighting.flag.veil.key.map(|key| key.to_string()),
            status: Status::Open,
            severity: sighting.flag.severity,
            score: 0.0,
            first_seen: at,
            last_seen: at,
            country: None,
            city: None,
            asn: None,
            reasons: Vec::new(),
            decision: None,
            closed_at: None,
            closed_by: None,
            flags: 0,
        };
        suspect.absorb(sighting);
        suspect
    }

    /// What its target is.
    #[must_use]
    pub fn veil(&self) -> Veil {
        Veil { form: self.form, key: self.key.as_deref().and_then(KeyId::from_hex) }
    }

    /// Takes one more flag of the same target.
    pub fn absorb(&mut self, sighting: &Sighting) {
        let Sighting { flag, place } = sighting;
        match self.reasons.iter_mut().find(|reason| reason.rule == flag.rule) {
            Some(reason) => reason.absorb(flag),
            None => self.reasons.push(Reason::new(flag)),
        }
        let worth = |reason: &Reason| (reason.severity, reason.score);
        self.reasons.sort_by(|a, b| {
            let ((a_severity, a_score), (b_severity, b_score)) = (worth(a), worth(b));
            b_severity.cmp(&a_severity).then(b_score.total_cmp(&a_score))
        });
        self.reasons.truncate(MAX_REASONS);
        self.flags += 1;
        self.severity = self.severity.max(flag.severity);
        self.score = combined_score(self.reasons.iter().map(|reason| reason.score));
        let spans = self.reasons.iter().map(|reason| (reason.first_seen, reason.last_seen));
        for (first, last) in spans {
            self.first_seen = self.first_seen.min(first);
            self.last_seen = self.last_seen.max(last);
        }
        if *place != Spot::default() {
            self.country = place.country.map(|country| country.to_string());
            self.city = place.city.as_deref().map(str::to_owned);
            self.asn = place.asn;
        }
    }

    /// Its reasons as far as the policy looks at them.
    #[must_use]
    pub fn grounds(&self) -> Vec<Ground<'_>> {
        self.reasons.iter().map(Reason::ground).collect()
    }

    /// Whether a dismissal of this suspect means this flag, too: the same rule, no worse.
    #[must_use]
    pub fn silences(&self, flag: &Flag) -> bool {
        self.reasons
            .iter()
            .any(|reason| reason.rule == flag.rule && flag.severity <= reason.severity)
    }
}

impl Reason {
    fn new(flag: &Flag) -> Self {
        let at = timestamp_of_us(flag.time_us);
        let evidence: Vec<EvidenceView> =
            flag.evidence.iter().take(EVIDENCE_MAX).map(EvidenceView::from).collect();
        Self {
            rule: flag.rule.clone(),
            severity: flag.severity,
            source: flag.source,
            detail: flag.detail.clone(),
            first_seen: evidence.iter().map(|seen| seen.time).min().map_or(at, |t| t.min(at)),
            last_seen: at,
            count: flag.count,
            score: flag.score.clamp(0.0, 1.0),
            evidence,
            features: flag.features.iter().cloned().collect(),
        }
    }

    fn absorb(&mut self, flag: &Flag) {
        let next = Self::new(flag);
        // What is told is the worst that was seen, and of equals the latest.
        if next.severity >= self.severity {
            self.detail = next.detail;
            self.features = next.features;
        }
        self.severity = self.severity.max(next.severity);
        self.score = self.score.max(next.score);
        self.first_seen = self.first_seen.min(next.first_seen);
        let last_seen = self.last_seen;
        self.last_seen = self.last_seen.max(next.last_seen);
        // The pass may look at an hour again: what it counts then is the same once more.
        let hour = |time: Timestamp| time.as_second().div_euclid(3_600);
        self.count = match next.source {
            Source::Hourly if hour(last_seen) == hour(next.last_seen) => self.count.max(next.count),
            Source::Hourly | Source::Streaming => self.count.saturating_add(next.count),
        };
        self.evidence.extend(next.evidence);
        self.evidence.sort_by_key(|seen| seen.time);
        self.evidence.dedup();
        let excess = self.evidence.len().saturating_sub(EVIDENCE_MAX);
        if excess > 0 {
            self.evidence.drain(FIRST_EVIDENCE..FIRST_EVIDENCE + excess);
        }
    }

    /// As far as the policy looks at it.
    #[must_use]
    pub fn ground(&self) -> Ground<'_> {
        Ground { rule: &self.rule, severity: self.severity, source: self.source, score: self.score }
    }
}

impl From<&Evidence> for EvidenceView {
    fn from(evidence: &Evidence) -> Self {
        Self {
            time: timestamp_of_us(evidence.time_us),
            method: evidence.method.clone(),
            path: evidence.path.clone(),
            status: evidence.status,
            matched: evidence.matched.clone(),
        }
    }
}

/// Severities as words.
mod severity_word {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::detect::Severity;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(super) fn serialize<S: Serializer>(severity: &Severity, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(severity.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Severity, D::Error> {
        let word = std::borrow::Cow::<'de, str>::deserialize(from)?;
        Severity::from_word(&word)
            .ok_or_else(|| D::Error::custom("expected low, medium, high or critical"))
    }
}

/// Sources as words.
mod source_word {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::detect::Source;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(super) fn serialize<S: Serializer>(source: &Source, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(source.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Source, D::Error> {
        let word = std::borrow::Cow::<'de, str>::deserialize(from)?;
        [Source::Streaming, Source::Hourly]
            .into_iter()
            .find(|source| source.as_str() == word)
            .ok_or_else(|| D::Error::custom("expected streaming or hourly"))
    }
}

/// What tests of suspects are made of.
#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// A flag at a second of 22 November 2026, 16:00 UTC.
    pub(crate) fn flag(target: &str, rule: &str, severity: Severity, second: u64) -> Sighting {
        let start: Timestamp = "2026-11-22T16:00:00Z".parse().unwrap();
        let time_us = start.as_microsecond().cast_unsigned() + second * 1_000_000;
        let flag = Flag {
            time_us,
            target: ipwarden::address::parse_target(target).unwrap(),
            veil: Veil::NONE,
            rule: rule.to_owned(),
            severity,
            detail: format!("{rule} at {second}"),
            count: 3,
            evidence: vec![Evidence {
                time_us,
                method: "GET".to_owned(),
                path: format!("/{second}"),
                status: 404,
                matched: String::new(),
            }],
            source: Source::Streaming,
            score: severity.weight(),
            features: Vec::new(),
        };
        Sighting { flag, place: Spot::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::flag;
    use super::*;

    #[test]
    fn flags_of_a_rule_are_one_reason_with_bounded_evidence() {
        let mut suspect = Suspect::new(&flag("203.0.113.7", "probing", Severity::High, 0));
        for second in 1..40 {
            suspect.absorb(&flag("203.0.113.7", "probing", Severity::Medium, second));
        }
        let [reason] = suspect.reasons.as_slice() else { panic!("{suspect:?}") };
        assert_eq!((reason.count, suspect.flags), (120, 40));
        // The worst is what is told, not the latest.
        assert_eq!((reason.detail.as_str(), reason.severity), ("probing at 0", Severity::High));
        let paths: Vec<&str> = reason.evidence.iter().map(|seen| seen.path.as_str()).collect();
        assert_eq!(paths, ["/0", "/1", "/2", "/35", "/36", "/37", "/38", "/39"]);
        assert_eq!(suspect.last_seen.duration_since(suspect.first_seen).as_secs(), 39);
    }

    #[test]
    fn reasons_combine_and_the_worst_comes_first() {
        let mut suspect = Suspect::new(&flag("203.0.113.7", "odd", Severity::Low, 5));
        suspect.absorb(&flag("203.0.113.7", "exploit", Severity::Critical, 1));
        let rules: Vec<&str> = suspect.reasons.iter().map(|reason| reason.rule.as_str()).collect();
        assert_eq!(rules, ["exploit", "odd"]);
        assert_eq!(suspect.severity, Severity::Critical);
        assert!((suspect.score - 0.96).abs() < 1e-9, "{}", suspect.score);
    }

    #[test]
    fn a_dismissal_means_the_same_rule_as_long_as_it_gets_no_worse() {
        let suspect = Suspect::new(&flag("203.0.113.7", "probing", Severity::Medium, 0));
        let silences =
            |rule, severity| suspect.silences(&flag("203.0.113.7", rule, severity, 9).flag);
        assert!(silences("probing", Severity::Medium) && silences("probing", Severity::Low));
        assert!(!silences("probing", Severity::High));
        assert!(!silences("brute-force", Severity::Low));
    }

    #[test]
    fn json_round_trips() {
        let suspect = Suspect::new(&flag("2001:db8::/64", "probing", Severity::Medium, 0));
        let json = serde_json::to_value(&suspect).unwrap();
        assert_eq!(json["severity"], "medium");
        assert_eq!(json["reasons"][0]["source"], "streaming");
        assert_eq!(serde_json::from_value::<Suspect>(json).unwrap(), suspect);
    }
}
