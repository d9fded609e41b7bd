//! The handlers, by resource. Which URL has which handler, role and time limit is the
//! router's table ([`crate::router`]); a handler may rely on it.
//!
//! Handlers translate: text to checked values, results to JSON. What a change does is
//! decided in [`crate::hub`], [`crate::ingest`] and [`crate::auth`].

pub mod assets;
pub mod audit;
pub mod check;
pub mod decisions;
pub mod detect;
pub mod feeds;
pub mod geo;
pub mod history;
pub mod import;
pub mod limits;
pub mod meta;
pub mod notify;
pub mod people;
pub mod privacy;
pub mod proxies;
pub mod published;
pub mod regions;
pub mod requests;
pub mod session;
pub mod stats;
pub mod status;
pub mod stream;
pub mod suspects;
pub mod terms;
pub mod tokens;

mod dialect;
mod input;

use std::sync::Arc;

use axum::extract::State;

pub(crate) use self::input::{Params, json, json_or_default, parse, read_body};
pub(crate) use crate::problem::{Problem, ProblemBody, fault};

/// What handlers are given.
pub(crate) type AppState = State<Arc<crate::app::App>>;

/// Most items on a page where nothing else is said.
pub(crate) const PAGE: usize = 1_000;
/// Items on a page when the request doesn't say.
pub(crate) const DEFAULT_PAGE: usize = 100;
/// Largest JSON body in bytes: a thousand targets and a reason fit many times.
pub(crate) const MAX_JSON_BYTES: usize = 1024 * 1024;

/// A list in a few words for the audit log: the first five and how many more.
pub(crate) fn summary<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = items.iter().take(SHOWN).map(text).collect();
    let shown = shown.join(", ");
    match items.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
