//! The walk of [`super::resolve`] as a person reads it.

use core::fmt;
use core::net::IpAddr;

use super::{Finding, Place, Source, walk};

/// How an address was found, step by step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Everything the walk looked at, in order.
    pub steps: Vec<Step>,
    /// The client's address, folded; `None` where the listener has no peer address.
    pub client: Option<IpAddr>,
}

/// One step of the walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What was looked at.
    pub place: Place,
    /// Its text as it came, control and non-UTF-8 bytes escaped; empty for the peer.
    pub text: String,
    /// The address in it, folded.
    pub address: Option<IpAddr>,
    /// What follows from it.
    pub finding: Finding,
}

/// Resolves as [`super::resolve`] does, by the same walk, and keeps every step.
#[must_use]
pub fn explain(source: &Source, peer: Option<IpAddr>, lines: &[&[u8]]) -> Explanation {
    let mut steps = Vec::new();
    let client = walk(source, peer, lines, &mut |event| {
        steps.push(Step {
            place: event.place,
            text: event.text.escape_ascii().to_string(),
            address: event.address,
            finding: event.finding,
        });
    });
    Explanation { steps, client }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer => f.write_str("peer"),
            Self::Entry { from_right } => write!(f, "entry {from_right} from the right"),
            Self::Header => f.write_str("header"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        match (self.place, self.address) {
            (Place::Peer, Some(ip)) => write!(f, " {ip}")?,
            _ if !self.text.is_empty() => write!(f, " '{}'", self.text)?,
            _ => {}
        }
        write!(f, ": {}", self.finding.words())
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        match self.client {
            Some(ip) => write!(f, "client {ip}"),
            None => f.write_str("client unknown"),
        }
    }
}
