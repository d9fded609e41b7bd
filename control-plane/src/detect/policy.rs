//! What follows from flags: nothing, a person's look, or a block for a time.
//!
//! Pure: the same reasons give the same action in the running system and in a replay of a log.
//! Looking up what is known of a target, and doing what is decided, is
//! [`crate::suspects::judge`]'s.
//!
//! What no setting changes: an isolation forest's score alone never blocks, nor does what
//! another system said (an import); nobody is blocked
//! for a neighbour (IPv4 addresses alone, IPv6 up to a /64); private networks, those named in
//! `detect.never_block` and whatever an allow covers are never blocked; and no more are blocked
//! in an hour than the brake permits.

use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Severity, Source};

/// Name of the rule of the isolation forest: its flags alone never block.
pub const FOREST_RULE: &str = "isolation-forest";
/// Name of the reason that an imported suspect has: what another system said alone never blocks.
pub const IMPORTED_RULE: &str = "imported";
/// The widest IPv6 network that is blocked automatically: what one customer has.
const WIDEST_V6: u8 = 64;

/// What a severity leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Response {
    /// Nothing: the flag is dropped.
    None,
    /// A suspect for people to look at.
    Review,
    /// A block for a time, with escalation; and a suspect.
    Block,
}

impl Response {
    /// The response of a word of the configuration.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "none" => Some(Self::None),
            "review" => Some(Self::Review),
            "block" => Some(Self::Block),
            _ => None,
        }
    }
}

/// The settings under `[detect]` that decide about actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// By severity, the mildest first.
    pub responses: [Response; 4],
    /// How long the first block of a target lasts; each further one twice as long as the one
    /// before.
    pub block_for: Duration,
    /// No block lasts longer.
    pub block_at_most: Duration,
    /// Most automatic blocks in an hour.
    pub blocks_an_hour: u32,
    /// Networks that are never blocked automatically, beside the private ones.
    pub never_block: Vec<IpNet>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            responses: [Response::Review, Response::Review, Response::Review, Response::Block],
            block_for: Duration::from_secs(4 * 3_600),
            block_at_most: Duration::from_secs(7 * 86_400),
            blocks_an_hour: 100,
            never_block: Vec::new(),
        }
    }
}

/// One reason as far as the policy looks at it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ground<'a> {
    /// Name of the rule.
    pub rule: &'a str,
    /// How bad.
    pub severity: Severity,
    /// Which kind of detector.
    pub source: Source,
    /// How sure, 0 to 1.
    pub score: f64,
}

/// What reasons lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// A person's look.
    Review,
    /// A block for so long.
    Block(Duration),
}

impl Action {
    /// The word of the API; `None` for no action.
    #[must_use]
    pub const fn as_str(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Review => Some("review"),
            Self::Block(_) => Some("block"),
        }
    }
}

impl Policy {
    /// What a severity leads to.
    #[must_use]
    pub const fn response(&self, severity: Severity) -> Response {
        let [low, medium, high, critical] = self.responses;
        match severity {
            Severity::Low => low,
            Severity::Medium => medium,
            Severity::High => high,
            Severity::Critical => critical,
        }
    }

    /// How long the next block of a target lasts after `earlier` automatic ones: 4 h, 8 h,
    /// 16 h … up to the longest.
    #[must_use]
    pub fn next_block(&self, earlier: u32) -> Duration {
        let doubled = 2u32.checked_pow(earlier).and_then(|by| self.block_for.checked_mul(by));
        doubled.unwrap_or(self.block_at_most).min(self.block_at_most)
    }

    /// Why a target is never blocked automatically, whatever it did; `None` for most.
    #[must_use]
    pub fn protection(&self, target: &IpNet) -> Option<Protection> {
        let narrow = match target {
            IpNet::V4(net) => net.prefix_len() == 32,
            IpNet::V6(net) => net.prefix_len() >= WIDEST_V6,
        };
        let touches = |net: &IpNet| net.contains(target) || target.contains(net);
        if !narrow {
            Some(Protection::Wide)
        } else if private_networks().iter().any(touches) {
            Some(Protection::Private)
        } else if self.never_block.iter().any(touches) {
            Some(Protection::Named)
        } else {
            None
        }
    }
}

/// Why a target is never blocked automatically.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Protection {
    /// It is more than one client.
    #[error(
        "it is a network of many: only single IPv4 addresses and IPv6 up to a /64 are blocked automatically"
    )]
    Wide,
    /// It is no address of the Internet.
    #[error("it is in a private network")]
    Private,
    /// The configuration says so.
    #[error("detect.never_block names it")]
    Named,
}

/// What reasons lead to: the strongest response to any of them, where a forest's score counts
/// for a look at most. `earlier` is how often the target was blocked automatically before.
#[must_use]
pub fn action(policy: &Policy, grounds: &[Ground<'_>], earlier: u32) -> Action {
    let response = |ground: &Ground<'_>| {
        let response = policy.response(ground.severity);
        if is_forest(ground) || ground.rule == IMPORTED_RULE {
            response.min(Response::Review)
        } else {
            response
        }
    };
    match grounds.iter().map(response).max() {
        None | Some(Response::None) => Action::None,
        Some(Response::Review) => Action::Review,
        Some(Response::Block) => Action::Block(policy.next_block(earlier)),
    }
}

/// The reason that a decision names as its origin: the worst one, then the surest, then the
/// first. A forest's only where there is no other.
#[must_use]
pub fn leading<'g, 'a>(grounds: &'g [Ground<'a>]) -> Option<&'g Ground<'a>> {
    let rank = |ground: &Ground<'_>| (!is_forest(ground), ground.severity);
    grounds.iter().reduce(|best, next| {
        let better = rank(next) > rank(best)
            || (rank(next) == rank(best) && next.score.total_cmp(&best.score).is_gt());
        if better { next } else { best }
    })
}

