//! Request records: one request's log entry, on its way to the control plane.
//!
//! | module | owns |
//! |---|---|
//! | [`wire`] | the batch format: encoding, bounded decoding |
//! | [`buffer`] | what is recorded at all, sampling, flood aggregation, the memory bound |
//! | [`delivery`] | at-least-once shipping with numbers that make it exactly-once in the store |
//! | [`handover`] | what a worker that ends leaves to the others of its Envoy |

pub mod buffer;
pub mod delivery;
pub mod handover;
pub mod wire;

use core::net::IpAddr;

use crate::privacy::{AddressForm, KeyId};

/// Where a control plane takes batches.
pub const SHIP_PATH: &str = "/v1/requests";

/// Bounds of a record's fields in bytes; longer values are cut.
pub mod bounds {
    /// Method.
    pub const METHOD_BYTES: usize = 32;
    /// Host (`:authority`).
    pub const HOST_BYTES: usize = 255;
    /// Path without the query.
    pub const PATH_BYTES: usize = 2_048;
    /// Query without the question mark.
    pub const QUERY_BYTES: usize = 2_048;
    /// User agent.
    pub const USER_AGENT_BYTES: usize = 512;
    /// Request id.
    pub const REQUEST_ID_BYTES: usize = 64;
    /// City.
    pub const CITY_BYTES: usize = 96;
    /// Verified identity.
    pub const IDENTITY_BYTES: usize = 256;
    /// Name of a limit.
    pub const RULE_BYTES: usize = 64;
    /// Name of a proxy.
    pub const PROXY_BYTES: usize = 128;
}

/// Bit of [`Record::flags`] that is ours, far above Envoy's: the place is missing because the
/// day's quota of look-ups was used up.
pub const GEO_QUOTA_FLAG: u64 = 1 << 62;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// Passed on.
    Admitted = 0,
    /// Refused by a decision.
    Blocked = 1,
    /// Refused by a limit.
    Limited = 2,
    /// Passed on; a limit in shadow mode would have refused it.
    Shadow = 3,
    /// Refused because no decision set had arrived yet (`on_start: closed`).
    Unready = 4,
    /// Redirected by a localisation rule.
    Redirected = 5,
    /// Ended before the filter saw its headers (malformed, too large, timed out).
    Unseen = 6,
}

impl Verdict {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 7] = [
        Self::Admitted,
        Self::Blocked,
        Self::Limited,
        Self::Shadow,
        Self::Unready,
        Self::Redirected,
        Self::Unseen,
    ];

    /// The verdict of a wire code.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }

    /// The word used in the API, the command line and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Blocked => "blocked",
            Self::Limited => "limited",
            Self::Shadow => "shadow",
            Self::Unready => "unready",
            Self::Redirected => "redirected",
            Self::Unseen => "unseen",
        }
    }

    /// The verdict of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.as_str() == word)
    }

    /// Whether the client was refused; floods of these are aggregated.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::Blocked | Self::Limited | Self::Unready)
    }
}

/// One request. Fields borrow from where they came: the host's header block when encoding,
/// the batch when decoding. Bytes are as the client sent them: any byte may occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Start of the request, Unix time in microseconds.
    pub time_us: u64,
    /// Client address, folded, in the form that left the proxy; `None` where the listener has
    /// none (a pipe).
    pub ip: Option<IpAddr>,
    /// What [`Self::ip`] is; [`AddressForm::Full`] where there is none.
    pub form: AddressForm,
    /// The client asked not to be followed (GPC, DNT or the opt-out cookie): for security only,
    /// no part of any statistics about people.
    pub opted_out: bool,
    /// What became of it.
    pub verdict: Verdict,
    /// How many requests this record stands for: 1, or more when a flood was aggregated or
    /// ordinary records were sampled. Every count is a sum of weights.
    pub weight: u32,
    /// The decision that refused it, 0 for none.
    pub decision: u32,
    /// The limit or rule that refused it, empty for none.
    pub rule: &'a [u8],
    /// Request method.
    pub method: &'a [u8],
    /// Host the client asked for.
    pub host: &'a [u8],
    /// Path without the query.
    pub path: &'a [u8],
    /// Query without the question mark.
    pub query: &'a [u8],
    /// Response status, 0 when none was sent.
    pub status: u16,
    /// Envoy's response flags (bit set, as in the access log).
    pub flags: u64,
    /// Duration in microseconds.
    pub duration_us: u64,
    /// Bytes received from the client, headers and body.
    pub bytes_in: u64,
    /// Bytes sent to the client, headers and body.
    pub bytes_out: u64,
    /// User agent.
    pub user_agent: &'a [u8],
    /// `x-request-id`.
    pub request_id: &'a [u8],
    /// Country of the client (ISO 3166-1, capitals), as far as the proxy knew when the request
    /// came; what it did not know the control plane completes.
    pub country: Option<[u8; 2]>,
    /// City of the client, empty where it is not known.
    pub city: &'a [u8],
    /// Autonomous system of the client.
    pub asn: Option<u32>,
    /// The client's verified identity, empty unless `records.identity` is set.
    pub identity: &'a [u8],
}

/// What a batch says about its sender. Totals count requests (weights) since `started_us`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader<'a> {
    /// Random number of one worker's life: batches of it are numbered from 1.
    pub stream: u64,
    /// Number of the batch; 0 for a report that carries no records.
    pub number: u64,
    /// When that worker started, Unix microseconds.
    pub started_us: u64,
    /// When this message was sent, Unix microseconds by the proxy's clock.
    pub sent_us: u64,
    /// Name of the proxy.
    pub proxy: &'a [u8],
    /// Version of the filter.
    pub version: &'a [u8],
    /// The key of its pseudonyms, where it makes any.
    pub key: Option<KeyId>,
    /// The decision set that the worker has applied.
    pub applied: crate::decisions::Revision,
    /// Requests seen.
    pub seen: u64,
    /// Requests whose record was dropped because the buffer was full or the batch refused.
    pub lost: u64,
    /// Requests left out on purpose (`skip_paths`).
    pub skipped: u64,
}

/// A decoded batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Who sent it.
    pub header: BatchHeader<'a>,
    /// Its records in order.
    pub records: Vec<Record<'a>>,
}
