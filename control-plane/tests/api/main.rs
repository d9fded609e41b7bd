//! The API over a real socket, on real SQLite files, as clients see it.

mod access;
mod decisions;
mod ingest;
mod limits;
mod operation;
mod scale;
mod stream;
mod support;
