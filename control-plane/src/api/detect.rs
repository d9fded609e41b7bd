//! `POST /v1/detect`: the hourly pass, when somebody asks for it.

use axum::Extension;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use ipwarden::address::display_target;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppState, Params, Problem, ProblemBody, fault, json_or_default};
use crate::auth::Identity;
use crate::detect::Flag;
use crate::detect::pass::run::{hour_start, last_complete};
use crate::store::NewAudit;

/// Which hour.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DetectRequest {
    /// The hour in UTC; the last one that is over if absent.
    #[serde(default)]
    #[schema(example = "2026-11-22T16")]
    hour: Option<String>,
    /// Find the same, note nothing.
    #[serde(default)]
    dry_run: bool,
}

/// What a pass found.
#[derive(Debug, Serialize, ToSchema)]
pub struct DetectResponse {
    /// When the hour begins.
    #[schema(value_type = String, format = DateTime)]
    pub hour: Timestamp,
    /// Whether the hour was over; one that is not is passed over again when it is.
    pub complete: bool,
    /// Whether nothing was noted on request.
    pub dry_run: bool,
    /// Whether it had been done before; then nothing was done now, and `flags` is empty.
    pub already_done: bool,
    /// Addresses that made requests.
    pub addresses: u64,
    /// Their requests.
    pub requests: u64,
    /// What was found.
    pub flags: Vec<FoundFlag>,
}

/// A flag.
#[derive(Debug, Serialize, ToSchema)]
pub struct FoundFlag {
    /// The address; for IPv6 its /64.
    pub target: String,
    /// Name of the rule.
    pub rule: String,
    /// low, medium, high or critical.
    pub severity: &'static str,
    /// In words.
    pub detail: String,
    /// Requests behind it.
    pub count: u64,
    /// How sure, 0 to 1.
    pub score: f64,
}

/// Passes over an hour: once, however often it is asked for.
#[utoipa::path(
    post, path = "/v1/detect", tag = "suspects", request_body = DetectRequest,
    responses(
        (status = 200, body = DetectResponse),
        (status = 400, body = ProblemBody),
        (status = 422, body = ProblemBody, description = "nothing was done"),
    )
)]
pub(crate) async fn detect(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<DetectResponse>, Problem> {
    params.finish()?;
    let request: DetectRequest = json_or_default(&headers, body).await?;
    let now = app.clock.now();
    let hour = match &request.hour {
        None => last_complete(now),
        Some(text) => parse_hour(text).ok_or_else(|| {
            let message = "expected an hour in UTC such as 2026-11-22T16";
            Problem::unacceptable(vec![fault("hour", message)])
        })?,
    };
    if hour_start(hour) > now {
        let message = "is in the future: expected an hour that has begun";
        return Err(Problem::unacceptable(vec![fault("hour", message)]));
    }
    if !request.dry_run {
        let audit = NewAudit {
            actor: identity.name,
            action: "detect.run",
            subject: hour_start(hour).to_string(),
            detail: String::new(),
        };
        app.state.audit(audit, now).await?;
    }
    let passed = app.pass.run(hour, request.dry_run).await?;
    Ok(Json(DetectResponse {
        hour: hour_start(passed.hour),
        complete: passed.complete,
        dry_run: request.dry_run,
        already_done: passed.already,
        addresses: passed.addresses,
        requests: passed.requests,
        flags: passed.flags.iter().map(found).collect(),
    }))
}

fn found(flag: &Flag) -> FoundFlag {
    FoundFlag {
        target: display_target(&flag.target),
        rule: flag.rule.clone(),
        severity: flag.severity.as_str(),
        detail: flag.detail.clone(),
        count: flag.count,
        score: flag.score,
    }
}

/// `2026-11-22T16`, also with minutes, seconds or a Z behind it; they are left out.
pub(crate) fn parse_hour(text: &str) -> Option<i64> {
    let date = text.get(..13).filter(|_| text.len() <= 20)?;
    let time: Timestamp = format!("{date}:00:00Z").parse().ok()?;
    Some(time.as_second().div_euclid(3_600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_read_as_people_write_it() {
        let expected = parse_hour("2026-11-22T16").unwrap();
        assert_eq!(hour_start(expected).to_string(), "2026-11-22T16:00:00Z");
        for same in ["2026-11-22T16:30", "2026-11-22T16:00:00Z"] {
            assert_eq!(parse_hour(same), Some(expected), "{same}");
        }
        for bad in ["", "16", "2026-11-22", "2026-11-22T24", "2026-11-22T16:00:00+02:00"] {
            assert_eq!(parse_hour(bad), None, "{bad}");
        }
    }
}
