//! The ipwarden filter: address security inside Envoy.
//!
//! Everything here but `host` is pure: time, randomness and shared storage come in as
//! arguments, verdicts and messages go out as values. That is why the control plane links
//! the same code natively, why `wasm-bindgen-test` runs it under Node, and why a second
//! host adapter (a native Envoy module, say) stays possible.
//!
//! | module | owns |
//! |---|---|
//! | [`address`] | parsing and folding of addresses and targets |
//! | [`backoff`] | pauses between attempts |
//! | [`client_ip`] | which address is the client, and why |
//! | [`config`] | the plugin's configuration: all errors at once, each with its place |
//! | [`decisions`] | the compiled table, its wire format, its replication through shared data |
//! | [`limits`] | token buckets: matching, keys, the bounded table in shared data |
//! | [`geo`] | where clients are: caches, look-ups, redirects to the site of a country |
//! | [`privacy`] | truncated addresses, pseudonyms |
//! | [`record`] | request records: wire format, bounded buffer, delivery |
//! | [`refusal`] | what a refused client is told |
//! | [`engine`] | one request through all of the above |
//! | `host` | the proxy-wasm adapter (wasi only); decides nothing |
//!
//! What this crate does not do: no I/O, no clock of its own, no threads, no global state,
//! no panics (see the lints in `Cargo.toml`).

pub mod address;
pub mod backoff;
pub mod bytes;
pub mod client_ip;
pub mod config;
pub mod decisions;
pub mod duration;
pub mod engine;
pub mod geo;
pub mod limits;
pub mod privacy;
pub mod record;
pub mod refusal;
pub mod shared;

#[cfg(target_os = "wasi")]
mod host;

/// The version of the filter and of the control plane: one number, from `Cargo.toml`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
