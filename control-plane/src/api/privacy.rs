//! What visitors are told, and how they opt out. Needs no token: these are for the public, and
//! are meant to be reached through the site's own proxy.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::{AppState, Problem, ProblemBody};
use crate::app::App;
use crate::transparency::edge::Edge;
use crate::transparency::page::{self, OPT_OUT_PATH, Standing};
use crate::transparency::{Edition, Notice, template};

/// Longest form read.
const MAX_FORM_BYTES: usize = 1_024;
/// How long the choice is kept: a year.
const COOKIE_SECONDS: u32 = 365 * 86_400;
/// Pages without scripts, with our own style, and forms to ourselves.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
);

fn notice(app: &App) -> Notice {
    let told = app.fleet.privacy(app.clock.now());
    let mut edges: Vec<Edge> = told.iter().map(|(told, _)| Edge::read(told)).collect();
    // In an order that does not depend on the proxies' names, and each once.
    edges.sort_by_cached_key(|edge| format!("{edge:?}"));
    edges.dedup();
    Notice::new(&app.config, edges)
}

fn edition(app: &App) -> Edition {
    let notice = notice(app);
    let version = notice.version();
    let published = app.editions.published(&version, app.clock.now());
    let software = format!("ipwarden {}", ipwarden::VERSION);
    Edition { version, published, software, notice }
}

fn html(page: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
    ];
    (headers, page).into_response()
}

/// What is collected of visitors, why, for how long, who receives it, and which choices they
/// have: a page, made from the configuration in force.
#[utoipa::path(
    get, path = "/privacy", tag = "privacy", security(()),
    responses((status = 200, body = String, content_type = "text/html"))
)]
pub(crate) async fn show(State(app): AppState) -> Response {
    html(page::notice(&edition(&app)))
}

/// The same as JSON.
#[utoipa::path(
    get, path = "/privacy.json", tag = "privacy", security(()),
    responses((status = 200, body = Edition))
)]
pub(crate) async fn json(State(app): AppState) -> Json<Edition> {
    Json(edition(&app))
}

/// The same as a text in Markdown for the site's own policy, with gaps marked `[…]`.
#[utoipa::path(
    get, path = "/privacy/template", tag = "privacy", security(()),
    responses((status = 200, body = String, content_type = "text/markdown"))
)]
pub(crate) async fn template(State(app): AppState) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], template::text(&edition(&app)))
}

/// What the pages look like.
#[utoipa::path(
    get, path = "/privacy/style.css", tag = "privacy", security(()),
    responses((status = 200, body = String, content_type = "text/css"))
)]
pub(crate) async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], page::STYLE)
}

/// The GPC support resource.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Gpc {
    /// Whether every proxy respects `Sec-GPC: 1`.
    gpc: bool,
    /// When the statement was made, as a date.
    #[serde(rename = "lastUpdate")]
    last_update: String,
}

/// Whether the site respects Global Privacy Control (the specification's support resource).
/// There is none until a proxy has reported: nothing is promised that is not known.
#[utoipa::path(
    get, path = "/.well-known/gpc.json", tag = "privacy", security(()),
    responses(
        (status = 200, body = Gpc),
        (status = 404, body = ProblemBody, description = "no proxy has reported yet"),
    )
)]
pub(crate) async fn gpc(State(app): AppState) -> Result<Json<Gpc>, Problem> {
    let edition = edition(&app);
    let gpc = edition.notice.respects_gpc().ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "no connected proxy has told its settings yet")
    })?;
    let last_update = edition.published.strftime("%Y-%m-%d").to_string();
    Ok(Json(Gpc { gpc, last_update }))
}

/// The page to opt out.
#[utoipa::path(
    get, path = "/privacy/opt-out", tag = "privacy", security(()),
    responses((status = 200, body = String, content_type = "text/html"))
)]
pub(crate) async fn opt_out(State(app): AppState, headers: HeaderMap) -> Response {
    let notice = notice(&app);
    let choices = |cookie: Option<String>, gpc| ipwarden::privacy::settings::Choices {
        gpc,
        dnt: false,
        cookie,
    };
    let says = |choices: &ipwarden::privacy::settings::Choices| {
        headers
            .iter()
            .any(|(name, value)| choices.opts_out(name.as_str().as_bytes(), value.as_bytes()))
    };
    let cookie = !notice.cookies.is_empty()
        && notice.cookies.iter().all(|name| says(&choices(Some(name.clone()), false)));
    let gpc = notice.respects_gpc() == Some(true) && says(&choices(None, true));
    html(page::opt_out(&notice, Standing { cookie, gpc }))
}

/// Opts out (`choice=out`) or in again (`choice=in`): sets or removes the cookie, and leads
/// back to the page.
#[utoipa::path(
    post, path = "/privacy/opt-out", tag = "privacy", security(()),
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 303, description = "the cookie is set or removed"),
        (status = 400, body = ProblemBody),
        (status = 403, body = ProblemBody, description = "the form of another site"),
        (status = 404, body = ProblemBody, description = "no proxy reads a cookie"),
    )
)]
pub(crate) async fn choose(
    State(app): AppState,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    // Another site must not choose for a visitor of this one. Old browsers don't say.
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        let detail = "this form was sent from another site: open /privacy/opt-out";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    let body = axum::body::to_bytes(body, MAX_FORM_BYTES).await.unwrap_or_default();
    let seconds = match &*body {
        b"choice=out" => COOKIE_SECONDS,
        b"choice=in" => 0,
        _ => return Err(Problem::bad_request("expected the form choice=out or choice=in")),
    };
    let notice = notice(&app);
    if notice.cookies.is_empty() {
        let detail = "no connected proxy reads a cookie by which visitors opt out";
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    let is_secure = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(OPT_OUT_PATH));
    for name in &notice.cookies {
        let value = cookie(name, seconds, is_secure);
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().append(header::SET_COOKIE, value);
        }
    }
    Ok(response)
}

/// For the whole site, also when it is reached by a link from elsewhere, and nothing that a
/// script could need.
fn cookie(name: &str, seconds: u32, is_secure: bool) -> String {
    let value = u8::from(seconds > 0);
    let secure = if is_secure { "; Secure" } else { "" };
    format!("{name}={value}; Path=/; Max-Age={seconds}; SameSite=Lax; HttpOnly{secure}")
}
