//! `/v1/limits`: what is in force, and changes that lie over the proxies' own limits.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use ipwarden::limits::{MAX_LIMITS, Mode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::decisions::faults;
use super::{AppState, MAX_JSON_BYTES, Params, Problem, ProblemBody, fault, json, read_body};
use crate::app::App;
use crate::auth::Identity;
use crate::limits::view::{self, LimitInForce};
use crate::limits::{self, Change, NAME_EXPECTED, NameError, Policy, is_name, keys};
use crate::store::{LimitsChanged, NewAudit};

/// Most bytes of a limit in the audit log.
const MAX_AUDITED_BYTES: usize = 1_000;
/// Most names listed where one is not known.
const MAX_NAMED: usize = 20;

/// Everything that is in force.
#[derive(Debug, Serialize, ToSchema)]
pub struct Limits {
    /// Number of the present decisions and limits.
    pub revision: u64,
    /// Revision of the last change to limits; 0: never changed.
    pub number: u64,
    /// By name.
    pub limits: Vec<LimitInForce>,
    /// Resets of the last 7 days, oldest first; at most 256.
    pub resets: Vec<ResetView>,
}

/// A bucket that was filled again.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResetView {
    /// Running number.
    pub id: u64,
    /// Whose bucket.
    pub key: String,
    /// In which limit; absent for all.
    pub limit: Option<String>,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
}

/// Lists the limits in force: those that connected proxies configure, and what is changed here.
#[utoipa::path(
    get, path = "/v1/limits", tag = "limits",
    responses((status = 200, body = Limits))
)]
pub(crate) async fn list(State(app): AppState, params: Params) -> Result<Json<Limits>, Problem> {
    params.finish()?;
    let now = app.clock.now();
    let (revision, policy) = app.state.limits(now).await?;
    let configured = app.fleet.configured_limits(now);
    let limits = view::in_force(&policy, &configured, &app.fleet.connected(now));
    let resets = policy.resets.into_iter().map(|reset| ResetView {
        id: reset.id,
        key: reset.key,
        limit: reset.limit,
        time: reset.time,
    });
    Ok(Json(Limits {
        revision: revision.number,
        number: policy.number,
        limits,
        resets: resets.collect(),
    }))
}

/// A limit that was set.
#[derive(Debug, Serialize, ToSchema)]
pub struct LimitSet {
    /// Number of decisions and limits after it.
    pub revision: u64,
    /// The limit as it is in force, what is the default left out.
    #[schema(value_type = Object)]
    pub limit: Value,
    /// Whether a limit of that name was set here before.
    pub replaced: bool,
    /// Proxies that are connected now, and get it at once.
    pub proxies: u64,
}

/// Sets a limit for every proxy: in the place of the configured one of that name, or a new one.
///
/// The body is a limit as in the plugin's configuration; `name` may be left out. A mode set
/// before is replaced, too. The buckets keep their state where the key is the same.
#[utoipa::path(
    put, path = "/v1/limits/{name}", tag = "limits", request_body = Object,
    params(("name" = String, Path, description = "1 to 64 of a-z, 0-9, '-' and '_'")),
    responses(
        (status = 200, body = LimitSet),
        (status = 400, body = ProblemBody),
        (status = 422, body = ProblemBody, description = "nothing was changed"),
    )
)]
pub(crate) async fn set(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<LimitSet>, Problem> {
    params.finish()?;
    check_name(&name)?;
    let body = read_body(&headers, body, MAX_JSON_BYTES).await?;
    let text = limits::named(&name, &body).map_err(|error| match error {
        NameError::Other { .. } => Problem::unacceptable(vec![fault("name", error.to_string())]),
        NameError::NotJson(_) | NameError::NotAnObject => {
            Problem::bad_request("the body is not the JSON that is expected here")
                .with(vec![fault("body", error.to_string())])
        }
    })?;
    let limit = ipwarden::config::check_limit(&text)
        .map_err(|errors| Problem::unacceptable(faults(errors)))?
        .to_json();
    check_fits(&app, &name).await?;
    let definition = limit.to_string();
    let audit = NewAudit {
        actor: identity.name,
        action: "limits.set",
        subject: name.clone(),
        detail: cut(&definition, MAX_AUDITED_BYTES),
    };
    let changed = change(&app, Change::Set { name, definition }, audit).await?;
    Ok(Json(LimitSet {
        revision: changed.revision.number,
        limit,
        replaced: changed.before.is_some_and(|before| before.definition.is_some()),
        proxies: connected(&app),
    }))
}

/// Another mode.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModeRequest {
    /// `enforce` refuses; `shadow` counts, and records what it would refuse.
    mode: ModeWord,
}

/// Whether a limit refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModeWord {
    /// It refuses.
    Enforce,
    /// It counts, and records what it would refuse.
    Shadow,
}

impl From<ModeWord> for Mode {
    fn from(word: ModeWord) -> Self {
        match word {
            ModeWord::Enforce => Self::Enforce,
            ModeWord::Shadow => Self::Shadow,
        }
    }
}

