//! `/v1/notify`: who is told of suspects and blocks, and how that goes.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppState, Params, Problem, ProblemBody, json_or_default};
use crate::auth::Identity;
use crate::store::NewAudit;

/// All hooks.
#[derive(Debug, Serialize, ToSchema)]
pub struct Hooks {
    /// In the order of the configuration.
    pub hooks: Vec<HookState>,
}

/// One hook: neither its URL nor its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct HookState {
    /// Its name.
    pub name: String,
    /// webhook or slack.
    pub kind: &'static str,
    /// Scheme, host and port of its URL.
    pub to: String,
    /// Events that wait.
    pub waiting: u64,
    /// Events that it was never told, since it was configured.
    pub dropped: u64,
    /// When a message was taken last, since the service started.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub sent_at: Option<Timestamp>,
    /// Attempts that failed since then.
    pub failures: u32,
    /// When the first of them failed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failing_since: Option<Timestamp>,
    /// Why the last of them did.
    pub problem: Option<String>,
}

/// Lists hooks and how they are doing.
#[utoipa::path(
    get, path = "/v1/notify", tag = "suspects",
    responses((status = 200, body = Hooks))
)]
pub(crate) async fn list(State(app): AppState, params: Params) -> Result<Json<Hooks>, Problem> {
    params.finish()?;
    let backlogs = app.state.backlog().await?;
    let hooks = app.notifier.hooks().into_iter().map(|hook| {
        let backlog = backlogs.iter().find(|backlog| backlog.hook == hook.name);
        HookState {
            waiting: backlog.map_or(0, |backlog| backlog.waiting),
            dropped: backlog.map_or(0, |backlog| backlog.dropped),
            name: hook.name,
            kind: hook.kind.as_str(),
            to: hook.to,
            sent_at: hook.health.sent_at,
            failures: hook.health.failures,
            failing_since: hook.health.failing_since,
            problem: hook.health.problem,
        }
    });
    Ok(Json(Hooks { hooks: hooks.collect() }))
}

/// Which hook.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestRequest {
    /// Its name; all of them if absent.
    #[serde(default)]
    hook: Option<String>,
}

/// What became of a test.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tested {
    /// Of each hook.
    pub results: Vec<TestResult>,
}

/// What became of the test of one hook.
#[derive(Debug, Serialize, ToSchema)]
pub struct TestResult {
    /// Its name.
    pub hook: String,
    /// Whether the message was taken.
    pub ok: bool,
    /// The status that the receiver answered, if it did.
    pub status: Option<u16>,
    /// Why it was not taken.
    pub problem: Option<String>,
}

/// Sends a message that says that it is a test: to one hook, or to all, once.
#[utoipa::path(
    post, path = "/v1/notify/test", tag = "suspects", request_body = TestRequest,
    responses(
        (status = 200, body = Tested),
        (status = 404, body = ProblemBody),
    )
)]
pub(crate) async fn test(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Tested>, Problem> {
    params.finish()?;
    let request: TestRequest = json_or_default(&headers, body).await?;
    let hooks = app.notifier.hooks().into_iter().map(|hook| hook.name);
    let names: Vec<String> =
        hooks.filter(|name| request.hook.as_ref().is_none_or(|asked| asked == name)).collect();
    if names.is_empty() && request.hook.is_some() {
        let why = "there is no hook of that name: `ipwarden notify` lists them";
        return Err(Problem::new(StatusCode::NOT_FOUND, why));
    }
    let audit = NewAudit {
        actor: identity.name,
        action: "notify.test",
        subject: names.join(", "),
        detail: String::new(),
    };
    app.state.audit(audit, app.clock.now()).await?;
    let tests = names.iter().map(|name| app.notifier.test(name));
    let outcomes = futures_util::future::join_all(tests).await;
    let results = names.into_iter().zip(outcomes).filter_map(|(hook, outcome)| {
        Some(match outcome? {
            Ok(status) => {
                TestResult { hook, ok: true, status: Some(status.as_u16()), problem: None }
            }
            Err(refused) => TestResult {
                hook,
                ok: false,
                status: refused.status,
                problem: Some(refused.problem),
            },
        })
    });
    Ok(Json(Tested { results: results.collect() }))
}
