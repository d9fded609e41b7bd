//! Finding the suspicious ones: what a detector sees, and what it says.
//!
//! | module | owns |
//! |---|---|
//! | [`examples`] | the lines that each rule carries, run through it alone |
//! | [`feed`] | batches on their way to the streaming detectors |
//! | [`forest`] | the isolation forest |
//! | [`names`] | verified names of crawlers, where a resolver is configured |
//! | [`pass`] | the hourly pass |
//! | [`policy`] | what follows from flags: nothing, a look, a block |
//! | [`rules`] | the rules as data: parsing with places, compiling, the defaults |
//! | [`shape`] | what a text looks like: random names, other protocols |
//! | [`streaming`] | what lasts seconds to a day: bounded state per address, fed by ingest and replay |
//! | [`table`] | what is remembered of addresses, in bounded memory |
//! | [`text`] | a target as a server would read it |
//!
//! A detector flags; it never blocks. What a flag leads to is decided by the policy, and by
//! people. Time comes from the observations: nothing here reads a clock, so that a log of last
//! year gives the same flags as the traffic did.

pub mod examples;
pub mod feed;
pub mod forest;
pub mod names;
pub mod pass;
pub mod policy;
pub mod rules;
pub mod shape;
pub mod streaming;
pub mod table;
pub mod text;

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ipwarden::record::{Record, Verdict};

use crate::privacy::Veil;

pub use self::rules::Rules;
pub use self::streaming::Detectors;

/// Longest [`Flag::detail`] in bytes.
pub const DETAIL_BYTES: usize = 512;
/// Most pieces of evidence that a flag carries.
pub const EVIDENCE_MAX: usize = 8;
/// Longest path and longest matched fragment in a piece of evidence, in bytes.
pub const EVIDENCE_TEXT_BYTES: usize = 256;

/// One request as detectors see it; borrowed from a decoded batch or from a log line. Bytes
/// are as the client sent them: any byte may occur.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation<'a> {
    /// Start of the request, Unix time in microseconds.
    pub time_us: u64,
    /// Client address, folded (never an IPv4-mapped IPv6 address).
    pub ip: IpAddr,
    /// Request method.
    pub method: &'a [u8],
    /// Host the client asked for, empty where the log does not say.
    pub host: &'a [u8],
    /// Path without the query, undecoded. A request target in absolute form is kept whole.
    pub path: &'a [u8],
    /// Query without the question mark, undecoded.
    pub query: &'a [u8],
    /// Response status, 0 when none was sent.
    pub status: u16,
    /// User agent, empty for none.
    pub user_agent: &'a [u8],
    /// Referer, empty for none. Records carry none: only logs of others do.
    pub referer: &'a [u8],
    /// Bytes sent to the client.
    pub bytes_out: u64,
    /// What became of it.
    pub verdict: Verdict,
    /// How many requests this stands for; 0 counts as 1.
    pub weight: u32,
    /// The verified identity behind it, empty for none or where it is not recorded.
    pub identity: &'a [u8],
    /// ISO 3166-1 alpha-2 code of the address's country.
    pub country: Option<[u8; 2]>,
    /// Number of the autonomous system of the address.
    pub asn: Option<u32>,
    /// A request line that could not be parsed; method, path and query are empty then.
    pub raw: Option<&'a [u8]>,
}

impl<'a> Observation<'a> {
    /// A record as an observation; `None` when it has no address. The place is what
    /// the proxy knew; the caller may know more.
    #[must_use]
    pub fn of_record(record: &Record<'a>) -> Option<Self> {
        Some(Self {
            time_us: record.time_us,
            ip: record.ip?,
            method: record.method,
            host: record.host,
            path: record.path,
            query: record.query,
            status: record.status,
            user_agent: record.user_agent,
            referer: &[],
            bytes_out: record.bytes_out,
            verdict: record.verdict,
            weight: record.weight,
            identity: record.identity,
            country: record.country,
            asn: record.asn,
            raw: None,
        })
    }
}

/// How bad it is; the policy says what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing beside something else.
    Low,
    /// Odd enough for a person's look.
    Medium,
    /// Probably an attack, with a rare innocent explanation.
    High,
    /// A clear attack: no innocent client sends this.
    Critical,
}

impl Severity {
    /// All of them, the mildest first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The word used in rules, the API and the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The severity of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.as_str() == word)
    }

    /// What one reason of this severity is worth, 0 to 1: the [`Flag::score`] of a streaming
    /// flag. Reasons combine as independent evidence, `1 - prod(1 - weight)`
    /// ([`combined_score`]).
    #[must_use]
    pub const fn weight(self) -> f64 {
        match self {
            Self::Low => 0.2,
            Self::Medium => 0.45,
            Self::High => 0.7,
            Self::Critical => 0.95,
        }
    }
}

