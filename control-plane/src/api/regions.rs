//! `/v1/regions`: decisions by country and autonomous system.

use std::collections::HashSet;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::{Extension, Json};
use ipwarden::geo::regions::{MAX_RULES, Region, check_path};
use ipwarden::limits::Mode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::input::short;
use super::limits::ModeWord;
use super::terms::RawTerms;
use super::{AppState, Params, Problem, ProblemBody, fault, json, summary};
use crate::app::App;
use crate::auth::Identity;
use crate::limits;
use crate::model::{Action, DecisionId};
use crate::problem::Fault;
use crate::regions::{Change, NewRule, Rule, WHOLE_SITE, countries};
use crate::store::{LimitsChanged, NewAudit};

/// Most regions in one request.
pub const MAX_TARGETS: usize = 64;

/// All decisions by region.
#[derive(Debug, Serialize, ToSchema)]
pub struct Regions {
    /// Number of the present decisions and limits.
    pub revision: u64,
    /// Those that have not ended, by number; at most 256.
    pub regions: Vec<Rule>,
}

/// Lists the decisions by region.
#[utoipa::path(
    get, path = "/v1/regions", tag = "decisions",
    responses((status = 200, body = Regions))
)]
pub(crate) async fn list(State(app): AppState, params: Params) -> Result<Json<Regions>, Problem> {
    params.finish()?;
    let (revision, policy) = app.state.limits(app.clock.now()).await?;
    Ok(Json(Regions { revision: revision.number, regions: policy.regions }))
}

/// Whom to refuse, and where.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RegionsRequest)]
pub struct AddRequest {
    /// `country:<code>` and `asn:<number>`, at most 64. A repeated one counts once.
    #[schema(example = json!(["country:FR", "asn:64496"]))]
    targets: Vec<String>,
    /// This path and everything below it. Without it `whole_site` is needed.
    #[serde(default)]
    #[schema(example = "/admin")]
    path: Option<String>,
    /// A rule for a path is enforced if absent. One for the whole site starts in shadow, and
    /// keeps its mode when it is made again.
    #[serde(default)]
    mode: Option<ModeWord>,
    /// Says that the rule is meant for the whole site.
    #[serde(default)]
    whole_site: bool,
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
}

/// What was made or changed.
#[derive(Debug, Serialize, ToSchema)]
pub struct RegionsChanged {
    /// Number of decisions and limits after it.
    pub revision: u64,
    /// The rules as they are now, in the order asked.
    pub regions: Vec<Rule>,
    /// Numbers of the rules of the same region and path that these replace.
    pub replaced: Vec<DecisionId>,
    /// Regions that have no rule there.
    pub missing: Vec<String>,
    /// What to think of, in words.
    pub warnings: Vec<String>,
    /// Proxies that are connected now, and get it at once.
    pub proxies: u64,
}

