//! Which decisions a set makes, keeps and takes away where it replaces what its origin had.
//! Pure: every store asks it, so that all of them answer alike.

use hashbrown::HashMap;
use ipnet::IpNet;
use ipwarden::decisions::Tier;

use super::{Listed, OriginSet};
use crate::model::DecisionId;

/// What an origin has.
#[derive(Debug, Default)]
pub(super) struct Present {
    /// Live ones of the set's tier: number and end.
    live: HashMap<IpNet, (DecisionId, Option<i64>)>,
    /// Live ones of another tier.
    gone: Vec<(IpNet, DecisionId)>,
    /// Those that have ended and would stand in the way of new ones.
    ended: Vec<DecisionId>,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Replacing<'a> {
    /// Decisions that have ended: they make room, which proxies need not be told.
    pub(super) ended: Vec<DecisionId>,
    /// Decisions to be removed.
    pub(super) gone: Vec<(IpNet, DecisionId)>,
    /// Decisions to be made.
    pub(super) wanted: Vec<&'a Listed>,
    /// How many stay.
    pub(super) kept: u64,
    /// How many of those that are made have another end than the one that is removed.
    pub(super) renewed: u64,
}

impl Present {
    /// Notes a decision of the origin that was not removed; `of_set` is the set's tier.
    pub(super) fn note(
        &mut self,
        (id, target, tier): (DecisionId, IpNet, Tier),
        end: Option<i64>,
        of_set: Tier,
        now_us: i64,
    ) {
        if end.is_some_and(|end| end <= now_us) {
            self.ended.push(id);
        } else if tier == of_set {
            self.live.insert(target, (id, end));
        } else {
            self.gone.push((target, id));
        }
    }

    /// What the set makes of it.
    pub(super) fn replaced_by(mut self, set: &OriginSet) -> Replacing<'_> {
        let slack_us = i64::try_from(set.slack.as_micros()).unwrap_or(i64::MAX);
        // Of equal targets the last counts.
        let last: HashMap<IpNet, usize> =
            set.listed.iter().enumerate().map(|(at, listed)| (listed.target, at)).collect();
        let (mut kept, mut renewed) = (0, 0);
        let mut wanted: Vec<&Listed> = Vec::new();
        for (at, listed) in set.listed.iter().enumerate() {
            if last.get(&listed.target) != Some(&at) {
                continue;
            }
            let end = listed.expires_at.map(|end| end.as_microsecond());
            match self.live.remove(&listed.target) {
                Some((_, there)) if is_near(there, end, slack_us) => kept += 1,
                Some((id, _)) => {
                    renewed += 1;
                    self.gone.push((listed.target, id));
                    wanted.push(listed);
                }
                None => wanted.push(listed),
            }
        }
        self.gone.extend(self.live.drain().map(|(target, (id, _))| (target, id)));
        Replacing { ended: self.ended, gone: self.gone, wanted, kept, renewed }
    }
}

impl Replacing<'_> {
    /// Whether nothing differs.
    pub(super) fn is_nothing(&self) -> bool {
        self.gone.is_empty() && self.wanted.is_empty()
    }

    /// Decisions of targets that had none.
    pub(super) fn added(&self) -> u64 {
        self.wanted.len() as u64 - self.renewed
    }

    /// Decisions that are gone.
    pub(super) fn removed(&self) -> u64 {
        self.gone.len() as u64 - self.renewed
    }
}

/// Whether two ends are near enough to be taken for one.
fn is_near(there: Option<i64>, wanted: Option<i64>, slack_us: i64) -> bool {
    match (there, wanted) {
        (Some(there), Some(wanted)) => there.abs_diff(wanted) <= slack_us.unsigned_abs(),
        (None, None) => true,
        _ => false,
    }
}
