//! What is refused, for other programs: lists, and CrowdSec's bouncers.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use ipwarden::address::parse_target;

use super::{AppState, Params, Problem, ProblemBody};
use crate::auth::Identity;
use crate::feeds::crowdsec::{self, BouncerChanges, BouncerDecision};
use crate::feeds::publish::ListFormat;

/// Longest time that a list may be used without asking again.
const MAX_AGE: u32 = 30;

/// Everything that is refused now, as a list for another program: allows are taken off, so that
/// the list alone is enough. Not so decisions by country and autonomous system. Ask again with
/// `if-none-match`: the answer is 304 while the list is the same.
#[utoipa::path(
    get, path = "/v1/decisions/export", tag = "feeds",
    params(
        ("format" = Option<ListFormat>, Query, description = "plain (if absent), netset, json, nginx or haproxy"),
        ("feeds" = Option<bool>, Query, description = "whether feeds' entries are in it; not if absent: their publishers may not want that"),
    ),
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = 304, description = "still the one that `if-none-match` names"),
        (status = 400, body = ProblemBody),
    )
)]
pub(crate) async fn export(
    State(app): AppState,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let expected = "plain, netset, json, nginx or haproxy";
    let format = params.parsed("format", expected, ListFormat::from_word);
    let feeds = params.parsed("feeds", "true or false", |text| text.parse().ok());
    params.finish()?;
    let format = format.unwrap_or(ListFormat::Plain);
    let now = app.clock.now();
    let list = app.bouncers.list(format, feeds.unwrap_or(false), now).await?;
    let left = list.valid_until.saturating_sub(app.clock.unix_seconds());
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let is_known = known
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == list.etag || tag == "*");
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let kind = HeaderValue::from_static(format.content_type());
        ([(header::CONTENT_TYPE, kind)], list.body).into_response()
    };
    let texts = [
        (header::ETAG, list.etag),
        (header::CACHE_CONTROL, format!("private, max-age={}", left.min(MAX_AGE))),
    ];
    for (name, text) in texts {
        response.headers_mut().insert(name, text.parse().map_err(Problem::internal)?);
    }
    Ok(response)
}

/// For CrowdSec's bouncers: everything (`startup=true`), or what changed since this token asked
/// last. The URL that a bouncer is given ends with `/crowdsec/`; its key is a token of the role
/// bouncer, one for each.
#[utoipa::path(
    get, path = "/crowdsec/v1/decisions/stream", tag = "feeds",
    params(
        ("startup" = Option<bool>, Query, description = "everything"),
        ("scopes" = Option<String>, Query, description = "of ip and range; both if absent"),
        ("origins" = Option<String>, Query, description = "nothing is told where ipwarden is not among them"),
        ("scenarios_containing" = Option<String>, Query, description = "words, one of which must stand in the scenario"),
        ("scenarios_not_containing" = Option<String>, Query, description = "words, none of which may stand in the scenario"),
        ("dedup" = Option<bool>, Query, description = "no target is ever told twice"),
        ("additional_pull" = Option<bool>, Query, description = "not used"),
        ("community_pull" = Option<bool>, Query, description = "not used"),
    ),
    responses((status = 200, body = BouncerChanges), (status = 400, body = ProblemBody))
)]
pub(crate) async fn stream(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    mut params: Params,
) -> Result<Json<BouncerChanges>, Problem> {
    let startup = params.parsed("startup", "true or false", |text| text.parse().ok());
    let filter = Filter::read(&mut params);
    for unused in ["dedup", "additional_pull", "community_pull"] {
        drop(params.text(unused));
    }
    params.finish()?;
    let told = app.bouncers.tell(&identity.name, startup.unwrap_or(false), app.clock.now()).await?;
    let now = app.clock.unix_seconds();
    app.metrics.feeds.told(told.kind);
    let new = told.new.iter().map(|net| crowdsec::refused(net, now));
    let deleted = told.deleted.iter().map(crowdsec::gone);
    Ok(Json(BouncerChanges {
        new: new.filter(|decision| filter.admits(decision)).collect(),
        // Whoever was never told takes no harm.
        deleted: deleted.filter(|decision| filter.is_about(decision.scope)).collect(),
    }))
}

/// For CrowdSec's bouncers that ask for each address: what is refused and covers it; `null` where
/// nothing does.
#[utoipa::path(
    get, path = "/crowdsec/v1/decisions", tag = "feeds",
    params(
        ("ip" = Option<String>, Query, description = "an address"),
        ("range" = Option<String>, Query, description = "a CIDR"),
        ("scope" = Option<String>, Query, description = "ip or range, with `value`"),
        ("value" = Option<String>, Query, description = "an address or a CIDR, with `scope`"),
        ("type" = Option<String>, Query, description = "ban: there is no other"),
        ("scopes" = Option<String>, Query, description = "of ip and range; both if absent"),
        ("origins" = Option<String>, Query, description = "nothing is told where ipwarden is not among them"),
        ("scenarios_containing" = Option<String>, Query, description = "words, one of which must stand in the scenario"),
        ("scenarios_not_containing" = Option<String>, Query, description = "words, none of which may stand in the scenario"),
    ),
    responses((status = 200, body = Option<Vec<BouncerDecision>>), (status = 400, body = ProblemBody))
)]
pub(crate) async fn ask(
    State(app): AppState,
    mut params: Params,
) -> Result<Json<Option<Vec<BouncerDecision>>>, Problem> {
    let mut about = None;
    for name in ["ip", "range", "value"] {
        about = about.or(params.checked(name, parse_target));
    }
    let scope = params.text("scope").map(|scope| scope.to_ascii_lowercase());
    let kind = params.text("type");
    let filter = Filter::read(&mut params);
    params.finish()?;
    let known = scope.is_none_or(|scope| scope == "ip" || scope == "range");
    let bans = kind.is_none_or(|kind| kind.eq_ignore_ascii_case("ban"));
    let Some(about) = about.filter(|_| known && bans) else { return Ok(Json(None)) };
    let now = app.clock.unix_seconds();
    let found = app.bouncers.about(&about, app.clock.now()).await?;
    let found = found.iter().map(|net| crowdsec::refused(net, now));
    let found: Vec<_> = found.filter(|decision| filter.admits(decision)).collect();
    Ok(Json((!found.is_empty()).then_some(found)))
}

/// What a bouncer wants to hear of.
struct Filter {
    scopes: Vec<String>,
    origins: Vec<String>,
    containing: Vec<String>,
    not_containing: Vec<String>,
}

impl Filter {
    fn read(params: &mut Params) -> Self {
        let mut words = |name: &'static str| -> Vec<String> {
            let text = params.text(name).unwrap_or_default();
            let words = text.split(',').map(|word| word.trim().to_ascii_lowercase());
            words.filter(|word| !word.is_empty()).collect()
        };
        Self {
            scopes: words("scopes"),
            origins: words("origins"),
            containing: words("scenarios_containing"),
            not_containing: words("scenarios_not_containing"),
        }
    }

    fn is_about(&self, scope: &str) -> bool {
        self.scopes.is_empty() || self.scopes.iter().any(|word| scope.eq_ignore_ascii_case(word))
    }

    fn admits(&self, decision: &BouncerDecision) -> bool {
        let origin = self.origins.is_empty() || self.origins.iter().any(|o| o == decision.origin);
        let says = |word: &String| decision.scenario.contains(word.as_str());
        origin
            && self.is_about(decision.scope)
            && (self.containing.is_empty() || self.containing.iter().any(says))
            && !self.not_containing.iter().any(says)
    }
}
