//! `/v1/proxies`: the fleet.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use ipwarden::limits::MAX_LIMITS;
use ipwarden::limits::fleet::wire::{self, Report};
use ipwarden::record::bounds::PROXY_BYTES;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::stream::named;
use super::{AppState, Params, Problem, ProblemBody, dialect, fault, parse, read_body};
use crate::limits::reports::MAX_REPORT_BYTES;
use crate::limits::{NAME_EXPECTED, view};
use crate::model::Proxy;

/// Every proxy.
#[derive(Debug, Serialize, ToSchema)]
pub struct Proxies {
    /// Number of the present decision set.
    pub revision: u64,
    /// By name.
    pub proxies: Vec<Proxy>,
}

/// Lists the proxies: what they have applied, what they lost, when they were last heard of.
#[utoipa::path(
    get, path = "/v1/proxies", tag = "proxies",
    responses((status = 200, body = Proxies))
)]
pub(crate) async fn list(State(app): AppState, params: Params) -> Result<Json<Proxies>, Problem> {
    params.finish()?;
    let streams = app.log.streams().await?;
    let present = app.hub.revision();
    let proxies = app.fleet.view(streams, present, app.clock.now());
    Ok(Json(Proxies { revision: present.number, proxies }))
}

/// What a proxy configures.
#[derive(Debug, Deserialize, ToSchema)]
pub struct LimitsReport {
    /// The plugin's own limits, as in its configuration; at most 64.
    #[schema(value_type = Vec<Object>)]
    limits: Vec<Value>,
    /// What it keeps to itself and whose choice it respects, as the page for visitors tells it;
    /// absent from filters of before this was reported.
    #[schema(value_type = Option<Object>)]
    privacy: Option<Value>,
}

/// Notes the limits that a proxy configures and what it keeps to itself, so that people see what
/// is in force. Sent by the
/// leading worker when it begins to follow the stream, and after a poll that failed.
#[utoipa::path(
    put, path = "/v1/proxies/limits", tag = "proxies", request_body = LimitsReport,
    params(
        ("x-ipwarden-proxy" = String, Header, description = "name of the proxy"),
        ("x-ipwarden-version" = Option<String>, Header, description = "version of its filter"),
        ("x-ipwarden-instance" = Option<String>, Header, description = "hexadecimal number of the worker that leads"),
    ),
    responses(
        (status = 204, description = "noted"),
        (status = 400, body = ProblemBody),
        (status = 413, body = ProblemBody),
        (status = 422, body = ProblemBody),
        (status = 503, body = ProblemBody, description = "too many different reports"),
    )
)]
pub(crate) async fn report_limits(
    State(app): AppState,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    params.finish()?;
    let Some(name) = named(&headers, "x-ipwarden-proxy", PROXY_BYTES) else {
        let message = format!("expected the proxy's name in 1 to {PROXY_BYTES} visible characters");
        return Err(Problem::parameters(vec![fault("x-ipwarden-proxy", message)]));
    };
    let body = read_body(&headers, body, MAX_REPORT_BYTES).await?;
    // What this version does not know of a limit is shown all the same: the proxy's filter
    // may be a later one.
    let report: LimitsReport = parse(&body)?;
    let mut faults = Vec::new();
    if report.limits.len() > MAX_LIMITS {
        let found = report.limits.len();
        faults.push(fault("limits", format!("found {found}: expected at most {MAX_LIMITS}")));
    }
    for (at, limit) in report.limits.iter().enumerate() {
        if view::name_of(limit).is_none() {
            faults.push(fault(format!("limits[{at}].name"), format!("expected {NAME_EXPECTED}")));
        }
    }
    if !faults.is_empty() {
        return Err(Problem::unacceptable(faults));
    }
    app.fleet
        .report(name, &report.limits, report.privacy, app.clock.now())
        .map_err(|full| Problem::busy(full.to_string(), 60))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Counts what a proxy took from limits with the scope `fleet`, and answers what is owed when
/// all proxies are counted.
///
/// The bodies are binary, see `src/limits/fleet/wire.rs`. Buckets are named by a keyed hash, whose
/// key is part of the answer. A report that comes twice is counted once.
#[utoipa::path(
    post, path = "/v1/proxies/consumption", tag = "proxies",
    request_body(content = Vec<u8>, content_type = "application/vnd.ipwarden.consumption"),
    params(
        ("x-ipwarden-proxy" = Option<String>, Header, description = "name of the proxy"),
    ),
    responses(
        (status = 200, content_type = "application/vnd.ipwarden.consumption", description = "what each bucket of the report owes"),
        (status = 400, body = ProblemBody),
        (status = 413, body = ProblemBody),
        (status = 415, body = ProblemBody, description = "of a version that is not known here"),
        (status = 503, body = ProblemBody, description = "limits over the fleet are not counted at the moment: each proxy counts for itself"),
    )
)]
pub(crate) async fn consumption(
    State(app): AppState,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<impl IntoResponse + use<>, Problem> {
    params.finish()?;
    dialect::check_content(&headers, wire::CONTENT_TYPE, wire::VERSION)?;
    let body = read_body(&headers, body, wire::MAX_REPORT_BYTES).await?;
    let report = Report::decode(&body).map_err(|error| match error {
        wire::DecodeError::Version { .. } => {
            Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error.to_string())
        }
        _ => Problem::bad_request(error.to_string()),
    })?;
    let counted = app.fleet_limits.count(&report, app.clock.now()).await;
    // Why, was logged when it began.
    let answer = counted
        .map_err(|_| Problem::busy("limits over the fleet are not counted at the moment", 1))?;
    Ok(([(header::CONTENT_TYPE, wire::CONTENT_TYPE)], answer.encode()))
}
