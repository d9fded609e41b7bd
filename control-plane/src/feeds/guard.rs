//! What of a list is not taken, and when a whole list is not: the last good one stays then.

use ipnet::IpNet;
use ipwarden::address::{display_target, is_global, uniform_net};
use serde::{Deserialize, Serialize};

/// The widest networks that a list may hold.
const WIDEST_V4: u8 = 8;
const WIDEST_V6: u8 = 16;
/// A list that differs from the one before by fewer entries is never withheld.
const SMALL_CHANGE: u64 = 100;
/// How many times more IPv4 addresses a list may cover than the one before, and how many it
/// may cover anyway.
const COVERAGE_FACTOR: u64 = 4;
const SMALL_COVERAGE: u64 = 1 << 22;

/// What is left of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sifted {
    /// What is taken.
    pub targets: Vec<IpNet>,
    /// Left out: private, reserved, or holding such networks.
    pub reserved: u64,
    /// Left out: they touch what is never to be blocked.
    pub protected: u64,
}

/// Why a list is not taken as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Withheld {
    /// It holds a network that is too wide.
    #[error(
        "it holds {}: a network wider than /{WIDEST_V4} (IPv6: /{WIDEST_V6}) is taken from no list", display_target(.0)
    )]
    TooWide(IpNet),
    /// Nothing is left of it.
    #[error("nothing is left of it")]
    Empty,
    /// It is less than half of what it was.
    #[error("it has {now} entries, the last good one has {before}: less than half")]
    Shrunk {
        /// Entries of the last good one.
        before: u64,
        /// Its entries.
        now: u64,
    },
    /// It is more than twice of what it was.
    #[error("it has {now} entries, the last good one has {before}: more than twice as many")]
    Grown {
        /// Entries of the last good one.
        before: u64,
        /// Its entries.
        now: u64,
    },
    /// It covers far more than it did.
    #[error(
        "it covers {now} IPv4 addresses, the last good one {before}: more than {COVERAGE_FACTOR} times as many"
    )]
    Widened {
        /// Addresses that the last good one covers.
        before: u64,
        /// Addresses that it covers.
        now: u64,
    },
}

impl Withheld {
    /// Whether a person may take the list nevertheless.
    #[must_use]
    pub const fn can_be_accepted(&self) -> bool {
        !matches!(self, Self::TooWide(_))
    }
}

/// How large a list is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Entries.
    pub entries: u64,
    /// IPv4 addresses that they cover; those that nest count twice.
    pub addresses_v4: u64,
}

impl Size {
    /// The size of a list.
    #[must_use]
    pub fn of(targets: &[IpNet]) -> Self {
        let covered = targets.iter().map(|target| match target {
            IpNet::V4(net) => 1u64 << (32 - net.prefix_len()),
            IpNet::V6(_) => 0,
        });
        Self { entries: targets.len() as u64, addresses_v4: covered.sum() }
    }
}

/// What a network holds.
#[derive(PartialEq, Eq)]
enum Holds {
    /// Only addresses that can belong to somebody on the Internet.
    Public,
    /// Only others.
    Reserved,
    /// Both.
    Both,
}

fn holds(target: &IpNet) -> Holds {
    match (uniform_net(target.addr()).contains(target), is_global(target.addr())) {
        (true, true) => Holds::Public,
        (true, false) => Holds::Reserved,
        (false, _) => Holds::Both,
    }
}

/// Whether a network is wider than any list may hold. Lists of unroutable networks name
/// 224.0.0.0/3 and its like, which is nobody's.
fn is_too_wide(target: &IpNet, holds: &Holds) -> bool {
    let wide = match target {
        IpNet::V4(net) => net.prefix_len() < WIDEST_V4,
        IpNet::V6(net) => net.prefix_len() < WIDEST_V6,
    };
    wide && *holds != Holds::Reserved
}

/// Leaves out what is not taken. `protected` are networks that are never to be blocked; none
/// where the list allows.
///
/// # Errors
/// [`Withheld::TooWide`].
pub fn sift(
    targets: Vec<IpNet>,
    include_reserved: bool,
    protected: &[IpNet],
) -> Result<Sifted, Withheld> {
    let mut sifted = Sifted::default();
    sifted.targets.reserve_exact(targets.len());
    for target in targets {
        let touches = |own: &IpNet| own.contains(&target) || target.contains(own);
        let holds = holds(&target);
        if is_too_wide(&target, &holds) {
            return Err(Withheld::TooWide(target));
        }
        if !include_reserved && holds != Holds::Public {
            sifted.reserved += 1;
        } else if protected.iter().any(touches) {
            sifted.protected += 1;
        } else {
            sifted.targets.push(target);
        }
    }
    Ok(sifted)
}

