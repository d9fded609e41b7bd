//! The API over a real socket, on real SQLite files, as clients see it.

mod access;
mod compatibility;
mod dashboard;
mod decisions;
mod detect;
mod feeds;
mod fleet;
mod geo;
mod history;
mod ingest;
mod limits;
#[path = "../fixtures/mmdb.rs"]
mod mmdb;
mod operation;
mod people;
mod privacy;
mod published;
mod regions;
mod scale;
mod stream;
mod support;
mod suspects;