/// Refuses regions at a path, or on the whole site: all or none. A rule of the same region and
/// path is replaced.
///
/// A rule for the whole site starts in shadow: what it would refuse is recorded. `PATCH` switches
/// it on.
#[utoipa::path(
    post, path = "/v1/regions", tag = "decisions", request_body = AddRequest,
    responses(
        (status = 200, body = RegionsChanged),
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
) -> Result<Json<RegionsChanged>, Problem> {
    params.finish()?;
    let request: AddRequest = json(&headers, body).await?;
    let now = app.clock.now();
    let mut faults = Vec::new();
    let regions = check_targets(&request.targets, &mut faults);
    let path = check_place(request.path.as_deref(), Some(request.whole_site), &mut faults);
    let terms = RawTerms {
        reason: request.reason,
        lifetime: request.lifetime,
        expires_at: request.expires_at,
        origin: None,
    }
    .check(Action::Block, now, &mut faults);
    let (_, policy) = app.state.limits(now).await?;
    let kept = |region: Region| {
        policy.regions.iter().find(|rule| rule.region == region && rule.path == path)
    };
    let asked = request.mode.map(Mode::from);
    if path.is_none() && request.whole_site && asked == Some(Mode::Enforce) {
        for region in regions.iter().filter(|region| kept(**region).is_none()) {
            let message = format!(
                "{region} has no rule for the whole site yet: one starts in shadow, so that the records show whom it would refuse; make it without a mode, then switch it on"
            );
            faults.push(fault("mode", message));
        }
    }
    let (Some(terms), true) = (terms, faults.is_empty()) else {
        return Err(Problem::unacceptable(faults));
    };
    let rule = |region: &Region| NewRule {
        region: *region,
        path: path.clone(),
        mode: asked.unwrap_or_else(|| match (&path, kept(*region)) {
            (Some(_), _) => Mode::Enforce,
            (None, Some(kept)) => kept.mode,
            (None, None) => Mode::Shadow,
        }),
        reason: terms.reason.clone(),
        expires_at: terms.expires_at,
    };
    let new: Vec<NewRule> = regions.iter().map(rule).collect();
    let others = |rule: &&Rule| rule.path != path || !regions.contains(&rule.region);
    let count = policy.regions.iter().filter(others).count() + new.len();
    if count > MAX_RULES {
        let message = format!(
            "{count} rules would be in force: expected at most {MAX_RULES}; remove others first"
        );
        return Err(Problem::unacceptable(vec![fault("targets", message)]));
    }
    let mode = new.first().map_or(Mode::Enforce, |new| new.mode);
    let detail = format!("{}, {}, {}", place_in_words(&path), mode.as_str(), terms.in_words());
    let audit = audit(identity, "regions.block", &regions, detail);
    let changed = change(&app, Change::Add(new), audit).await?;
    Ok(Json(changed_view(&app, changed, &[], path.is_none())))
}

/// Which rules to switch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RegionsModeRequest)]
pub struct ModeRequest {
    /// Of these regions, at most 64.
    targets: Vec<String>,
    /// At this path; for the whole site if absent.
    #[serde(default)]
    path: Option<String>,
    /// `enforce` refuses; `shadow` only records.
    mode: ModeWord,
    /// Says that a rule for the whole site is meant to be enforced.
    #[serde(default)]
    whole_site: bool,
}

