//! Feeds: lists of addresses that others publish, imported again and again; and what we publish
//! for others.
//!
//! | module | owns |
//! |---|---|
//! | [`definition`] | pure: what an admin asks for, checked |
//! | [`parse`] | pure: bytes to targets, by format |
//! | [`guard`] | pure: what of a list is not taken, and when a whole list is not |
//! | [`crowdsec`] | pure: the JSON of CrowdSec's local API, both directions |
//! | [`publish`] | pure: our decisions as lists of other programs |
//! | [`effective`] | pure: what is refused, allows taken off |
//! | [`bouncers`] | what each CrowdSec bouncer was told |
//! | [`fetch`] | one document over HTTP or from a file, bounded |
//! | [`keeper`] | when, what follows, what is remembered |
//!
//! A feed's decisions have the origin `feed:<name>`; they are replaced as a set, in one revision,
//! and only what differs travels. They end by themselves where the feed is not heard of for
//! `stale_after`: a dead feed does not block for ever. Refuses: private and reserved networks
//! unless asked, the operator's own (`detect.never_block`), anything wider than /8; to reach
//! private addresses unless asked; to keep a secret in the state store.

pub mod bouncers;
pub mod crowdsec;
pub mod definition;
pub mod effective;
pub mod fetch;
pub mod guard;
pub mod keeper;
pub mod overlap;
pub mod parse;
pub mod publish;
pub mod status;

pub use self::keeper::Feeds;

/// Most feeds.
pub const MAX_FEEDS: usize = 100;
/// Largest document in bytes, unpacked.
pub const MAX_BYTES: usize = 64 * 1024 * 1024;
/// Name of the directory for files and keys in the data directory.
pub const DIRECTORY: &str = "feeds";
