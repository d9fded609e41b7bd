//! `/v1/decisions`: list, add, remove.

use std::collections::HashSet;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use ipnet::IpNet;
use ipwarden::address::{display_target, parse_target};
use ipwarden::config::ConfigError;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::terms::{RawTerms, Terms};
use super::{AppState, Params, Problem, ProblemBody, fault, json, summary};
use crate::auth::Identity;
use crate::hub::ChangeError;
use crate::model::{Action, Decision, DecisionId};
use crate::problem::Fault;
use crate::store::{self, Added, DecisionFilter, NewAudit, Removal, StateStore};

/// Most targets in one request; longer lists are imported.
pub const MAX_TARGETS: usize = 1_000;

/// A page of decisions.
#[derive(Debug, Serialize, ToSchema)]
pub struct DecisionPage {
    /// Number of the decision set.
    pub revision: u64,
    /// How many match, on this page or not.
    pub total: u64,
    /// Newest first.
    pub decisions: Vec<Decision>,
    /// Give this as `before` for the next page; absent on the last.
    pub next: Option<DecisionId>,
}

/// Lists live decisions, newest first.
#[utoipa::path(
    get, path = "/v1/decisions", tag = "decisions",
    params(
        ("origin" = Option<String>, Query, description = "manual, feed:<name> or detector:<rule>"),
        ("action" = Option<Action>, Query, description = "block or allow"),
        ("inside" = Option<String>, Query, description = "address or CIDR that the targets lie in"),
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 if absent"),
        ("before" = Option<u32>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = DecisionPage), (status = 400, body = ProblemBody))
)]
pub(crate) async fn list(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    mut params: Params,
) -> Result<Json<DecisionPage>, Problem> {
    let mut filter = DecisionFilter {
        origin: params.checked("origin", str::parse),
        action: params.parsed("action", "block or allow", parse_action),
        inside: params.checked("inside", parse_target),
        before: params.before(),
        limit: params.page(),
    };
    params.finish()?;
    // Asking for one address after the other would tell what a viewer is not shown.
    filter.inside = app.masked_net(&identity, filter.inside);
    let limit = filter.limit;
    // One more than asked for says whether there is a next page.
    filter.limit += 1;
    let revision = app.hub.revision().number;
    let (mut decisions, total) = app.state.decisions(filter, app.clock.now()).await?;
    let more = decisions.len() > limit;
    decisions.truncate(limit);
    let next = decisions.last().map(|decision| decision.id).filter(|_| more);
    Ok(Json(DecisionPage { revision, total, decisions, next }))
}

/// What to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// Addresses and CIDRs, at most 1000. A repeated one counts once.
    #[schema(example = json!(["203.0.113.7", "2001:db8::/32"]))]
    targets: Vec<String>,
    /// Block or allow.
    action: Action,
    /// Why, for operators only: at most 1000 bytes.
    #[serde(default)]
    reason: String,
    /// How long: `30s`, `4h`, `7d`. Without it and `expires_at` there is no end.
    #[serde(default, rename = "for")]
    #[schema(example = "4h")]
    lifetime: Option<String>,
    /// Until when, RFC 3339.
    #[serde(default)]
    expires_at: Option<String>,
    /// manual if absent.
    #[serde(default)]
    origin: Option<String>,
}

/// What was added.
#[derive(Debug, Serialize, ToSchema)]
pub struct AddResponse {
    /// Number of the decision set after it.
    pub revision: u64,
    /// The new decisions, in the order asked.
    pub decisions: Vec<Decision>,
    /// Numbers of the decisions of the same target, action and origin that these replace.
    pub replaced: Vec<DecisionId>,
    /// What has no effect, and why.
    pub warnings: Vec<Warning>,
}

/// A decision that was made but has no effect.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Warning {
    /// Its target.
    pub target: String,
    /// Why it has none, and what would help.
    pub message: String,
    /// The decision that takes its effect away.
    pub decision: Decision,
}