fn is_forest(ground: &Ground<'_>) -> bool {
    ground.source == Source::Hourly && ground.rule == FOREST_RULE
}

/// Whether an address means somebody inside, or nobody.
#[must_use]
pub fn is_private(ip: IpAddr) -> bool {
    private_networks().iter().any(|net| net.contains(&ip))
}

/// Networks whose addresses mean somebody inside, or nobody (RFC 1918, 6598, 3927, 4193, 4291).
fn private_networks() -> [IpNet; 11] {
    let v4 = |a, b, c, d, len| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), len));
    let v6 =
        |first, len| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), len));
    [
        v4(0, 0, 0, 0, 8),
        v4(10, 0, 0, 0, 8),
        v4(100, 64, 0, 0, 10),
        v4(127, 0, 0, 0, 8),
        v4(169, 254, 0, 0, 16),
        v4(172, 16, 0, 0, 12),
        v4(192, 168, 0, 0, 16),
        v4(224, 0, 0, 0, 3),
        // Loopback and the unspecified address.
        v6(0, 64),
        v6(0xfc00, 7),
        v6(0xfe80, 10),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ground(rule: &str, severity: Severity) -> Ground<'_> {
        let source = if rule == FOREST_RULE { Source::Hourly } else { Source::Streaming };
        Ground { rule, severity, source, score: severity.weight() }
    }

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3_600)
    }

    fn net(text: &str) -> IpNet {
        ipwarden::address::parse_target(text).unwrap()
    }

    #[test]
    fn by_default_only_clear_attacks_are_blocked() {
        let policy = Policy::default();
        assert_eq!(action(&policy, &[], 0), Action::None);
        for severity in [Severity::Low, Severity::Medium, Severity::High] {
            assert_eq!(action(&policy, &[ground("probing", severity)], 0), Action::Review);
        }
        let both = [ground("probing", Severity::High), ground("exploit", Severity::Critical)];
        assert_eq!(action(&policy, &both, 0), Action::Block(hours(4)));
    }

    #[test]
    fn each_further_block_lasts_twice_as_long_up_to_the_longest() {
        let policy = Policy::default();
        let lasts = |earlier| policy.next_block(earlier).as_secs() / 3_600;
        assert_eq!([0, 1, 2, 3, 4, 5, 6, 40].map(lasts), [4, 8, 16, 32, 64, 128, 168, 168]);
    }

    #[test]
    fn a_forest_alone_never_blocks_whatever_is_configured() {
        let policy = Policy { responses: [Response::Block; 4], ..Policy::default() };
        let forest = ground(FOREST_RULE, Severity::Critical);
        assert_eq!(action(&policy, &[forest, forest], 3), Action::Review);
        let with_another = [forest, ground("probing", Severity::Low)];
        assert_eq!(action(&policy, &with_another, 0), Action::Block(hours(4)));
        assert_eq!(leading(&with_another).unwrap().rule, "probing");
    }

    #[test]
    fn a_severity_can_be_ignored() {
        let responses = [Response::None, Response::None, Response::Review, Response::Block];
        let policy = Policy { responses, ..Policy::default() };
        assert_eq!(action(&policy, &[ground("odd", Severity::Medium)], 0), Action::None);
    }

    #[test]
    fn networks_of_many_private_and_named_ones_are_protected() {
        let policy = Policy { never_block: vec![net("198.51.100.0/24")], ..Policy::default() };
        let why = |target: &str| policy.protection(&net(target));
        for free in ["203.0.113.7", "2001:db8::/64", "2001:db8::1", "8.8.8.8"] {
            assert_eq!(why(free), None, "{free}");
        }
        for wide in ["203.0.113.0/31", "203.0.113.0/24", "2001:db8::/63", "0.0.0.0/0", "::/0"] {
            assert_eq!(why(wide), Some(Protection::Wide), "{wide}");
        }
        for private in ["10.1.2.3", "192.168.0.1", "127.0.0.1", "::1", "fd00::/64", "fe80::1"] {
            assert_eq!(why(private), Some(Protection::Private), "{private}");
        }
        assert_eq!(why("198.51.100.9"), Some(Protection::Named));
    }

    #[test]
    fn the_worst_and_surest_reason_leads() {
        let surer = Ground { score: 0.99, ..ground("b", Severity::High) };
        let grounds = [ground("a", Severity::High), surer, ground("c", Severity::Medium)];
        assert_eq!(leading(&grounds).unwrap().rule, "b");
        assert_eq!(leading(&[]), None);
    }

    fn any_ground() -> impl Strategy<Value = Ground<'static>> {
        let rule = prop_oneof![Just(FOREST_RULE), Just("probing"), Just("exploit")];
        (rule, 0usize..4).prop_map(|(rule, severity)| ground(rule, Severity::ALL[severity]))
    }

    fn strength(action: Action) -> u8 {
        match action {
            Action::None => 0,
            Action::Review => 1,
            Action::Block(_) => 2,
        }
    }

    proptest! {
        #[test]
        fn more_reasons_never_weaken_an_action(
            grounds in proptest::collection::vec(any_ground(), 0..6), more in any_ground(),
        ) {
            let policy = Policy::default();
            let before = strength(action(&policy, &grounds, 0));
            let mut grounds = grounds;
            grounds.push(more);
            prop_assert!(strength(action(&policy, &grounds, 0)) >= before);
        }
    }
}
