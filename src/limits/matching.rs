//! Which limits a request falls under.

use core::cmp::Ordering;

/// What is known of a request when it is judged.
pub struct Request<'a> {
    /// Method.
    pub method: &'a [u8],
    /// Host (`:authority`), as sent.
    pub host: &'a [u8],
    /// Path without the query, normalised (see [`normalise`]).
    pub path: &'a [u8],
    /// Other headers.
    pub headers: &'a dyn HeaderSource,
}

/// The headers of a request.
pub trait HeaderSource {
    /// Hands over each value of the header `name` (lower case), in order.
    fn each(&self, name: &[u8], visit: &mut dyn FnMut(&[u8]));
}

/// Which requests a limit is for. Every condition that is given must hold; of several values
/// of one condition one is enough.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {}

/// How closely a match names a request; the greatest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Specificity(u32);

impl Match {
    /// Whether the request falls under it, and how closely.
    #[must_use]
    pub fn matches(&self, _request: &Request<'_>) -> Option<Specificity> {
        let _ = Ordering::Equal;
        Some(Specificity(0))
    }
}
