//! What can go wrong on the command line, and the exit code of each.
//!
//! Exit codes: 0 done, 1 refused or not found, 2 usage, 3 the service can't be reached.
//! Messages are complete sentences for people: what was tried, what happened, how to mend
//! it. Text from elsewhere is cleaned when it is written, not here.

use std::io;

use serde::{Deserialize, Serialize};

/// Done.
pub const EXIT_DONE: u8 = 0;
/// The service said no, nothing was found, or what was looked at is not in order.
pub const EXIT_REFUSED: u8 = 1;
/// The command line, or a list given to it, is not right; nothing was sent.
pub const EXIT_USAGE: u8 = 2;
/// No service answered.
pub const EXIT_UNREACHABLE: u8 = 3;

/// Most places named one by one in a message; the rest is counted.
pub const MAX_PLACES: usize = 20;

/// Where in an input something is wrong, and what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// `line 17`, `limits[0].key`, or the text itself.
    pub place: String,
    /// What is wrong and what is expected.
    pub message: String,
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Something on the command line is not right.
    #[error("{0}")]
    Usage(String),
    /// Targets that are none, on the command line or in a list. Nothing was sent.
    #[error("{message}")]
    Input {
        /// How many, of what.
        message: String,
        /// The first of them.
        places: Vec<Place>,
        /// All of them.
        total: u64,
    },
    /// A file named on the command line can't be read.
    #[error("can't read {path}: {source}")]
    File {
        /// Its path as given.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// The service answered with a refusal.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said, and how to mend it.
        message: String,
        /// The places that it named.
        places: Vec<Place>,
        /// How many there are.
        total: u64,
    },
    /// A configuration that was read is not in order.
    #[error("{message}")]
    Invalid {
        /// Which, and how many errors it has.
        message: String,
        /// The first of them.
        places: Vec<Place>,
        /// All of them.
        total: u64,
    },
    /// What was asked for is not there.
    #[error("{message}")]
    NotFound {
        /// What is missing.
        message: String,
        /// Each thing that is missing, and what is nearby; empty when the message says it.
        places: Vec<Place>,
        /// How many are missing, where they are named one by one.
        total: u64,
    },
    /// Nobody answered, or somebody else did.
    #[error("can't reach the ipwarden service at {url}: {cause}")]
    Unreachable {
        /// What was tried.
        url: String,
        /// What happened.
        cause: String,
    },
    /// Geolocation data could not be brought or is none.
    #[error("{0}")]
    Update(String),
    /// The service could not be started.
    #[error("{0}")]
    Start(String),
    /// Standard output or error can't be written.
    #[error("can't write the output: {0}")]
    Output(#[from] io::Error),
    /// Everything is said already; only the exit code is left.
    #[error("exit code {0}")]
    Exit(u8),
}

/// Result of a command.
pub type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    /// The exit code that tells scripts.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Input { .. } | Self::File { .. } => EXIT_USAGE,
            Self::Refused { .. }
            | Self::Invalid { .. }
            | Self::NotFound { .. }
            | Self::Update(_)
            | Self::Start(_)
            | Self::Output(_) => EXIT_REFUSED,
            Self::Unreachable { .. } => EXIT_UNREACHABLE,
            Self::Exit(code) => *code,
        }
    }

    /// The word of `error.kind` in JSON.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Input { .. } => "input",
            Self::File { .. } => "file",
            Self::Refused { .. } => "refused",
            Self::Invalid { .. } => "invalid",
            Self::NotFound { .. } => "not_found",
            Self::Unreachable { .. } => "unreachable",
            Self::Update(_) => "update",
            Self::Start(_) => "start",
            Self::Output(_) => "output",
            Self::Exit(_) => "exit",
        }
    }

    /// How to mend it, where the message does not say so already.
    #[must_use]
    pub const fn mend(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => Some(
                "start it with `ipwarden serve`, or name another with --url or IPWARDEN_URL; `ipwarden doctor` says more",
            ),
            _ => None,
        }
    }

    /// The places named one by one, and how many there are in all.
    #[must_use]
    pub fn places(&self) -> (&[Place], u64) {
        match self {
            Self::Input { places, total, .. }
            | Self::Invalid { places, total, .. }
            | Self::NotFound { places, total, .. }
            | Self::Refused { places, total, .. } => (places, *total),
            _ => (&[], 0),
        }
    }

    /// Something that is not there and needs no list.
    #[must_use]
    pub const fn not_found(message: String) -> Self {
        Self::NotFound { message, places: Vec::new(), total: 0 }
    }

    /// Whether it only says that the reader went away (`| head`).
    #[must_use]
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
