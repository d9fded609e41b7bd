//! Answers for dashboards: segments of columns beside the records.
//!
//! | module | owns |
//! |---|---|
//! | [`segment`] | one segment and its bytes |
//! | [`build`] | which records have no segment yet, and making one |
//! | [`filter`] | conditions on dictionaries |
//! | [`pseudonym`] | pseudonyms as numbers that can be counted |
//! | [`tally`] | counting in bounded memory |
//! | [`answer`] | a question over all segments |
//!
//! Refuses to be the truth: records are. A segment that is missing is read from its records, so
//! that an answer never depends on when segments are made.

mod answer;
mod build;
mod filter;
mod pseudonym;
mod segment;
mod tally;

pub(super) use answer::answer;
pub(super) use build::{build_next, write};
pub(super) use segment::ROWS;