/// Switches rules between shadow and enforced; everything else about them stays.
#[utoipa::path(
    patch, path = "/v1/regions", tag = "decisions", request_body = ModeRequest,
    responses(
        (status = 200, body = RegionsChanged),
        (status = 400, body = ProblemBody),
        (status = 422, body = ProblemBody, description = "nothing was changed"),
    )
)]
pub(crate) async fn set_mode(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<RegionsChanged>, Problem> {
    params.finish()?;
    let request: ModeRequest = json(&headers, body).await?;
    let mode = Mode::from(request.mode);
    let mut faults = Vec::new();
    let regions = check_targets(&request.targets, &mut faults);
    let meant = (mode == Mode::Enforce).then_some(request.whole_site);
    let path = check_place(request.path.as_deref(), meant, &mut faults);
    if !faults.is_empty() {
        return Err(Problem::unacceptable(faults));
    }
    let detail = format!("{}, {}", place_in_words(&path), mode.as_str());
    let audit = audit(identity, "regions.mode", &regions, detail);
    let is_whole = path.is_none() && mode == Mode::Enforce;
    let asked = Change::Mode { regions: regions.clone(), path, mode };
    let changed = change(&app, asked, audit).await?;
    Ok(Json(changed_view(&app, changed, &regions, is_whole)))
}

/// Which rules to remove.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RegionsRemoval)]
pub struct RemoveRequest {
    /// Of these regions, at most 64.
    targets: Vec<String>,
    /// At this path; for the whole site if absent.
    #[serde(default)]
    path: Option<String>,
}

/// Removes rules; what is not there is reported, not an error.
#[utoipa::path(
    delete, path = "/v1/regions", tag = "decisions", request_body = RemoveRequest,
    responses(
        (status = 200, body = RegionsChanged, description = "`regions` are gone"),
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
) -> Result<Json<RegionsChanged>, Problem> {
    params.finish()?;
    let request: RemoveRequest = json(&headers, body).await?;
    let mut faults = Vec::new();
    let regions = read_targets(&request.targets, &mut faults);
    let path = check_place(request.path.as_deref(), None, &mut faults);
    if !faults.is_empty() {
        return Err(Problem::unacceptable(faults));
    }
    let audit = audit(identity, "regions.unblock", &regions, place_in_words(&path));
    let asked = Change::Remove { regions: regions.clone(), path };
    let changed = change(&app, asked, audit).await?;
    Ok(Json(changed_view(&app, changed, &regions, false)))
}

async fn change(app: &App, change: Change, audit: NewAudit) -> Result<LimitsChanged, Problem> {
    let change = limits::Change::Regions(change);
    Ok(app.hub.change_limits(change, audit, app.clock.now()).await?)
}

fn audit(who: Identity, action: &'static str, regions: &[Region], detail: String) -> NewAudit {
    let subject = summary(regions, Region::to_string);
    NewAudit { actor: who.name, action, subject, detail }
}

/// `asked`: regions that should have a rule.
fn changed_view(
    app: &App,
    changed: LimitsChanged,
    asked: &[Region],
    warns: bool,
) -> RegionsChanged {
    let rules = changed.regions.rules;
    let has_rule = |region: &&Region| rules.iter().any(|rule| rule.region == **region);
    RegionsChanged {
        revision: changed.revision.number,
        replaced: changed.regions.replaced,
        missing: asked.iter().filter(|one| !has_rule(one)).map(Region::to_string).collect(),
        warnings: if warns && !rules.is_empty() { vec![WHOLE_SITE.to_owned()] } else { Vec::new() },
        proxies: app.fleet.connected(app.clock.now()).len() as u64,
        regions: rules,
    }
}

fn place_in_words(path: &Option<String>) -> String {
    path.as_ref().map_or_else(|| "the whole site".to_owned(), |path| format!("path {path}"))
}

/// The path of a rule. `meant` is whether the whole site was said to be meant, `None` where
/// nobody has to say so.
fn check_place(path: Option<&str>, meant: Option<bool>, faults: &mut Vec<Fault>) -> Option<String> {
    match (path, meant) {
        (Some(_), Some(true)) => {
            faults.push(fault("whole_site", "given together with path: give one of them"));
            None
        }
        (Some(path), _) => {
            check_path(path).map_err(|error| faults.push(fault("path", error.to_string()))).ok()
        }
        (None, Some(false)) => {
            let message = format!(
                "missing: name a path such as /admin, or say \"whole_site\": true after thinking of this: {WHOLE_SITE}"
            );
            faults.push(fault("path", message));
            None
        }
        (None, Some(true) | None) => None,
    }
}

/// Checked regions in order, each once.
fn check_targets(texts: &[String], faults: &mut Vec<Fault>) -> Vec<Region> {
    let regions = read_targets(texts, faults);
    for region in &regions {
        if let Region::Country(country) = region
            && !countries::is_assigned(*country)
        {
            let hint = countries::meant(*country)
                .map(|code| format!("; did you mean country:{code}?"))
                .unwrap_or_default();
            let message = format!(
                "no country has the code {country} (ISO 3166-1): the rule would be for nobody{hint}"
            );
            faults.push(fault("targets", message));
        }
    }
    regions
}

fn read_targets(texts: &[String], faults: &mut Vec<Fault>) -> Vec<Region> {
    if texts.is_empty() {
        faults.push(fault("targets", "empty: expected at least one"));
    } else if texts.len() > MAX_TARGETS {
        let message = format!("expected at most {MAX_TARGETS}, found {}", texts.len());
        faults.push(fault("targets", message));
    }
    let mut seen = HashSet::new();
    let mut regions = Vec::new();
    for (n, text) in texts.iter().take(MAX_TARGETS).enumerate() {
        match Region::parse(text) {
            Ok(region) if seen.insert(region) => regions.push(region),
            Ok(_) => {}
            Err(error) => {
                let message = format!("'{}' is {error}", short(text));
                faults.push(fault(format!("targets[{n}]"), message));
            }
        }
    }
    regions
}
