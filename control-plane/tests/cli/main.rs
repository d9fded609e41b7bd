//! The program itself against the real service (in this process, on a free port): exit
//! codes, JSON shapes, messages.

mod alone;
mod bench;
mod clickhouse;
mod decisions;
mod doctor;
mod geo;
mod import;
mod killed;
mod leader;
mod limits;
#[path = "../fixtures/mmdb.rs"]
mod mmdb;
mod notify;
#[expect(dead_code, reason = "other tests kill the server, too")]
#[path = "../fixtures/postgres.rs"]
mod postgres;
mod regions;
mod replay;
mod requests;
mod retention;
mod suspects;
mod tokens;