/// The score of several reasons together, 0 to 1: the chance that at least one of them is
/// right, were each right with its own score, independently. More reasons never lower it.
#[must_use]
pub fn combined_score(scores: impl IntoIterator<Item = f64>) -> f64 {
    let innocent: f64 = scores.into_iter().map(|score| 1.0 - score.clamp(0.0, 1.0)).product();
    1.0 - innocent
}

/// Which kind of detector spoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// At ingest, within seconds.
    Streaming,
    /// The hourly pass.
    Hourly,
}

impl Source {
    /// The word used in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Streaming => "streaming",
            Self::Hourly => "hourly",
        }
    }
}

/// One request behind a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Start of the request, Unix time in microseconds.
    pub time_us: u64,
    /// Request method, escaped.
    pub method: String,
    /// Path as the client sent it, escaped, at most [`EVIDENCE_TEXT_BYTES`].
    pub path: String,
    /// Response status, 0 when none was sent.
    pub status: u16,
    /// The part that the rule matched, decoded, escaped, at most [`EVIDENCE_TEXT_BYTES`];
    /// empty when the rule looks at no text.
    pub matched: String,
}

/// A detector's word about an address.
#[derive(Debug, Clone, PartialEq)]
pub struct Flag {
    /// Time of the observation that filled the measure, Unix microseconds.
    pub time_us: u64,
    /// The address: IPv4 as /32, IPv6 as its /64. A rule that counts by network flags each
    /// address that took part, not the network: neighbours are not punished.
    pub target: IpNet,
    /// What the address is: as it came, cut, or a pseudonym.
    pub veil: Veil,
    /// Name of the rule, `[a-z0-9-]`.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// Words for a person, at most [`DETAIL_BYTES`]; nothing of a request unescaped.
    pub detail: String,
    /// Requests (weights) behind this flag that no earlier flag of the same rule and target
    /// counted: counts of flags add up.
    pub count: u64,
    /// A sample of them, at most [`EVIDENCE_MAX`].
    pub evidence: Vec<Evidence>,
    /// Which kind of detector spoke.
    pub source: Source,
    /// How sure it is, 0 to 1.
    pub score: f64,
    /// Features that made the score, the weightiest first; only of the isolation forest.
    pub features: Vec<(String, f64)>,
}

/// Where flags go: the suspects of the running system, a list in a replay.
pub trait FlagSink: Send + Sync {
    /// Takes flags in the order in which they were raised. Must not block for long: while it
    /// does, observations queue up and are dropped (counted) when the queue is full.
    fn flag(&self, flags: Vec<Flag>);
}

/// What detectors count by: an IPv4 address alone, an IPv6 address by its /64, because one
/// customer has a whole /64 (or more) to hop in.
#[must_use]
pub fn target_of(ip: IpAddr) -> IpNet {
    match ip {
        IpAddr::V4(ip) => IpNet::V4(Ipv4Net::from(ip)),
        IpAddr::V6(ip) => IpNet::V6(Ipv6Net::new_assert(ip, 64).trunc()),
    }
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;

    /// A request of a browser.
    pub(crate) fn seen<'a>(
        ip: &str,
        time_us: u64,
        method: &'a str,
        path: &'a str,
        status: u16,
    ) -> Observation<'a> {
        Observation {
            time_us,
            ip: ip.parse().unwrap(),
            method: method.as_bytes(),
            host: b"example.org",
            path: path.as_bytes(),
            query: b"",
            status,
            user_agent: b"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
            referer: b"",
            bytes_out: 1_000,
            verdict: Verdict::Admitted,
            weight: 1,
            identity: b"",
            country: None,
            asn: None,
            raw: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_counted_by_its_64_and_ipv4_alone() {
        let target = |ip: &str| target_of(ip.parse().unwrap()).to_string();
        assert_eq!(target("192.0.2.1"), "192.0.2.1/32");
        assert_eq!(target("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
    }

    #[test]
    fn more_reasons_never_lower_a_score() {
        assert!(combined_score([]).abs() < 1e-12);
        assert!((combined_score([0.5]) - 0.5).abs() < 1e-12);
        assert!((combined_score([0.5, 0.5]) - 0.75).abs() < 1e-12);
        assert!((combined_score([0.5, 7.0]) - 1.0).abs() < 1e-12);
    }
}
