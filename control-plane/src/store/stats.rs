//! What dashboards ask a log: how many requests, when, by whom, to what.
//!
//! A question is a [`RecordQuery`] with a span of time, a step and dimensions; the answer counts
//! weights, so that it agrees with [`super::LogStore::count`]. Times are cut to slots of ten
//! seconds, towards the outside.

use ipnet::IpNet;
use jiff::Timestamp;

use super::RecordQuery;

/// Width of a slot in seconds: the finest step of a series.
pub const SLOT_SECONDS: i64 = 10;
/// Most buckets of a series.
pub const MAX_BUCKETS: i64 = 2_000;
/// Most rows of one top list.
pub const MAX_TOP: usize = 1_000;
/// Kinds of verdicts.
pub const VERDICTS: usize = ipwarden::record::Verdict::ALL.len();

/// What requests can be counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dimension {
    /// Client address.
    Address,
    /// Its /24, or /48 for IPv6.
    Network,
    /// Pseudonym of a client address with the id of its key; of IPv6 the first 64 bits.
    Pseudonym,
    /// The /24 of a pseudonym, or /48 for IPv6, with the id of its key.
    PseudonymNetwork,
    /// Autonomous system.
    Asn,
    /// Country.
    Country,
    /// Path without the query.
    Path,
    /// Host.
    Host,
    /// Method.
    Method,
    /// Response status.
    Status,
    /// User agent.
    UserAgent,
    /// The limit or rule that spoke.
    Rule,
    /// What became of the request.
    Verdict,
    /// Proxy.
    Proxy,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Address,
        Self::Network,
        Self::Pseudonym,
        Self::PseudonymNetwork,
        Self::Asn,
        Self::Country,
        Self::Path,
        Self::Host,
        Self::Method,
        Self::Status,
        Self::UserAgent,
        Self::Rule,
        Self::Verdict,
        Self::Proxy,
    ];

    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Network => "network",
            Self::Pseudonym => "pseudonym",
            Self::PseudonymNetwork => "pseudonym_network",
            Self::Asn => "asn",
            Self::Country => "country",
            Self::Path => "path",
            Self::Host => "host",
            Self::Method => "method",
            Self::Status => "status",
            Self::UserAgent => "user_agent",
            Self::Rule => "rule",
            Self::Verdict => "verdict",
            Self::Proxy => "proxy",
        }
    }

    /// The dimension of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dimension| dimension.as_str() == word)
    }
}

/// A question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StatsQuery {
    /// Which records. `since` and `until` must be there; `before` and `limit` are ignored, and
    /// a network of pseudonyms is taken as [`countable`] says.
    pub filter: RecordQuery,
    /// Width of a bucket of the series in slots; 0 for no series.
    pub step_slots: i64,
    /// Top lists: what to count by, and how many rows at most.
    pub tops: Vec<(Dimension, usize)>,
    /// Whether the span of the same length before is counted, too.
    pub compare: bool,
}

/// Sums over some requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// By verdict, in the order of [`ipwarden::record::Verdict::ALL`].
    pub verdicts: [u64; VERDICTS],
}

impl Totals {
    /// All requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.verdicts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Adds others to these.
    pub fn add(&mut self, more: &Self) {
        for (sum, more) in self.verdicts.iter_mut().zip(more.verdicts) {
            *sum = sum.saturating_add(more);
        }
    }
}

/// One row of a top list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopRow {
    /// The value as shown; empty for none (no rule, no country).
    pub key: String,
    /// Requests.
    pub requests: u64,
    /// Those of them that were refused.
    pub refused: u64,
    /// Requests in the span before, where that was asked for.
    pub before: Option<u64>,
}

/// A top list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Top {
    /// The most requests first.
    pub rows: Vec<TopRow>,
    /// How many different values there are; a lower bound when `approximate`.
    pub distinct: u64,
    /// There were more values than are counted at once: the rare ones were dropped on the way,
    /// and counts can be too low.
    pub approximate: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// First slot that is counted.
    pub first_slot: i64,
    /// First slot that is not.
    pub end_slot: i64,
    /// Everything in the span.
    pub total: Totals,
    /// Everything in the span before, where that was asked for.
    pub before: Option<Totals>,
    /// Buckets of the series, the oldest first; none when no step was given.
    pub series: Vec<Totals>,
    /// The same for the span before, bucket by bucket.
    pub series_before: Vec<Totals>,
    /// Top lists in the order in which they were asked for.
    pub tops: Vec<Top>,
}

impl StatsQuery {
    /// The first slot of the span and the first behind it. `None` without both ends or for an
    /// empty span.
    #[must_use]
    pub fn slots(&self) -> Option<(i64, i64)> {
        let first = slot_of(self.filter.since?.as_microsecond());
        let until = self.filter.until?;
        // The last microsecond that still belongs to it.
        let end = slot_of(until.as_microsecond().saturating_sub(1)) + 1;
        (first < end).then_some((first, end))
    }
}

/// A network as pseudonyms are counted by: of IPv6 never narrower than a /64, which is what one
/// client usually has.
#[must_use]
pub fn countable(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(v6) if v6.prefix_len() > 64 => {
            IpNet::new(net.addr(), 64).map_or(net, |net| net.trunc())
        }
        net => net.trunc(),
    }
}

/// The slot of a time in microseconds.
#[must_use]
pub const fn slot_of(us: i64) -> i64 {
    us.div_euclid(SLOT_SECONDS * 1_000_000)
}

/// When a slot begins.
#[must_use]
pub fn slot_start(slot: i64) -> Timestamp {
    Timestamp::from_second(slot.saturating_mul(SLOT_SECONDS)).unwrap_or(Timestamp::MAX)
}
