//! What is refused, with the allows taken off: for programs that know no allow.
//!
//! An allow wins over every block here. A list of blocks alone would refuse what is allowed, so
//! a block inside an allow is left out, and one around an allow is cut into the networks that
//! remain.

use hashbrown::HashSet;
use ipnet::IpNet;
use ipwarden::decisions::{DecisionId, Entry, NEVER, Tier, UnixSeconds};

use super::overlap::{ancestors, lengths};

/// A network that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effective {
    /// The network.
    pub net: IpNet,
    /// Number of the decision, of several the one with precedence.
    pub id: DecisionId,
    /// Its tier.
    pub tier: Tier,
    /// When the last of them ends; [`NEVER`] for none.
    pub expires_at: UnixSeconds,
}

/// Everything that is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    /// Sorted, each network once; they may nest.
    pub nets: Vec<Effective>,
    /// Blocks that are not there as they were made: an allow covers them or lies in them.
    pub changed: Vec<IpNet>,
    /// Until when this holds if nobody decides anything.
    pub valid_until: UnixSeconds,
}

/// Takes the allows off the blocks; `with_feeds`: feeds' blocks, too.
#[must_use]
pub fn refused(entries: &[Entry], with_feeds: bool) -> Refused {
    let mut allows: Vec<IpNet> = entries
        .iter()
        .filter(|entry| entry.tier == Tier::Allow)
        .map(|entry| entry.target)
        .collect();
    allows.sort_unstable();
    allows.dedup();
    let all: HashSet<&IpNet> = allows.iter().collect();
    let lengths = lengths(allows.iter());
    let is_allowed = |net: &IpNet| ancestors(&lengths, net).any(|wider| all.contains(&wider));
    let mut refused = Refused {
        valid_until: entries.iter().map(|entry| entry.expires_at).min().unwrap_or(NEVER),
        ..Refused::default()
    };
    for entry in entries {
        if entry.tier == Tier::Allow || (entry.tier == Tier::Feed && !with_feeds) {
            continue;
        }
        let mut put = |net| {
            refused.nets.push(Effective {
                net,
                id: entry.id,
                tier: entry.tier,
                expires_at: entry.expires_at,
            });
        };
        let inside = inside(&allows, &entry.target);
        if is_allowed(&entry.target) {
            refused.changed.push(entry.target);
        } else if inside.is_empty() {
            put(entry.target);
        } else {
            cut(entry.target, inside, &mut put);
            refused.changed.push(entry.target);
        }
    }
    refused.nets.sort_unstable_by_key(|net| (net.net, net.tier as u8, net.id));
    refused.nets.dedup_by(|next, first| {
        let is_same = next.net == first.net;
        if is_same {
            first.expires_at = first.expires_at.max(next.expires_at);
        }
        is_same
    });
    refused
}

/// The allows in a network; they are sorted.
fn inside<'a>(allows: &'a [IpNet], net: &IpNet) -> &'a [IpNet] {
    let first = allows.partition_point(|allow| allow < net);
    let rest = allows.get(first..).unwrap_or_default();
    let count = rest.partition_point(|allow| net.contains(allow));
    rest.get(..count).unwrap_or_default()
}

/// Halves a network until no part holds an allow.
fn cut(net: IpNet, allows: &[IpNet], put: &mut impl FnMut(IpNet)) {
    if allows.is_empty() {
        put(net);
        return;
    }
    if allows.contains(&net) {
        return;
    }
    for half in net.subnets(net.prefix_len() + 1).into_iter().flatten() {
        cut(half, inside(allows, &half), put);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipwarden::address::{display_target, parse_target};

    fn entry(id: u32, target: &str, tier: Tier, expires_at: UnixSeconds) -> Entry {
        Entry { target: parse_target(target).unwrap(), tier, id, expires_at }
    }

    fn shown(refused: &Refused) -> Vec<String> {
        refused.nets.iter().map(|net| display_target(&net.net)).collect()
    }

    #[test]
    fn allows_are_cut_out_of_blocks() {
        let refused = refused(
            &[
                entry(1, "192.0.2.0/29", Tier::Manual, 500),
                entry(2, "192.0.2.3", Tier::Allow, 400),
                entry(3, "198.51.100.7", Tier::Detector, NEVER),
                entry(4, "198.51.0.0/16", Tier::Allow, NEVER),
                entry(5, "2001:db8::/32", Tier::Feed, 900),
                entry(6, "203.0.113.1", Tier::Manual, NEVER),
            ],
            true,
        );
        assert_eq!(
            shown(&refused),
            ["192.0.2.0/31", "192.0.2.2", "192.0.2.4/30", "203.0.113.1", "2001:db8::/32"]
        );
        let changed: Vec<String> = refused.changed.iter().map(display_target).collect();
        assert_eq!(changed, ["192.0.2.0/29", "198.51.100.7"]);
        assert_eq!(refused.valid_until, 400);
    }

    #[test]
    fn of_several_decisions_about_a_network_the_longest_counts() {
        let entries = [
            entry(1, "192.0.2.1", Tier::Feed, 500),
            entry(2, "192.0.2.1", Tier::Manual, 300),
            entry(3, "192.0.2.0/24", Tier::Feed, 400),
        ];
        let all = refused(&entries, true);
        let [wide, one] = all.nets[..] else { panic!("{all:?}") };
        assert_eq!((wide.net.prefix_len(), wide.expires_at), (24, 400));
        assert_eq!((one.id, one.tier, one.expires_at), (2, Tier::Manual, 500));
        assert_eq!(
            shown(&refused(&entries, false)),
            ["192.0.2.1"],
            "other people's lists are theirs"
        );
        assert_eq!(refused(&[], true), Refused { valid_until: NEVER, ..Refused::default() });
    }

    proptest::proptest! {
        #[test]
        fn an_address_is_refused_as_the_decisions_say(
            nets in proptest::collection::vec((0u32..64, 26u8..=32, 0u8..4), 0..12)
        ) {
            let entries: Vec<Entry> = nets
                .iter()
                .zip(1..)
                .map(|(&(low, length, tier), id)| {
                    let address = std::net::Ipv4Addr::from(0xC000_0200 | low);
                    Entry {
                        target: IpNet::new(address.into(), length).unwrap().trunc(),
                        tier: Tier::from_code(tier).unwrap(),
                        id,
                        expires_at: NEVER,
                    }
                })
                .collect();
            let refused = refused(&entries, true);
            for low in 0u32..64 {
                let address = std::net::IpAddr::from(std::net::Ipv4Addr::from(0xC000_0200 | low));
                let covers = |entry: &&Entry| entry.target.contains(&address);
                let wanted = entries.iter().filter(covers).map(|entry| entry.tier as u8).min();
                let found = refused.nets.iter().any(|net| net.net.contains(&address));
                proptest::prop_assert_eq!(found, wanted.is_some_and(|tier| tier > 0), "{}", address);
            }
        }
    }
}