/// A limit in another mode.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModeSet {
    /// Number of decisions and limits after it.
    pub revision: u64,
    /// Name of the limit.
    pub name: String,
    /// Its mode now.
    pub mode: ModeWord,
    /// Connected proxies that have the limit, and get its mode at once.
    pub proxies: u64,
}

/// Changes nothing but the mode of a limit, be it configured or set here.
#[utoipa::path(
    patch, path = "/v1/limits/{name}", tag = "limits", request_body = ModeRequest,
    params(("name" = String, Path, description = "name of the limit")),
    responses(
        (status = 200, body = ModeSet),
        (status = 400, body = ProblemBody),
        (status = 404, body = ProblemBody, description = "neither set here nor configured by a connected proxy"),
        (status = 422, body = ProblemBody, description = "nothing was changed"),
    )
)]
pub(crate) async fn set_mode(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ModeSet>, Problem> {
    params.finish()?;
    check_name(&name)?;
    let request: ModeRequest = json(&headers, body).await?;
    check_known(&app, &name).await?;
    let mode = Mode::from(request.mode);
    let audit = NewAudit {
        actor: identity.name,
        action: "limits.mode",
        subject: name.clone(),
        detail: mode.as_str().to_owned(),
    };
    let changed = change(&app, Change::Mode { name: name.clone(), mode }, audit).await?;
    let is_whole = changed.policy.get(&name).is_some_and(|kept| kept.definition.is_some());
    Ok(Json(ModeSet {
        revision: changed.revision.number,
        proxies: if is_whole { connected(&app) } else { configuring(&app, &name) },
        name,
        mode: request.mode,
    }))
}

/// A change that was taken away.
#[derive(Debug, Serialize, ToSchema)]
pub struct LimitRemoved {
    /// Number of decisions and limits after it.
    pub revision: u64,
    /// Name of the limit.
    pub name: String,
    /// Connected proxies that configure a limit of that name, which is in force there again.
    pub proxies: u64,
}

/// Takes the change of a limit away: the configured one is in force again, if there is one.
#[utoipa::path(
    delete, path = "/v1/limits/{name}", tag = "limits",
    params(("name" = String, Path, description = "name of the limit")),
    responses(
        (status = 200, body = LimitRemoved),
        (status = 400, body = ProblemBody),
        (status = 404, body = ProblemBody, description = "nothing is changed under that name"),
    )
)]
pub(crate) async fn remove(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Json<LimitRemoved>, Problem> {
    params.finish()?;
    check_name(&name)?;
    let audit = NewAudit {
        actor: identity.name,
        action: "limits.remove",
        subject: name.clone(),
        detail: String::new(),
    };
    let changed = change(&app, Change::Remove { name: name.clone() }, audit).await?;
    if changed.before.is_none() {
        return Err(nothing_to_remove(&app, &name, &changed.policy));
    }
    Ok(Json(LimitRemoved {
        revision: changed.revision.number,
        proxies: configuring(&app, &name),
        name,
    }))
}

/// Whose bucket to fill.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResetRequest {
    /// An address, a CIDR, `identity:<identity>` or `header:<value>`.
    #[schema(example = "203.0.113.7")]
    key: String,
    /// In this limit only; in all if absent.
    #[serde(default)]
    #[schema(example = "login")]
    limit: Option<String>,
}

/// A bucket that is filled again.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResetMade {
    /// Number of decisions and limits after it.
    pub revision: u64,
    /// Running number of the reset.
    pub id: u64,
    /// The key in its one form.
    pub key: String,
    /// In which limit; absent for all.
    pub limit: Option<String>,
    /// Proxies that are connected now, and do it at once.
    pub proxies: u64,
}

