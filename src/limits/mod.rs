//! Limits: how many requests a client may make, counted exactly across workers, in memory
//! that does not grow.
//!
//! | module | owns |
//! |---|---|
//! | [`gcra`] | the arithmetic of a token bucket, in integers |
//! | [`table`] | the bounded table of buckets in shared data |
//! | [`matching`] | which limits a request falls under |
//! | `path` | the path as a server will most likely understand it |
//! | [`identity`] | who the client is, from verified sources only |
//! | [`policy`] | changes that the control plane makes to the configured limits: their message |
//! | `json` | a limit as the configuration writes it |
//! | [`fleet`] | limits over all proxies: what is reported, what comes back, how far off it can be |
//! | [`limiter`] | one request through all of the above |
//!
//! # Which limits apply
//!
//! Of the limits with [`Apply::Specific`] that match, the most specific one applies (see
//! [`matching::Specificity`]); every limit with [`Apply::All`] that matches applies beside
//! it; a limit with [`Apply::Route`] applies where the route's metadata names it, and then
//! takes the place of the most specific one, as does one with [`Apply::Specific`] that is
//! named; a route that names `none` goes without. All that apply must admit; a request that
//! one of them refuses is charged to none.

pub mod fleet;
pub mod gcra;
pub mod identity;
mod json;
pub mod limiter;
pub mod matching;
mod path;
pub mod policy;
pub mod table;

use core::time::Duration;

use ipnet::IpNet;

pub use self::matching::Match;

/// Where a control plane takes the limits that a plugin has of its own.
pub const REPORT_PATH: &str = "/v1/proxies/limits";

/// Longest name of a limit. A name holds lower-case letters, digits, `-` and `_`: it becomes
/// a metric's tag and stands in response headers.
pub const MAX_NAME_BYTES: usize = 64;
/// Most limits in force at one time: every request is compared with each.
pub const MAX_LIMITS: usize = 64;
/// Most limits that one request is charged to; further ones are not looked at (the
/// configuration is refused where more than this many have `apply: all`).
pub const MAX_APPLIED: usize = 4;

/// One limit, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Its name.
    pub name: String,
    /// Whether it refuses.
    pub mode: Mode,
    /// When it applies.
    pub apply: Apply,
    /// Which requests it is for.
    pub matches: Match,
    /// What it counts by.
    pub key: Key,
    /// For clients whose identity is not known. `None`: unlimited.
    pub anonymous: Option<Rate>,
    /// For clients whose identity is verified. `None`: unlimited.
    pub authenticated: Option<Rate>,
    /// Rates of authenticated clients by a claim of their token.
    pub tiers: Option<Tiers>,
    /// What all requests of one address together may do where they are not counted by
    /// address (keys `identity` and `header`). `None`: unlimited.
    pub ceiling: Option<Rate>,
    /// What a request costs.
    pub cost: Cost,
    /// Who is not limited.
    pub exempt: Exempt,
    /// Addresses of one IPv4 network of this prefix length share a bucket; 32: none do.
    pub ipv4_prefix: u8,
    /// Addresses of one IPv6 network of this prefix length share a bucket.
    pub ipv6_prefix: u8,
    /// Whether admitted responses carry `RateLimit` headers too.
    pub headers: bool,
    /// What a refused gRPC client gets.
    pub grpc_status: GrpcStatus,
    /// Over how many proxies it counts.
    pub scope: Scope,
}

/// Over how many proxies a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Each proxy on its own.
    Proxy,
    /// All proxies of the control plane together, see [`fleet`].
    Fleet,
}

impl Scope {
    /// The word of the configuration and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Fleet => "fleet",
        }
    }
}

/// Whether a limit refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It refuses.
    Enforce,
    /// It counts, and records what it would refuse.
    Shadow,
}

impl Mode {
    /// The word of the configuration and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
}

/// When a limit applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Apply {
    /// When it is the most specific of those that match (and say so).
    Specific,
    /// Whenever it matches.
    All,
    /// Where the route's metadata names it (and it matches).
    Route,
}

/// What a limit counts by. A client's own header or an identity can be made up or bought in
/// numbers; that is what [`Limit::ceiling`] is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// The client's address.
    Ip,
    /// The verified identity; the address of anonymous clients.
    Identity,
    /// The client's address, on each route of Envoy's on its own.
    IpAndRoute,
    /// The value of this request header (lower case); the address where there is none.
    Header(String),
}

/// A token bucket: it holds `burst` tokens and gets `requests` new ones in each `per`, evenly.
///
/// In any time of length *t* at most `burst + t * requests / per` tokens are spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Tokens in each `per`: 1 to [`Rate::MAX_REQUESTS`].
    pub requests: u32,
    /// 1 s to 7 days.
    pub per: Duration,
    /// Tokens that can be saved up: 1 to [`Rate::MAX_REQUESTS`]; `requests` unless given.
    pub burst: u32,
}

impl Rate {
    /// Bound of `requests` and `burst`.
    pub const MAX_REQUESTS: u32 = 1_000_000;
    /// Bound of `per`.
    pub const MAX_PER: Duration = Duration::from_secs(7 * 86_400);

    /// A rate whose burst is its requests.
    #[must_use]
    pub const fn new(requests: u32, per: Duration) -> Self {
        Self { requests, per, burst: requests }
    }
}

/// Rates by a claim of the verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiers {
    /// The claim: a path through nested objects.
    pub claim: Vec<String>,
    /// Value of the claim and the rate (`None`: unlimited). Any other value counts as
    /// [`Limit::authenticated`].
    pub rates: Vec<(String, Option<Rate>)>,
}

/// What a request costs, in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// Taken before the request goes on: 0 to [`Cost::MAX`]. With 0 a request is refused
    /// while the bucket is empty and costs nothing unless its status says so.
    pub default: u32,
    /// Cost by status, the difference being charged or given back when it is known. Ranges
    /// are inclusive; the narrowest that holds the status counts.
    pub status: Vec<(u16, u16, u32)>,
}

impl Cost {
    /// Bound of a cost.
    pub const MAX: u32 = 10_000;

    /// Cost of a request that ended with this status.
    #[must_use]
    pub fn of(&self, status: u16) -> u32 {
        self.status
            .iter()
            .filter(|(first, last, _)| (*first..=*last).contains(&status))
            .min_by_key(|(first, last, _)| last - first)
            .map_or(self.default, |(_, _, cost)| *cost)
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self { default: 1, status: Vec::new() }
    }
}

/// Who is not limited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exempt {
    /// Client addresses.
    pub addresses: Vec<IpNet>,
    /// Verified identities.
    pub identities: Vec<String>,
}

/// What a gRPC client is told when a limit refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrpcStatus {
    /// 8: its own quota is used up. The default, because clients retry `UNAVAILABLE` at once.
    ResourceExhausted,
    /// 14, as Envoy's own filters answer.
    Unavailable,
}

/// Where a client stands in a limit that applied to its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing<'a> {
    /// Name of the limit.
    pub name: &'a str,
    /// The rate that counted for this client.
    pub rate: Rate,
    /// Whole tokens left.
    pub remaining: u32,
    /// Whole seconds, rounded up, until there is one more; of a refused request until the
    /// same request would be admitted.
    pub reset_seconds: u32,
    /// Whether this limit refuses the request.
    pub violated: bool,
}
