//! Decisions by region as the control plane keeps them: a country's or a network operator's
//! clients refused at a path, or (slowly) on the whole site.
//!
//! Owns the words (rule, change) and what is asked of somebody who would refuse a whole
//! country. What a rule means is the filter's to say ([`ipwarden::geo::regions`]); how it gets
//! there is the policy's way ([`crate::limits::Policy`]).
//!
//! A rule is only ever a block. An allow by place would open the door to whoever rents an
//! address there.

pub mod countries;

use ipwarden::geo::regions::{Region, covers};
use ipwarden::limits::Mode;
use ipwarden::limits::matching::normalise;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::geo::Place;
use crate::model::{Actor, DecisionId};
use crate::store::view::wire_expiry;

/// Why a rule for a whole site is not just made, in words for whoever makes it.
pub const WHOLE_SITE: &str = "refusing a whole country or network operator refuses everybody \
    there, and everybody whom the data takes for being there (travellers, people behind VPNs and \
    mobile networks), for where they are and not for what they do: that can be unjust, in some \
    places it is unlawful, and attackers rent addresses elsewhere; a path, a limit for the \
    region or single networks hurt fewer";

/// A rule, as it is kept and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = RegionRule)]
pub struct Rule {
    /// Its number, from the same count as decisions.
    pub id: DecisionId,
    /// Who is refused: `country:<code>` or `asn:<number>`.
    #[serde(rename = "target", with = "region_text")]
    #[schema(value_type = String, example = "country:FR")]
    pub region: Region,
    /// Where: this path and everything below it; null for the whole site.
    #[schema(example = "/admin")]
    pub path: Option<String>,
    /// `enforce` refuses; `shadow` only records what would be refused.
    #[serde(with = "mode_text")]
    #[schema(value_type = String, example = "enforce")]
    pub mode: Mode,
    /// Why, for operators only.
    pub reason: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: Actor,
    /// Its end; null for none.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// A region as text.
mod region_text {
    use ipwarden::geo::regions::Region;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(region: &Region, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(region)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Region, D::Error> {
        Region::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// A mode as its word.
mod mode_text {
    use ipwarden::limits::Mode;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(mode: &Mode, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(mode.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Mode, D::Error> {
        crate::limits::parse_mode(&String::deserialize(from)?)
            .ok_or_else(|| D::Error::custom("expected enforce or shadow"))
    }
}

impl Rule {
    /// Whether it is about clients of this place, as far as that is known.
    #[must_use]
    pub fn is_about(&self, place: &Place) -> bool {
        match self.region {
            Region::Country(country) => place.country == Some(country),
            Region::Asn(asn) => place.asn == Some(asn),
        }
    }

    /// Whether it is for a path, as a request would have it.
    #[must_use]
    pub fn covers(&self, path: &str) -> bool {
        let Some(own) = &self.path else { return true };
        let path = path.split(['?', '#']).next().unwrap_or_default().as_bytes();
        covers(own, path) || covers(own, &normalise(path))
    }

    /// Where it applies, in words.
    #[must_use]
    pub fn place_in_words(&self) -> String {
        self.path
            .as_deref()
            .map_or_else(|| "the whole site".to_owned(), |path| format!("{path} and below"))
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }

    /// As the proxies read it.
    #[must_use]
    pub fn wire(&self) -> Value {
        let mut rule = json!({ "id": self.id, "region": self.region.to_string() });
        if let Some(path) = &self.path {
            rule["path"] = path.as_str().into();
        }
        if self.mode == Mode::Shadow {
            rule["mode"] = self.mode.as_str().into();
        }
        if let Some(end) = self.expires_at {
            rule["until"] = wire_expiry(Some(end)).into();
        }
        rule
    }
}

/// A rule to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRule {
    /// Who is refused.
    pub region: Region,
    /// Where; `None`: on the whole site.
    pub path: Option<String>,
    /// Whether it refuses.
    pub mode: Mode,
    /// Why.
    pub reason: String,
    /// Its end.
    pub expires_at: Option<Timestamp>,
}

/// One change to the rules. A rule is known by its region and path: each pair has one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// New rules, in the place of those of the same region and path.
    Add(Vec<NewRule>),
    /// Another mode for those that are there.
    Mode {
        /// Of these regions.
        regions: Vec<Region>,
        /// At this path.
        path: Option<String>,
        /// The new mode.
        mode: Mode,
    },
    /// Those that are there go.
    Remove {
        /// Of these regions.
        regions: Vec<Region>,
        /// At this path.
        path: Option<String>,
    },
}

/// What a change did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changed {
    /// The rules that were made or changed, as they are now, or that are gone, as they were.
    pub rules: Vec<Rule>,
    /// Numbers of the rules that new ones replace.
    pub replaced: Vec<DecisionId>,
}

/// Makes a change in memory: the one place that says what it means. New rules are numbered
/// from `next_id`.
pub fn apply(
    rules: &mut Vec<Rule>,
    change: &Change,
    actor: &str,
    now: Timestamp,
    next_id: DecisionId,
) -> Changed {
    let mut changed = Changed::default();
    match change {
        Change::Add(new) => {
            for (new, id) in new.iter().zip(next_id..) {
                let same = |rule: &mut Rule| rule.region == new.region && rule.path == new.path;
                let replaced = rules.extract_if(.., same).filter(|rule| rule.is_live(now));
                changed.replaced.extend(replaced.map(|rule| rule.id));
                let rule = Rule {
                    id,
                    region: new.region,
                    path: new.path.clone(),
                    mode: new.mode,
                    reason: new.reason.clone(),
                    created_at: now,
                    created_by: actor.to_owned(),
                    expires_at: new.expires_at,
                };
                rules.push(rule.clone());
                changed.rules.push(rule);
            }
        }
        Change::Mode { regions, path, mode } => {
            for rule in rules.iter_mut() {
                if rule.is_live(now) && rule.path == *path && regions.contains(&rule.region) {
                    rule.mode = *mode;
                    changed.rules.push(rule.clone());
                }
            }
        }
        Change::Remove { regions, path } => {
            let gone = rules.extract_if(.., |rule| {
                rule.is_live(now) && rule.path == *path && regions.contains(&rule.region)
            });
            changed.rules.extend(gone);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T16:00:00Z".parse().unwrap()
    }

    fn new(region: &str, path: Option<&str>, mode: Mode) -> NewRule {
        NewRule {
            region: Region::parse(region).unwrap(),
            path: path.map(str::to_owned),
            mode,
            reason: "scans".to_owned(),
            expires_at: Some("2026-11-22T17:00:00Z".parse().unwrap()),
        }
    }

    #[test]
    fn a_region_has_one_rule_at_each_path() {
        let mut rules = Vec::new();
        let mut make = |change: Change, id| apply(&mut rules, &change, "ops", now(), id);
        let admin = || new("country:FR", Some("/admin"), Mode::Enforce);
        let whole = new("country:FR", None, Mode::Shadow);
        assert!(make(Change::Add(vec![admin(), whole]), 5).replaced.is_empty());
        let again = make(Change::Add(vec![admin()]), 7);
        assert_eq!((again.rules[0].id, again.replaced), (7, vec![5]));
        let regions = vec![Region::parse("country:FR").unwrap()];
        let on = Change::Mode { regions: regions.clone(), path: None, mode: Mode::Enforce };
        let on = make(on, 8);
        assert_eq!((on.rules.len(), on.rules[0].id, on.rules[0].mode), (1, 6, Mode::Enforce));
        let gone = make(Change::Remove { regions, path: Some("/admin".to_owned()) }, 8);
        assert_eq!(gone.rules.iter().map(|rule| rule.id).collect::<Vec<_>>(), [7]);
        assert_eq!(rules.iter().map(|rule| rule.id).collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn what_has_ended_is_neither_replaced_nor_changed_nor_removed() {
        let mut rules = Vec::new();
        let add = Change::Add(vec![new("asn:64496", None, Mode::Shadow)]);
        apply(&mut rules, &add, "ops", now(), 1);
        let later = "2026-11-22T17:00:00Z".parse().unwrap();
        let regions = vec![Region::Asn(64_496)];
        let on = Change::Mode { regions: regions.clone(), path: None, mode: Mode::Enforce };
        for change in [on, Change::Remove { regions, path: None }] {
            assert_eq!(apply(&mut rules, &change, "ops", later, 2), Changed::default());
        }
        assert!(apply(&mut rules, &add, "ops", later, 2).replaced.is_empty());
        assert_eq!(rules.len(), 1);
    }

    #[test]
    fn the_proxies_are_told_what_they_need() {
        let mut rules = Vec::new();
        let endless = NewRule { expires_at: None, ..new("country:FR", None, Mode::Shadow) };
        let add = Change::Add(vec![new("asn:64496", Some("/admin"), Mode::Enforce), endless]);
        apply(&mut rules, &add, "ops", now(), 3);
        let wire: Vec<Value> = rules.iter().map(Rule::wire).collect();
        assert_eq!(
            Value::from(wire),
            json!([
                {"id": 3, "region": "asn:64496", "path": "/admin", "until": 1_795_366_800},
                {"id": 4, "region": "country:FR", "mode": "shadow"},
            ])
        );
    }
}
