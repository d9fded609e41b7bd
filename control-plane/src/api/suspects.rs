//! `/v1/suspects`: whom detectors flagged, and what people say to it.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use ipwarden::address::parse_target;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::decisions::{Warning, without_effect};
use super::terms::lifetime;
use super::{AppState, Params, Problem, ProblemBody, fault, json_or_default};
use crate::auth::Identity;
use crate::model::{Action, Decision};
use crate::suspects::judge::{JudgeError, Judged, Reopened};
use crate::suspects::{Status, Suspect, SuspectFilter};

/// A page of suspects.
#[derive(Debug, Serialize, ToSchema)]
pub struct SuspectPage {
    /// How many match, on this page or not.
    pub total: u64,
    /// Newest first.
    pub suspects: Vec<Suspect>,
    /// Give this as `before` for the next page; absent on the last.
    pub next: Option<i64>,
}

/// Lists suspects, newest first.
#[utoipa::path(
    get, path = "/v1/suspects", tag = "suspects",
    params(
        ("status" = Option<Status>, Query, description = "open, confirmed or dismissed; all if absent"),
        ("target" = Option<String>, Query, description = "address or CIDR that suspects lie in, or that lies in them"),
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 if absent"),
        ("before" = Option<i64>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = SuspectPage), (status = 400, body = ProblemBody))
)]
pub(crate) async fn list(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    mut params: Params,
) -> Result<Json<SuspectPage>, Problem> {
    let mut filter = SuspectFilter {
        status: params.parsed("status", "open, confirmed or dismissed", Status::from_word),
        target: params.checked("target", parse_target),
        before: params.before(),
        limit: params.page(),
    };
    params.finish()?;
    // Asking for one address after the other would tell what a viewer is not shown.
    filter.target = app.masked_net(&identity, filter.target);
    let limit = filter.limit;
    // One more than asked for says whether there is a next page.
    filter.limit += 1;
    let (mut suspects, total) = app.state.suspects(filter).await?;
    let more = suspects.len() > limit;
    suspects.truncate(limit);
    let next = suspects.last().map(|suspect| suspect.id).filter(|_| more);
    Ok(Json(SuspectPage { total, suspects, next }))
}

/// One suspect with all that is known.
#[utoipa::path(
    get, path = "/v1/suspects/{id}", tag = "suspects",
    params(("id" = i64, Path, description = "number of the suspect")),
    responses(
        (status = 200, body = Suspect),
        (status = 400, body = ProblemBody),
        (status = 404, body = ProblemBody),
    )
)]
pub(crate) async fn show(
    State(app): AppState,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<Suspect>, Problem> {
    params.finish()?;
    let id = number(&id)?;
    app.state.suspect(id).await?.map(Json).ok_or_else(|| not_found(id))
}

/// How to confirm.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmRequest {
    /// How long to block: `4h`, `7d`. Without it as long as the policy would: twice as long
    /// with each automatic block of the target.
    #[serde(default, rename = "for")]
    #[schema(example = "4h")]
    lifetime: Option<String>,
    /// Of a suspect that is known by a cut address only: the network to block whole.
    #[serde(default)]
    #[schema(example = "203.0.113.0/24")]
    network: Option<String>,
}

/// How to dismiss.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DismissRequest {
    /// How long to allow the target, whatever blocks it: `7d`. Without it there is no allow.
    #[serde(default)]
    #[schema(example = "7d")]
    allow: Option<String>,
}

/// A suspect that was judged.
#[derive(Debug, Serialize, ToSchema)]
pub struct JudgedSuspect {
    /// As it is now.
    pub suspect: Suspect,
    /// Number of the decision set after it.
    pub revision: u64,
    /// The block of a confirmation, the allow of a dismissal that asked for one.
    pub decision: Option<Decision>,
    /// Blocks by detectors that a dismissal took back.
    pub unblocked: Vec<Decision>,
    /// What has no effect, and why.
    pub warnings: Vec<Warning>,
}

