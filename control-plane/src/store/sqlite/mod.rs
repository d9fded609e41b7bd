//! Both stores in SQLite files: what `ipwarden serve` uses unless told otherwise.
//!
//! | module | owns |
//! |---|---|
//! | `database` | opening a file: whose it is, its schema, its settings; what went wrong |
//! | `writer` | the one connection that writes, on its own thread |
//! | `readers` | a few connections that read, each a snapshot at a time |
//! | `state` | decisions, tokens, audit |
//! | `log` | records and what workers report |
//!
//! Invariants: one process has a file open (a lock file beside it says so); a change is on
//! the disk when the call that made it returns (WAL with `synchronous=FULL`); an error never
//! names a client's address; files can be read by their owner only.

mod conditions;
mod database;
mod log;
mod readers;
mod state;
mod writer;

use std::path::Path;

pub use log::SqliteLog;
pub use state::SqliteState;

/// Bytes that a database takes on the disk: the file and its write-ahead log. A missing
/// file counts nothing.
#[must_use]
pub fn size_bytes(path: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    size(path) + size(&database::beside(path, "-wal"))
}

#[cfg(test)]
mod tests;
