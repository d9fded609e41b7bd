//! What a client is told of its limits: the fields of draft-ietf-httpapi-ratelimit-headers
//! (structured fields, RFC 9651), and the time until it may try again.

use core::fmt::Write as _;

use crate::limits::Standing;

/// The fields `RateLimit-Policy` and `RateLimit`, one list member for each limit, in the order
/// given; for admitted responses and for refusals by a limit. Never for a redirect: whoever
/// follows it would take them for the target's.
///
/// ```text
/// ratelimit-policy: "login";q=5;w=60, "api";q=100;w=3600
/// ratelimit: "login";r=0;t=12, "api";r=57;t=36
/// ```
///
/// `q` tokens in `w` seconds is the rate that counted for this client, `r` the whole tokens
/// left, `t` the seconds until there is one more (of a violated limit: until the same request
/// is admitted). `standings` must hold at least one: an empty structured list is no field.
#[must_use]
pub fn ratelimit_headers(standings: &[Standing<'_>]) -> [(&'static str, String); 2] {
    let mut policy = String::with_capacity(32 * standings.len());
    let mut state = String::with_capacity(32 * standings.len());
    for (at, standing) in standings.iter().enumerate() {
        let separator = if at == 0 { "" } else { ", " };
        // A name holds nothing that a structured string would have to escape.
        let Standing { name, rate, remaining, .. } = standing;
        let (quota, window) = (rate.requests, rate.per.as_secs());
        let _ = write!(policy, "{separator}\"{name}\";q={quota};w={window}");
        let seconds = reset_seconds(standing);
        let _ = write!(state, "{separator}\"{name}\";r={remaining};t={seconds}");
    }
    [("ratelimit-policy", policy), ("ratelimit", state)]
}

/// Seconds until the same request is admitted by every limit that refuses it now: what
/// `Retry-After` says. It is never earlier than the `t` of a violated limit.
pub(super) fn retry_seconds(standings: &[Standing<'_>]) -> u32 {
    let violated = standings.iter().filter(|standing| standing.violated);
    violated.map(reset_seconds).max().unwrap_or(1)
}

/// At least a second for a refused request: with 0 a client would come back at once.
fn reset_seconds(standing: &Standing<'_>) -> u32 {
    standing.reset_seconds.max(u32::from(standing.violated))
}

/// A time for people, rounded up so that it is never too early: `12 seconds`, `2 minutes`.
pub(super) fn in_words(seconds: u32) -> String {
    // Up to twice the next unit, so that rounding adds at most half of what is said.
    const UNITS: [(u32, u32, &str); 3] =
        [(120, 1, "second"), (7_200, 60, "minute"), (172_800, 3_600, "hour")];
    let unit = UNITS.into_iter().find(|(below, _, _)| seconds < *below);
    let (_, length, name) = unit.unwrap_or((u32::MAX, 86_400, "day"));
    let number = seconds.div_ceil(length);
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {name}{plural}")
}
