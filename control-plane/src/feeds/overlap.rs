//! Blocks and the allows that take their effect, in whole or in part.

use hashbrown::{HashMap, HashSet};
use ipnet::IpNet;
use ipwarden::address::display_target;
use jiff::Timestamp;

use super::status::Overlap;
use crate::model::{Action, Decision};
use crate::store::{self, DecisionFilter, StateStore};

/// Allows are read from the store in pages of this size.
const ALLOW_PAGE: usize = 10_000;
/// Overlaps that are named.
const SAMPLES: usize = 20;

/// Every live allow, for looking up many targets.
#[derive(Debug, Default)]
pub struct Allows {
    by_target: HashMap<IpNet, Decision>,
    /// Prefix lengths that occur, shortest first.
    lengths: Vec<u8>,
}

impl Allows {
    /// Reads them.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn load(store: &dyn StateStore, now: Timestamp) -> store::Result<Self> {
        let mut by_target = HashMap::new();
        let mut before = None;
        loop {
            let filter = DecisionFilter {
                action: Some(Action::Allow),
                before,
                limit: ALLOW_PAGE,
                ..DecisionFilter::default()
            };
            let (page, _) = store.decisions(filter, now).await?;
            before = page.last().map(|last| last.id);
            let is_last = page.len() < ALLOW_PAGE;
            by_target.extend(page.into_iter().map(|allow| (allow.target, allow)));
            if is_last {
                break;
            }
        }
        Ok(Self { lengths: lengths(by_target.keys()), by_target })
    }

    /// The widest allow that covers all of `target`.
    #[must_use]
    pub fn covering(&self, target: &IpNet) -> Option<&Decision> {
        ancestors(&self.lengths, target).find_map(|wider| self.by_target.get(&wider))
    }

    /// Entries that an allow covers, and those that hold an allowed network: how many, and the
    /// first ones.
    #[must_use]
    pub fn overlaps(&self, targets: &[IpNet]) -> (u64, Vec<Overlap>) {
        if self.by_target.is_empty() {
            return (0, Vec::new());
        }
        let overlap = |entry: &IpNet, allow: &IpNet| Overlap {
            entry: display_target(entry),
            allow: display_target(allow),
        };
        let mut total = 0;
        let mut samples = Vec::new();
        for target in targets {
            if let Some(allow) = self.covering(target) {
                total += 1;
                if samples.len() < SAMPLES {
                    samples.push(overlap(target, &allow.target));
                }
            }
        }
        let all: HashSet<&IpNet> = targets.iter().collect();
        let lengths = lengths(targets.iter());
        let mut allows: Vec<&IpNet> = self.by_target.keys().collect();
        allows.sort_unstable();
        let mut told: HashSet<IpNet> = HashSet::new();
        for allow in allows {
            for wider in ancestors(&lengths, allow) {
                if wider != *allow && all.contains(&wider) && told.insert(wider) {
                    total += 1;
                    if samples.len() < SAMPLES {
                        samples.push(overlap(&wider, allow));
                    }
                }
            }
        }
        (total, samples)
    }
}

/// Prefix lengths that occur, shortest first.
pub(super) fn lengths<'a>(nets: impl Iterator<Item = &'a IpNet>) -> Vec<u8> {
    let mut lengths: Vec<u8> =
        nets.map(IpNet::prefix_len).collect::<HashSet<_>>().into_iter().collect();
    lengths.sort_unstable();
    lengths
}

/// The networks of some lengths around a target, itself included, the widest first.
pub(super) fn ancestors(lengths: &[u8], target: &IpNet) -> impl Iterator<Item = IpNet> {
    lengths
        .iter()
        .take_while(move |length| **length <= target.prefix_len())
        .filter_map(move |length| IpNet::new(target.addr(), *length).ok())
        .map(|wider| wider.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        ipwarden::address::parse_target(text).unwrap()
    }

    fn allows(texts: &[&str]) -> Allows {
        let by_target: HashMap<_, _> = texts
            .iter()
            .zip(1..)
            .map(|(text, id)| {
                let allow = Decision {
                    id,
                    target: net(text),
                    action: Action::Allow,
                    origin: crate::model::Origin::Manual,
                    reason: String::new(),
                    created_at: Timestamp::UNIX_EPOCH,
                    expires_at: None,
                };
                (allow.target, allow)
            })
            .collect();
        Allows { lengths: lengths(by_target.keys()), by_target }
    }

    #[test]
    fn entries_inside_allows_and_around_them_are_told() {
        let allows = allows(&["203.0.113.0/24", "198.51.100.7", "2001:db8::1"]);
        let entries =
            ["203.0.113.9", "198.51.100.0/24", "198.51.0.0/16", "8.8.8.8", "2001:db8::/32"];
        let entries: Vec<IpNet> = entries.map(net).to_vec();
        let (total, samples) = allows.overlaps(&entries);
        let shown: Vec<String> =
            samples.iter().map(|overlap| format!("{} {}", overlap.entry, overlap.allow)).collect();
        assert_eq!(total, 4);
        assert_eq!(
            shown,
            [
                "203.0.113.9 203.0.113.0/24",
                "198.51.0.0/16 198.51.100.7",
                "198.51.100.0/24 198.51.100.7",
                "2001:db8::/32 2001:db8::1",
            ]
        );
        assert_eq!(Allows::default().overlaps(&entries).0, 0);
    }
}