/// Confirms a suspect: it is blocked, by `detector:` and the rule that weighs most.
#[utoipa::path(
    post, path = "/v1/suspects/{id}/confirm", tag = "suspects", request_body = ConfirmRequest,
    params(("id" = i64, Path, description = "number of the suspect")),
    responses(
        (status = 200, body = JudgedSuspect),
        (status = 400, body = ProblemBody),
        (status = 404, body = ProblemBody),
        (status = 422, body = ProblemBody, description = "nothing was changed"),
    )
)]
pub(crate) async fn confirm(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<JudgedSuspect>, Problem> {
    params.finish()?;
    let id = number(&id)?;
    let request: ConfirmRequest = json_or_default(&headers, body).await?;
    let lifetime = checked("for", request.lifetime.as_deref())?;
    let network = request
        .network
        .map(|text| parse_target(&text))
        .transpose()
        .map_err(|error| Problem::unacceptable(vec![fault("network", error.to_string())]))?;
    let now = app.clock.now();
    let judged = app.suspects.confirm(id, lifetime, network, identity.name, now).await?;
    let judged = judged.ok_or_else(|| not_found(id))?;
    let target = judged.decision.as_ref().map_or(judged.suspect.target, |made| made.target);
    let covering = app.state.covering(target, now).await?;
    let allow = covering
        .into_iter()
        .filter(|decision| decision.action == Action::Allow)
        .min_by_key(|allow| (allow.target.prefix_len(), allow.id));
    let warnings = allow.map(|allow| without_effect(&target, allow));
    Ok(Json(judged_suspect(judged, warnings.into_iter().collect())))
}

/// Dismisses a suspect: blocks by detectors are taken back, and the same rules are not heard
/// for `detect.dismissed_for`, unless they get worse.
#[utoipa::path(
    post, path = "/v1/suspects/{id}/dismiss", tag = "suspects", request_body = DismissRequest,
    params(("id" = i64, Path, description = "number of the suspect")),
    responses(
        (status = 200, body = JudgedSuspect),
        (status = 400, body = ProblemBody),
        (status = 404, body = ProblemBody),
        (status = 422, body = ProblemBody, description = "nothing was changed"),
    )
)]
pub(crate) async fn dismiss(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<JudgedSuspect>, Problem> {
    params.finish()?;
    let id = number(&id)?;
    let request: DismissRequest = json_or_default(&headers, body).await?;
    let allow = checked("allow", request.allow.as_deref())?;
    let judged = app.suspects.dismiss(id, allow, identity.name, app.clock.now()).await?;
    let judged = judged.ok_or_else(|| not_found(id))?;
    Ok(Json(judged_suspect(judged, Vec::new())))
}

/// Takes a judgement back: the decision made with it is removed, the suspect is open again.
/// Blocks that a dismissal took back stay away.
#[utoipa::path(
    post, path = "/v1/suspects/{id}/reopen", tag = "suspects",
    params(("id" = i64, Path, description = "number of the suspect")),
    responses(
        (status = 200, body = JudgedSuspect),
        (status = 400, body = ProblemBody),
        (status = 404, body = ProblemBody),
        (status = 409, body = ProblemBody, description = "another suspect of the same target is open"),
    )
)]
pub(crate) async fn reopen(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<JudgedSuspect>, Problem> {
    params.finish()?;
    let id = number(&id)?;
    let judged = match app.suspects.reopen(id, identity.name, app.clock.now()).await? {
        Reopened::Done(judged) => *judged,
        Reopened::Missing => return Err(not_found(id)),
        Reopened::Superseded(other) => {
            let detail = format!("suspect {other} of the same target is open: judge that one");
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
    };
    Ok(Json(judged_suspect(judged, Vec::new())))
}

impl From<JudgeError> for Problem {
    fn from(error: JudgeError) -> Self {
        match error {
            JudgeError::Change(error) => error.into(),
            JudgeError::Cut | JudgeError::Elsewhere { .. } | JudgeError::NotCut => {
                Self::unacceptable(vec![fault("network", error.to_string())])
            }
            JudgeError::NoKeyNamed | JudgeError::KeyGone { .. } => {
                Self::unacceptable(vec![fault("id", error.to_string())])
            }
        }
    }
}

fn judged_suspect(judged: Judged, warnings: Vec<Warning>) -> JudgedSuspect {
    let Judged { suspect, revision, decision, unblocked } = judged;
    JudgedSuspect { suspect, revision, decision, unblocked, warnings }
}

fn checked(place: &str, text: Option<&str>) -> Result<Option<Duration>, Problem> {
    text.map(lifetime)
        .transpose()
        .map_err(|message| Problem::unacceptable(vec![fault(place, message)]))
}

fn number(text: &str) -> Result<i64, Problem> {
    text.parse().map_err(|_| {
        Problem::parameters(vec![fault("id", "expected the number of a suspect such as 12")])
    })
}

fn not_found(id: i64) -> Problem {
    let detail = format!(
        "there is no suspect {id}: open ones go after some days without news, judged ones when they are no longer remembered"
    );
    Problem::new(StatusCode::NOT_FOUND, detail)
}