/// Whether a list may take the place of the last good one.
///
/// # Errors
/// Why not.
pub fn compare(before: Option<Size>, now: Size) -> Result<(), Withheld> {
    if now.entries == 0 {
        return Err(Withheld::Empty);
    }
    let Some(before) = before.filter(|before| before.entries > 0) else { return Ok(()) };
    let (was, is) = (before.entries, now.entries);
    if was.abs_diff(is) >= SMALL_CHANGE {
        if is < was / 2 {
            return Err(Withheld::Shrunk { before: was, now: is });
        }
        if is > was * 2 {
            return Err(Withheld::Grown { before: was, now: is });
        }
    }
    let (was, is) = (before.addresses_v4, now.addresses_v4);
    if is > SMALL_COVERAGE && is > was.saturating_mul(COVERAGE_FACTOR) {
        return Err(Withheld::Widened { before: was, now: is });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| ipwarden::address::parse_target(text).unwrap()).collect()
    }

    #[test]
    fn private_reserved_and_own_networks_are_left_out_and_counted() {
        let list = nets(&[
            "0.0.0.0/8",
            "10.0.0.0/8",
            "127.0.0.1",
            "192.168.1.0/24",
            "224.0.0.0/3",
            "192.0.0.0/8",
            "8.8.8.0/24",
            "9.9.9.9",
            "fe80::/10",
            "fc00::/7",
            "2001:db8::/32",
            "2a00:1450::/32",
            "::ffff:10.1.2.3",
        ]);
        let own = nets(&["9.9.9.0/24"]);
        let sifted = sift(list.clone(), false, &own).unwrap();
        assert_eq!(sifted.targets, nets(&["8.8.8.0/24", "2a00:1450::/32"]));
        assert_eq!((sifted.reserved, sifted.protected), (10, 1));
        // A wider network that holds an own one is as bad.
        assert_eq!(sift(nets(&["9.0.0.0/8"]), false, &own).unwrap().protected, 1);
        let asked = sift(nets(&["10.0.0.0/8", "2001:db8::/32"]), true, &[]).unwrap();
        assert_eq!(asked.targets.len(), 2);
    }

    #[test]
    fn a_list_with_half_the_internet_is_not_taken() {
        let wide = sift(nets(&["8.8.8.8", "64.0.0.0/7"]), false, &[]).unwrap_err();
        assert_eq!(
            wide.to_string(),
            "it holds 64.0.0.0/7: a network wider than /8 (IPv6: /16) is taken from no list"
        );
        assert!(!wide.can_be_accepted());
        for wide in ["0.0.0.0/0", "::/0", "2400::/12"] {
            assert!(sift(nets(&[wide]), true, &[]).is_err(), "{wide}");
        }
        assert!(sift(nets(&["8.0.0.0/8", "2400:100::/24"]), false, &[]).is_ok());
    }

    #[test]
    fn sharp_changes_are_withheld_and_small_ones_are_not() {
        let size = |entries| Size { entries, addresses_v4: entries };
        let compared = |before, now| compare(Some(size(before)), size(now));
        assert_eq!(compare(None, size(5)), Ok(()));
        assert_eq!(compare(None, size(0)), Err(Withheld::Empty));
        assert_eq!(compared(1_000, 500), Ok(()));
        assert_eq!(compared(1_000, 499), Err(Withheld::Shrunk { before: 1_000, now: 499 }));
        assert_eq!(compared(1_000, 2_000), Ok(()));
        assert_eq!(compared(1_000, 2_001), Err(Withheld::Grown { before: 1_000, now: 2_001 }));
        assert_eq!(compared(90, 1), Ok(()), "a small list may change as a whole");
        assert_eq!(compared(90, 0), Err(Withheld::Empty));
        let before = Size { entries: 1_000, addresses_v4: 1 << 24 };
        let wider = Size { entries: 1_001, addresses_v4: (1 << 26) + 1 };
        assert_eq!(
            compare(Some(before), wider).unwrap_err().to_string(),
            "it covers 67108865 IPv4 addresses, the last good one 16777216: more than 4 times as many"
        );
    }

    #[test]
    fn what_a_list_covers_is_counted() {
        let size = Size::of(&nets(&["192.0.2.0/24", "192.0.2.1", "2001:db8::/32"]));
        assert_eq!(size, Size { entries: 3, addresses_v4: 257 });
    }
}
