//! Answers for dashboards: segments of columns beside the records.
//!
//! | module | owns |
//! |---|---|
//! | [`segment`] | one segment and its bytes |
//! | [`build`] | which records have no segment yet, and making one |
//! | [`summary`] | what several segments say together |
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
mod summary;
mod tally;

use rusqlite::Transaction;

use super::super::database::Work;
pub(super) use answer::answer;
pub(super) use segment::ROWS;

/// What was made of records, and is not stored yet.
#[derive(Debug)]
pub(super) enum Built {
    Segment(build::Built),
    Summary(summary::Built),
}

/// Makes what is missing first; `None` when there is nothing to do.
pub(super) fn build_next(tx: &Transaction<'_>, most: usize) -> Work<Option<Built>> {
    if let Some(segment) = build::build_next(tx, most)? {
        return Ok(Some(Built::Segment(segment)));
    }
    Ok(summary::build_next(tx)?.map(Built::Summary))
}

/// Stores it, unless what it was made of changed meanwhile.
pub(super) fn write(tx: &Transaction<'_>, built: &Built) -> Work<()> {
    match built {
        Built::Segment(segment) => build::write(tx, segment),
        Built::Summary(summary) => summary::write(tx, summary),
    }
}