/// Adds decisions: all or none. A live decision of the same target, action and origin is
/// replaced.
#[utoipa::path(
    post, path = "/v1/decisions", tag = "decisions", request_body = AddRequest,
    responses(
        (status = 200, body = AddResponse),
        (status = 400, body = ProblemBody),
        (status = 422, body = ProblemBody, description = "nothing was changed"),
    )
)]
pub(crate) async fn add(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<AddResponse>, Problem> {
    params.finish()?;
    let request: AddRequest = json(&headers, body).await?;
    let now = app.clock.now();
    let mut faults = Vec::new();
    let targets = check_targets(&request.targets, &mut faults);
    let terms = RawTerms {
        reason: request.reason,
        lifetime: request.lifetime,
        expires_at: request.expires_at,
        origin: request.origin,
    }
    .check(request.action, now, &mut faults);
    let (Some(terms), true) = (terms, faults.is_empty()) else {
        return Err(Problem::unacceptable(faults));
    };
    let warnings = warnings(app.state.as_ref(), &terms, &targets, now).await?;
    let audit = NewAudit {
        actor: identity.name,
        action: "decisions.add",
        subject: summary(&targets, display_target),
        detail: terms.in_words(),
    };
    let new = targets.iter().map(|target| terms.decide(*target)).collect();
    let added = app.hub.add(new, audit, now).await?;
    Ok(Json(AddResponse {
        revision: added.revision.number,
        decisions: made(&terms, &targets, &added, now),
        replaced: added.replaced,
        warnings,
    }))
}

/// What to remove: `targets` with `action`, or `ids`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// Exactly these addresses and CIDRs, of any origin; at most 1000.
    #[serde(default)]
    targets: Option<Vec<String>>,
    /// Of this action only; goes with `targets`.
    #[serde(default)]
    action: Option<Action>,
    /// Numbers of decisions; at most 1000.
    #[serde(default)]
    ids: Option<Vec<DecisionId>>,
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
pub struct RemoveResponse {
    /// Number of the decision set after it; unchanged when nothing was removed.
    pub revision: u64,
    /// The decisions that are gone.
    pub removed: Vec<Decision>,
    /// Targets or numbers that no decision had.
    pub missing: Vec<String>,
}

/// Removes decisions; what is not there is reported, not an error.
#[utoipa::path(
    delete, path = "/v1/decisions", tag = "decisions", request_body = RemoveRequest,
    responses(
        (status = 200, body = RemoveResponse),
        (status = 400, body = ProblemBody),
        (status = 422, body = ProblemBody, description = "nothing was changed"),
    )
)]
pub(crate) async fn remove(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<RemoveResponse>, Problem> {
    params.finish()?;
    let request: RemoveRequest = json(&headers, body).await?;
    let mut faults = Vec::new();
    let which = match (request.targets, request.action, request.ids) {
        (Some(targets), Some(action), None) => {
            Removal::Targets { targets: check_targets(&targets, &mut faults), action, origin: None }
        }
        (None, None, Some(ids)) => {
            check_count("ids", ids.len(), &mut faults);
            Removal::Ids(ids)
        }
        _ => {
            let message = "expected either targets with an action, or ids";
            faults.push(fault("body", message));
            Removal::Ids(Vec::new())
        }
    };
    if !faults.is_empty() {
        return Err(Problem::unacceptable(faults));
    }
    let (subject, detail) = match &which {
        Removal::Ids(ids) => (summary(ids, |id| format!("decision {id}")), String::new()),
        Removal::Targets { targets, action, .. } => {
            (summary(targets, display_target), action.as_str().to_owned())
        }
    };
    let audit = NewAudit { actor: identity.name, action: "decisions.remove", subject, detail };
    let removed = app.hub.remove(which.clone(), audit, app.clock.now()).await?;
    let missing = match which {
        Removal::Ids(ids) => {
            let gone: HashSet<DecisionId> = removed.decisions.iter().map(|gone| gone.id).collect();
            ids.iter().filter(|id| !gone.contains(id)).map(ToString::to_string).collect()
        }
        Removal::Targets { targets, .. } => {
            let gone: HashSet<IpNet> = removed.decisions.iter().map(|gone| gone.target).collect();
            targets.iter().filter(|target| !gone.contains(target)).map(display_target).collect()
        }
    };
    Ok(Json(RemoveResponse {
        revision: removed.revision.number,
        removed: removed.decisions,
        missing,
    }))
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Store(error) => error.into(),
            ChangeError::Full => Self::unacceptable(vec![fault("targets", error.to_string())]),
            ChangeError::LimitsFull { .. } => {
                Self::unacceptable(vec![fault("limits", error.to_string())])
            }
            ChangeError::Limits(errors) => Self::unacceptable(faults(errors)),
        }
    }
}

