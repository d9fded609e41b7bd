//! `GET /v1/decisions/stream`: the long poll of the proxies.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ipwarden::decisions::wire;
use ipwarden::limits::policy;
use ipwarden::record::bounds::{PROXY_BYTES, RULE_BYTES};

use super::{AppState, Params, Problem, ProblemBody, dialect};
use crate::fleet::Follower;
use crate::hub::Polled;
use crate::metrics::Kind;
use crate::model::Revision;

/// Longest wait: below the usual idle timeout of a minute on the way.
pub const MAX_WAIT: Duration = Duration::from_secs(55);
/// When the request doesn't say.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

/// Answers the moment decisions or limits are newer than what the caller has.
///
/// The body is a snapshot, a snapshot and a delta, or a delta of the decision set, followed by
/// the limits' policy where the caller has another one; or that policy alone.
#[utoipa::path(
    get, path = "/v1/decisions/stream", tag = "proxies",
    params(
        ("epoch" = Option<u64>, Query, description = "epoch of the set that the caller has"),
        ("after" = Option<u64>, Query, description = "its number"),
        ("limits" = Option<u64>, Query, description = "number of the limits' policy that the caller has; 0 or absent: none"),
        ("wait" = Option<String>, Query, description = "how long to wait, at most 55s; 30s if absent"),
        ("accept" = Option<String>, Header, description = "versions that the caller reads, as `application/vnd.ipwarden.decisions;version=1`; version 1 if absent. `application/vnd.ipwarden.limits;version=2` beside it: limits with their scope"),
        ("x-ipwarden-proxy" = Option<String>, Header, description = "name of the proxy"),
        ("x-ipwarden-version" = Option<String>, Header, description = "version of its filter"),
        ("x-ipwarden-instance" = Option<String>, Header, description = "hexadecimal number of the worker that leads"),
    ),
    responses(
        (status = 200, content_type = "application/vnd.ipwarden.decisions", description = "decisions, limits, or both"),
        (status = 204, description = "nothing newer until the end of the wait"),
        (status = 400, body = ProblemBody),
        (status = 406, body = ProblemBody, description = "`accept` names only versions that are not spoken here"),
        (status = 503, body = ProblemBody, description = "too many polls wait"),
    )
)]
pub(crate) async fn poll(
    State(app): AppState,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let number = "a number from 0 to 18446744073709551615";
    let epoch = params.parsed("epoch", number, |text| text.parse().ok());
    let after = params.parsed("after", number, |text| text.parse().ok());
    let limits = params.parsed("limits", number, |text| text.parse().ok()).unwrap_or(0);
    let wait = params.parsed("wait", "a duration up to 55s such as 30s", |text| {
        ipwarden::duration::parse(text).ok().filter(|wait| *wait <= MAX_WAIT)
    });
    params.finish()?;
    // There is one version so far: who reads it is answered in it.
    if let Err(refusal) = dialect::answer_in(&headers, wire::CONTENT_TYPE, wire::VERSION) {
        app.metrics.answers.get_or_create(&Kind("unknown_version")).inc();
        return Err(refusal);
    }
    let after = match (epoch, after) {
        (Some(epoch), Some(number)) => Some(Revision { epoch, number }),
        // A number without its epoch can't be compared.
        _ => None,
    };
    let name = named(&headers, "x-ipwarden-proxy", PROXY_BYTES);
    if let Some(name) = name {
        let text = |name, most| named(&headers, name, most).unwrap_or_default().to_owned();
        let follower = Follower {
            instance: text("x-ipwarden-instance", 16),
            version: text("x-ipwarden-version", RULE_BYTES),
            after,
            last_seen: app.clock.now(),
        };
        app.fleet.note(name, follower);
    }
    // Who does not say reads the first.
    let version = dialect::answer_in(&headers, policy::CONTENT_TYPE, policy::VERSION).unwrap_or(1);
    let wait = wait.unwrap_or(DEFAULT_WAIT);
    let (kind, bytes) = match app.hub.poll_in(version, after, limits, wait).await {
        Polled::Snapshot(bytes) => ("snapshot", Some(bytes)),
        Polled::Delta(bytes) => ("delta", Some(bytes)),
        Polled::Limits(bytes) => ("limits", Some(bytes)),
        Polled::Unchanged => ("unchanged", None),
        Polled::Busy => ("busy", None),
    };
    app.metrics.answers.get_or_create(&Kind(kind)).inc();
    match bytes {
        Some(bytes) => {
            app.metrics.answer_bytes.inc_by(bytes.len() as u64);
            let content_type = HeaderValue::from_static(wire::CONTENT_TYPE);
            Ok(([(header::CONTENT_TYPE, content_type)], Body::from(bytes)).into_response())
        }
        None if kind == "busy" => {
            Err(Problem::busy("too many proxies wait for decisions: raise limits.polls", 5))
        }
        None => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

/// A header's value if it can be a name: printable and not too long.
pub(crate) fn named<'a>(headers: &'a HeaderMap, name: &str, most: usize) -> Option<&'a str> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty() && value.len() <= most).then_some(value)
}