/// Fills the bucket of a key: its requests count from nothing again.
#[utoipa::path(
    post, path = "/v1/limits/reset", tag = "limits", request_body = ResetRequest,
    responses(
        (status = 200, body = ResetMade),
        (status = 400, body = ProblemBody),
        (status = 404, body = ProblemBody, description = "no such limit"),
        (status = 422, body = ProblemBody, description = "nothing was changed"),
    )
)]
pub(crate) async fn reset(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ResetMade>, Problem> {
    params.finish()?;
    let ResetRequest { key, limit } = json(&headers, body).await?;
    let mut faults = Vec::new();
    let key = keys::check(&key).map_err(|error| faults.push(fault("key", error.to_string())));
    if limit.as_deref().is_some_and(|name| !is_name(name)) {
        faults.push(fault("limit", format!("no name of a limit: expected {NAME_EXPECTED}")));
    }
    let (Ok(key), true) = (key, faults.is_empty()) else {
        return Err(Problem::unacceptable(faults));
    };
    if let Some(name) = &limit {
        check_known(&app, name).await?;
    }
    let audit = NewAudit {
        actor: identity.name,
        action: "limits.reset",
        subject: key.clone(),
        detail: limit
            .as_ref()
            .map_or_else(|| "all limits".to_owned(), |name| format!("limit {name}")),
    };
    let asked = Change::Reset { key: key.clone(), limit: limit.clone() };
    reset_over_the_fleet(&app, &key, limit.as_deref()).await?;
    let changed = change(&app, asked, audit).await?;
    Ok(Json(ResetMade {
        revision: changed.revision.number,
        id: changed.policy.resets.last().map_or(0, |reset| reset.id),
        key,
        limit,
        proxies: connected(&app),
    }))
}

async fn change(app: &App, change: Change, audit: NewAudit) -> Result<LimitsChanged, Problem> {
    Ok(app.hub.change_limits(change, audit, app.clock.now()).await?)
}

/// First, so that no proxy is told of what was taken before its own bucket was filled.
async fn reset_over_the_fleet(app: &App, key: &str, limit: Option<&str>) -> Result<(), Problem> {
    let now = app.clock.now();
    let (_, policy) = app.state.limits(now).await?;
    let changed = policy.overrides.iter().filter_map(|kept| kept.limit());
    let configured = app.fleet.configured_limits(now).into_iter().flat_map(|one| one.limits);
    let named = changed.chain(configured).filter(|found| {
        limit.is_none_or(|name| found.get("name").and_then(Value::as_str) == Some(name))
    });
    if let Err(error) = app.fleet_limits.reset(named, key).await {
        // Each proxy counts for itself meanwhile, and its own bucket is filled all the same.
        tracing::warn!("what the fleet took is remembered in spite of a reset: {error}");
    }
    Ok(())
}

fn connected(app: &App) -> u64 {
    app.fleet.connected(app.clock.now()).len() as u64
}

/// How many connected proxies configure a limit of that name.
fn configuring(app: &App, name: &str) -> u64 {
    let variants = view::variants(&app.fleet.configured_limits(app.clock.now()), name);
    variants.iter().map(|variant| variant.proxies.len() as u64).sum()
}

fn check_name(name: &str) -> Result<(), Problem> {
    if is_name(name) {
        return Ok(());
    }
    let message = format!("no name of a limit: expected {NAME_EXPECTED}");
    Err(Problem::parameters(vec![fault("name", message)]))
}

/// Refuses a name that nobody knows: a slip would change nothing and look as if it did.
async fn check_known(app: &App, name: &str) -> Result<(), Problem> {
    let now = app.clock.now();
    let (_, policy) = app.state.limits(now).await?;
    let known = view::known_names(&policy, &app.fleet.configured_limits(now));
    if known.iter().any(|known| known == name) {
        return Ok(());
    }
    let detail = format!("no limit is named {name}: {}", named(&known));
    Err(Problem::new(StatusCode::NOT_FOUND, detail))
}

/// Refuses a limit that would be one too many where a connected proxy has its own.
async fn check_fits(app: &App, name: &str) -> Result<(), Problem> {
    let now = app.clock.now();
    let (_, policy) = app.state.limits(now).await?;
    let configured = app.fleet.configured_limits(now);
    let Some((proxy, count)) = view::overfull(&policy, &configured, name) else { return Ok(()) };
    let message = format!(
        "{count} limits would be in force on {proxy}: expected at most {MAX_LIMITS}; remove others, there or here"
    );
    Err(Problem::unacceptable(vec![fault("name", message)]))
}

fn nothing_to_remove(app: &App, name: &str, policy: &Policy) -> Problem {
    let detail = if configuring(app, name) > 0 {
        format!(
            "nothing to remove: the limit {name} is as the proxies configure it; it goes when it leaves their configuration"
        )
    } else {
        let kept: Vec<String> = policy.overrides.iter().map(|kept| kept.name.clone()).collect();
        let kept = match kept.as_slice() {
            [] => "no limit is changed here".to_owned(),
            kept => format!("changed here: {}", listed(kept)),
        };
        format!("nothing to remove: no limit named {name} is changed here; {kept}")
    };
    Problem::new(StatusCode::NOT_FOUND, detail)
}

fn named(known: &[String]) -> String {
    match known {
        [] => "no limit is set here, and no connected proxy has reported one".to_owned(),
        known => format!("known are {}", listed(known)),
    }
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(MAX_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The beginning of a text.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().map(|(at, _)| at).take_while(|at| *at <= most).last() {
        Some(end) if text.len() > most => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("aéi", 10), "aéi");
        assert_eq!(cut("aéi", 2), "a…");
        assert_eq!(cut("aéi", 3), "aé…");
    }

    #[test]
    fn unknown_names_are_answered_with_known_ones() {
        let names: Vec<String> = (1..=22).map(|n| format!("l{n}")).collect();
        assert_eq!(named(&names[..2]), "known are l1, l2");
        assert!(named(&names).ends_with(", l20 and 2 more"));
        assert_eq!(named(&[]), "no limit is set here, and no connected proxy has reported one");
    }
}
