//! What the service says about itself on standard error.
//!
//! No client address is ever logged here: the audit log and the records are the places for
//! those.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::LevelFilter;

use crate::config::{LogFormat, LogLevel};

/// Sends log lines to standard error. Does nothing when a subscriber is installed already
/// (a test's, or an embedding program's).
pub fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Only our own lines below warn: a library's debug output may hold header values.
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .parse_lossy(format!("ipwarden_control_plane={level},ipwarden={level}"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let is_terminal = std::io::stderr().is_terminal();
    // An error here means that somebody else is listening already, which is fine.
    let _ = match format {
        LogFormat::Human => lines.with_target(false).with_ansi(is_terminal).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}
