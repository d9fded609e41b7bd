//! Decisions as the filter knows them: what to do with which addresses, until when.
//!
//! | module | owns |
//! |---|---|
//! | [`table`] | the compiled look-up table of one worker |
//! | [`wire`] | snapshot and delta messages: encoding, bounded decoding |
//! | [`replica`] | the set in shared data: who fetches it, how every worker keeps up |
//!
//! A reason never travels to a proxy: the filter needs the identifier, the target, the
//! tier and the expiry, nothing else.

pub mod replica;
pub mod table;
pub mod wire;

use ipnet::IpNet;

/// Where a control plane answers polls.
pub const POLL_PATH: &str = "/v1/decisions/stream";

/// The versions that a filter reads, for `accept` of its polls: of decisions and of limits.
pub const ACCEPT: &str =
    "application/vnd.ipwarden.decisions;version=1, application/vnd.ipwarden.limits;version=2";

/// Number of a decision, unique in one control plane. Shown to refused clients.
pub type DecisionId = u32;

/// Unix time in whole seconds; [`NEVER`] for a decision without an end.
pub type UnixSeconds = u32;

/// The expiry of a decision that does not end.
pub const NEVER: UnixSeconds = UnixSeconds::MAX;

/// What a decision does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Refuse the request.
    Block,
    /// Let the request pass whatever any block says.
    Allow,
}

/// Precedence: a lower tier wins over every higher one; inside a tier the longest prefix.
///
/// Allow > manual block > detector block > feed block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tier {
    /// Any allow, whatever its origin.
    Allow = 0,
    /// A block made by a person.
    Manual = 1,
    /// A block made by a detector.
    Detector = 2,
    /// A block that came with a feed.
    Feed = 3,
}

impl Tier {
    /// The tier of a wire code.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Allow),
            1 => Some(Self::Manual),
            2 => Some(Self::Detector),
            3 => Some(Self::Feed),
            _ => None,
        }
    }

    /// What decisions of this tier do.
    #[must_use]
    pub const fn action(self) -> Action {
        match self {
            Self::Allow => Action::Allow,
            Self::Manual | Self::Detector | Self::Feed => Action::Block,
        }
    }
}

/// One decision as it travels to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Folded, truncated network (see [`crate::address`]).
    pub target: IpNet,
    /// Precedence and action.
    pub tier: Tier,
    /// Number of the decision.
    pub id: DecisionId,
    /// Absolute end; [`NEVER`] for none. The entry applies while `now < expires_at`.
    pub expires_at: UnixSeconds,
}

impl Entry {
    /// Whether the entry still applies.
    #[must_use]
    pub const fn is_live(&self, now: UnixSeconds) -> bool {
        self.expires_at == NEVER || now < self.expires_at
    }

    /// The order of the wire format and of the compiled table: family, first address,
    /// prefix length (so a network comes before what it contains), then tier and number.
    #[must_use]
    pub fn sort_key(&self) -> (bool, u128, u8, u8, DecisionId) {
        (
            matches!(self.target, IpNet::V6(_)),
            crate::address::first_bits(&self.target),
            self.target.prefix_len(),
            self.tier as u8,
            self.id,
        )
    }
}

/// Identifies one state of a decision set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Revision {
    /// Drawn at random when a control plane's state is created: numbers of different
    /// epochs can't be compared.
    pub epoch: u64,
    /// Grows by one with each change.
    pub number: u64,
}

/// One step from a revision to a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The entry is new. An entry of the same number is replaced.
    Add(Entry),
    /// The entry of this target and number is gone.
    Remove {
        /// Its target.
        target: IpNet,
        /// Its number.
        id: DecisionId,
    },
}
