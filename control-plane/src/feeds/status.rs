//! What became of a feed, as it is remembered and shown.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::guard::Size;

/// Kept as JSON beside the definition; whatever is not there is as at the beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// When it was tried last.
    pub checked_at: Option<Timestamp>,
    /// When its publisher last said what it holds, changed or not.
    pub succeeded_at: Option<Timestamp>,
    /// When its decisions changed last.
    pub changed_at: Option<Timestamp>,
    /// When it will be tried next.
    pub next_at: Option<Timestamp>,
    /// When the set was applied as a whole last.
    pub applied_at: Option<Timestamp>,
    /// Attempts that failed since the last success.
    pub failures: u32,
    /// Why the last one did.
    pub problem: Option<String>,
    /// Why the newest list was not taken; the last good one is in force.
    pub withheld: Option<String>,
    /// `etag` of the document.
    pub etag: Option<String>,
    /// `last-modified` of the document.
    pub last_modified: Option<String>,
    /// SHA-256 of the document that was applied.
    pub digest: Option<String>,
    /// Size of the set in force.
    pub size: Size,
    /// What was left out of it.
    pub left_out: LeftOut,
    /// The first items that name no target.
    pub samples: Vec<String>,
    /// Entries that allows take the effect from, in whole or in part.
    pub overlaps: u64,
    /// The first of them.
    pub overlap_samples: Vec<Overlap>,
    /// What the document says of whose work it is.
    pub attribution: Option<String>,
}

/// What of a list was not taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LeftOut {
    /// Items that name no target.
    pub rejected: u64,
    /// Targets named again.
    pub duplicates: u64,
    /// Private and reserved networks.
    pub reserved: u64,
    /// What touches `detect.never_block`.
    pub protected: u64,
    /// Of a CrowdSec: simulated ones, other scopes, other remedies than a ban.
    pub others: u64,
}

/// An entry and an allow that touch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Overlap {
    /// The entry.
    pub entry: String,
    /// The allow, which wins.
    pub allow: String,
}