/// Errors of the filter's own check, each with its place.
pub(crate) fn faults(errors: Vec<ConfigError>) -> Vec<Fault> {
    let whole = |place: String| if place.is_empty() { "body".to_owned() } else { place };
    errors.into_iter().map(|error| fault(whole(error.place), error.message)).collect()
}

pub(crate) fn parse_action(text: &str) -> Option<Action> {
    [Action::Block, Action::Allow].into_iter().find(|action| action.as_str() == text)
}

/// The decisions that were made.
fn made(terms: &Terms, targets: &[IpNet], added: &Added, now: Timestamp) -> Vec<Decision> {
    let pairs = targets.iter().zip(&added.ids);
    pairs
        .map(|(target, id)| Decision {
            id: *id,
            target: *target,
            action: terms.action,
            origin: terms.origin.clone(),
            reason: terms.reason.clone(),
            created_at: now,
            expires_at: terms.expires_at,
        })
        .collect()
}

/// Checked targets in order, each once.
fn check_targets(texts: &[String], faults: &mut Vec<Fault>) -> Vec<IpNet> {
    check_count("targets", texts.len(), faults);
    let mut seen = HashSet::new();
    let mut targets = Vec::new();
    for (n, text) in texts.iter().take(MAX_TARGETS).enumerate() {
        match parse_target(text) {
            Ok(target) if seen.insert(target) => targets.push(target),
            Ok(_) => {}
            Err(error) => faults.push(fault(format!("targets[{n}]"), error.to_string())),
        }
    }
    targets
}

fn check_count(place: &str, count: usize, faults: &mut Vec<Fault>) {
    if count == 0 {
        faults.push(fault(place, "empty: expected at least one"));
    } else if count > MAX_TARGETS {
        let message = format!(
            "expected at most {MAX_TARGETS}, found {count}: send more requests, or POST /v1/decisions/import for a list"
        );
        faults.push(fault(place, message));
    }
}

/// Which new blocks an allow covers.
async fn warnings(
    store: &dyn StateStore,
    terms: &Terms,
    targets: &[IpNet],
    now: Timestamp,
) -> store::Result<Vec<Warning>> {
    let mut warnings = Vec::new();
    if terms.action == Action::Allow {
        return Ok(warnings);
    }
    for target in targets {
        let covering = store.covering(*target, now).await?;
        let allow = covering
            .into_iter()
            .filter(|decision| decision.action == Action::Allow)
            .min_by_key(|allow| (allow.target.prefix_len(), allow.id));
        warnings.extend(allow.map(|allow| without_effect(target, allow)));
    }
    Ok(warnings)
}

/// The warning for a block that an allow covers.
pub(crate) fn without_effect(target: &IpNet, allow: Decision) -> Warning {
    let until = allow.expires_at.map(|end| format!(" until {end}")).unwrap_or_default();
    let target = display_target(target);
    let allowed = display_target(&allow.target);
    Warning {
        message: format!(
            "blocking {target} has no effect: decision {} allows {allowed}{until}; remove that allow to make the block work",
            allow.id
        ),
        target,
        decision: allow,
    }
}
