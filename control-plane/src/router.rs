//! The whole URL table: which path takes which method, from whom, for how long.
//!
//! [`TABLE`] is the only place that grants access. A handler that is not in it is refused to
//! everybody; a test compares it with the API document.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::{
    assets, audit, check, decisions, detect, feeds, geo, history, import, limits, meta, notify,
    people, privacy, proxies, published, regions, requests, session, stats, status, stream,
    suspects, tokens,
};
use crate::app::App;
use crate::auth::Identity;
use crate::mask;
use crate::model::Role;
use crate::problem::Problem;
use crate::session::foreign;

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody who can connect.
    Public,
    /// Proxies (and admins).
    Proxy,
    /// Viewers and admins.
    Read,
    /// Bouncers and admins: whole addresses of what is refused, nothing else.
    Decisions,
    /// Whoever has a token.
    AnyRole,
    /// Admins.
    Admin,
}

impl Access {
    /// Whether a role may.
    #[must_use]
    pub const fn admits(self, role: Role) -> bool {
        match (self, role) {
            (Self::Public | Self::AnyRole, _) | (_, Role::Admin) => true,
            (Self::Proxy, Role::Proxy)
            | (Self::Read, Role::Viewer)
            | (Self::Decisions, Role::Bouncer) => true,
            (
                Self::Proxy | Self::Read | Self::Decisions | Self::Admin,
                Role::Proxy | Role::Viewer | Role::Bouncer,
            ) => false,
        }
    }

    const fn needs(self) -> &'static str {
        match self {
            Self::Public => "no token",
            Self::Proxy => "a token of the role proxy or admin",
            Self::Read => "a token of the role viewer or admin",
            Self::Decisions => "a token of the role bouncer or admin",
            Self::AnyRole => "a token",
            Self::Admin => "a token of the role admin",
        }
    }
}

/// A row of the table: method, path, who may, and how many seconds until the response must
/// have begun.
pub type Row = (Method, &'static str, Access, u64);

/// Every route.
pub const TABLE: &[Row] = &[
    (Method::GET, "/v1/decisions", Access::Read, 30),
    (Method::POST, "/v1/decisions", Access::Admin, 30),
    (Method::DELETE, "/v1/decisions", Access::Admin, 30),
    (Method::GET, "/v1/decisions/check", Access::Read, 30),
    (Method::POST, "/v1/decisions/import", Access::Admin, 600),
    (Method::GET, "/v1/decisions/export", Access::Decisions, 60),
    (Method::GET, "/v1/decisions/stream", Access::Proxy, 65),
    (Method::GET, "/crowdsec/v1/decisions", Access::Decisions, 30),
    (Method::GET, "/crowdsec/v1/decisions/stream", Access::Decisions, 60),
    (Method::GET, "/v1/feeds", Access::Read, 30),
    (Method::GET, "/v1/feeds/{name}", Access::Read, 30),
    (Method::PUT, "/v1/feeds/{name}", Access::Admin, 30),
    (Method::DELETE, "/v1/feeds/{name}", Access::Admin, 120),
    (Method::POST, "/v1/feeds/{name}/refresh", Access::Admin, 600),
    (Method::GET, "/v1/limits", Access::Read, 30),
    (Method::PUT, "/v1/limits/{name}", Access::Admin, 30),
    (Method::PATCH, "/v1/limits/{name}", Access::Admin, 30),
    (Method::DELETE, "/v1/limits/{name}", Access::Admin, 30),
    (Method::POST, "/v1/limits/reset", Access::Admin, 30),
    (Method::GET, "/v1/regions", Access::Read, 30),
    (Method::POST, "/v1/regions", Access::Admin, 30),
    (Method::PATCH, "/v1/regions", Access::Admin, 30),
    (Method::DELETE, "/v1/regions", Access::Admin, 30),
    (Method::POST, "/v1/requests", Access::Proxy, 60),
    (Method::POST, "/v1/import/requests", Access::Admin, 60),
    (Method::POST, "/v1/import/suspects", Access::Admin, 60),
    (Method::GET, "/v1/requests", Access::Read, 60),
    (Method::GET, "/v1/requests/live", Access::Read, 30),
    (Method::GET, "/v1/stats/overview", Access::Read, 60),
    (Method::GET, "/v1/stats/series", Access::Read, 60),
    (Method::GET, "/v1/stats/tops", Access::Read, 60),
    (Method::GET, "/v1/stats/map", Access::Read, 60),
    (Method::GET, "/v1/geo", Access::Read, 30),
    (Method::POST, "/v1/geo", Access::AnyRole, 30),
    (Method::GET, "/v1/geo/{ip}", Access::AnyRole, 5),
    (Method::POST, "/v1/detect", Access::Admin, 60),
    (Method::GET, "/v1/suspects", Access::Read, 30),
    (Method::GET, "/v1/suspects/{id}", Access::Read, 30),
    (Method::POST, "/v1/suspects/{id}/confirm", Access::Admin, 30),
    (Method::POST, "/v1/suspects/{id}/dismiss", Access::Admin, 30),
    (Method::GET, "/v1/notify", Access::Read, 30),
    (Method::POST, "/v1/notify/test", Access::Admin, 60),
    (Method::POST, "/v1/suspects/{id}/reopen", Access::Admin, 30),
    (Method::GET, "/v1/proxies", Access::Read, 30),
    (Method::PUT, "/v1/proxies/limits", Access::Proxy, 30),
    (Method::POST, "/v1/proxies/consumption", Access::Proxy, 10),
    (Method::GET, "/v1/retention", Access::Read, 30),
    (Method::POST, "/v1/retention/run", Access::Admin, 300),
    (Method::GET, "/v1/keys", Access::Admin, 30),
    (Method::POST, "/v1/keys/rotate", Access::Admin, 30),
    (Method::DELETE, "/v1/keys/{id}", Access::Admin, 30),
    (Method::POST, "/v1/pseudonyms/reveal", Access::Admin, 30),
    (Method::GET, "/v1/subjects/{ip}", Access::Admin, 120),
    (Method::DELETE, "/v1/subjects/{ip}", Access::Admin, 600),
    (Method::GET, "/v1/audit", Access::Read, 30),
    (Method::GET, "/v1/tokens", Access::Admin, 30),
    (Method::POST, "/v1/tokens", Access::Admin, 30),
    (Method::DELETE, "/v1/tokens/{name}", Access::Admin, 30),
    (Method::POST, "/v1/session", Access::Public, 30),
    (Method::GET, "/v1/session", Access::AnyRole, 30),
    (Method::DELETE, "/v1/session", Access::AnyRole, 30),
    (Method::GET, "/v1/status", Access::Read, 30),
    (Method::GET, "/privacy", Access::Public, 5),
    (Method::GET, "/privacy.json", Access::Public, 5),
    (Method::GET, "/privacy/opt-out", Access::Public, 5),
    (Method::POST, "/privacy/opt-out", Access::Public, 5),
    (Method::GET, "/privacy/style.css", Access::Public, 5),
    (Method::GET, "/privacy/template", Access::Public, 5),
    (Method::GET, "/.well-known/gpc.json", Access::Public, 5),
    (Method::GET, "/metrics", Access::Public, 30),
    (Method::GET, "/healthz", Access::Public, 5),
    (Method::GET, "/readyz", Access::Public, 30),
    (Method::GET, "/openapi.json", Access::Public, 5),
    (Method::GET, "/", Access::Public, 5),
    (Method::GET, "/{page}", Access::Public, 5),
    (Method::GET, "/assets/{file}", Access::Public, 30),
];

/// A client that sends nothing of its body for so long is cut off.
const BODY_IDLE: Duration = Duration::from_secs(20);

/// Largest answer that is masked for a viewer: ten thousand records fit many times.
const MASKED_BYTES: usize = 128 * 1024 * 1024;

/// For the answer that there is nothing at a path.
const FALLBACK_LIMIT: Duration = Duration::from_secs(5);

/// Handlers and their documentation.
fn handlers() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(decisions::list, decisions::add, decisions::remove))
        .routes(routes!(check::check))
        .routes(routes!(import::import))
        .routes(routes!(stream::poll))
        .routes(routes!(published::export))
        .routes(routes!(published::stream))
        .routes(routes!(published::ask))
        .routes(routes!(feeds::list))
        .routes(routes!(feeds::show, feeds::put, feeds::remove))
        .routes(routes!(feeds::refresh))
        .routes(routes!(limits::list))
        .routes(routes!(limits::set, limits::set_mode, limits::remove))
        .routes(routes!(limits::reset))
        .routes(routes!(regions::list, regions::add, regions::set_mode, regions::remove))
        .routes(routes!(requests::search, requests::ship))
        .routes(routes!(requests::live))
        .routes(routes!(history::requests))
        .routes(routes!(history::suspects))
        .routes(routes!(stats::overview))
        .routes(routes!(stats::series))
        .routes(routes!(stats::tops))
        .routes(routes!(stats::map))
        .routes(routes!(geo::databases, geo::locate_all))
        .routes(routes!(geo::locate))
        .routes(routes!(detect::detect))
        .routes(routes!(suspects::list))
        .routes(routes!(suspects::show))
        .routes(routes!(suspects::confirm))
        .routes(routes!(suspects::dismiss))
        .routes(routes!(notify::list))
        .routes(routes!(notify::test))
        .routes(routes!(suspects::reopen))
        .routes(routes!(proxies::list))
        .routes(routes!(proxies::report_limits))
        .routes(routes!(proxies::consumption))
        .routes(routes!(people::retention))
        .routes(routes!(people::run))
        .routes(routes!(people::keys))
        .routes(routes!(people::rotate))
        .routes(routes!(people::destroy))
        .routes(routes!(people::reveal))
        .routes(routes!(people::export, people::erase))
        .routes(routes!(audit::list))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .routes(routes!(session::login, session::show, session::logout))
        .routes(routes!(status::status))
        .routes(routes!(privacy::show))
        .routes(routes!(privacy::json))
        .routes(routes!(privacy::opt_out, privacy::choose))
        .routes(routes!(privacy::style))
        .routes(routes!(privacy::template))
        .routes(routes!(privacy::gpc))
        .routes(routes!(meta::metrics))
        .routes(routes!(meta::healthz))
        .routes(routes!(meta::readyz))
        .routes(routes!(meta::openapi))
        .routes(routes!(assets::home))
        .routes(routes!(assets::page))
        .routes(routes!(assets::asset))
}

/// The API document, without its routes.
#[derive(OpenApi)]
#[openapi(
    info(title = "ipwarden", description = "The control plane's API. Errors are RFC 9457 problem documents."),
    security(("token" = [])),
    tags(
        (name = "decisions", description = "What to do with which addresses"),
        (name = "feeds", description = "Lists of others, and what we publish for others"),
        (name = "limits", description = "How many requests a client may make"),
        (name = "requests", description = "What happened"),
        (name = "suspects", description = "Whom detectors flagged, and why"),
        (name = "geo", description = "Where addresses are"),
        (name = "proxies", description = "For proxies, and about them"),
        (name = "privacy", description = "What visitors are told, what is kept of people, and what they may ask for"),
        (name = "operation", description = "The service itself"),
    ),
    modifiers(&BearerTokens)
)]
struct Document;

struct BearerTokens;

impl utoipa::Modify for BearerTokens {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

/// The API document as JSON.
///
/// # Errors
/// None in practice: the document is made of our own types.
pub fn openapi() -> Result<String, serde_json::Error> {
    let (_, mut document) = handlers().split_for_parts();
    for (method, path, access, _) in TABLE {
        if let Some(operation) = operation(&mut document, method, path) {
            operation.description = Some(match operation.description.take() {
                Some(text) => format!("{text}\n\nNeeds {}.", access.needs()),
                None => format!("Needs {}.", access.needs()),
            });
        }
    }
    document.to_pretty_json()
}

fn operation<'a>(
    document: &'a mut utoipa::openapi::OpenApi,
    method: &Method,
    path: &str,
) -> Option<&'a mut utoipa::openapi::path::Operation> {
    let item = document.paths.paths.get_mut(path)?;
    match *method {
        Method::GET => item.get.as_mut(),
        Method::POST => item.post.as_mut(),
        Method::PUT => item.put.as_mut(),
        Method::PATCH => item.patch.as_mut(),
        Method::DELETE => item.delete.as_mut(),
        _ => None,
    }
}

/// The service for requests.
pub fn router(app: Arc<App>) -> Router {
    let (router, _) = handlers().split_for_parts();
    router
        .fallback(meta::not_found)
        .layer(RequestBodyTimeoutLayer::new(BODY_IDLE))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), edge))
        .with_state(app)
}

/// What happens to every request: who is it, may they, in time, counted.
async fn edge(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let started = tokio::time::Instant::now();
    let row = row(&request);
    let method = request.method().clone();
    let mut response = match admit(&app, row, &mut request) {
        Ok(limit) => match tokio::time::timeout(limit, answered(&app, request, next)).await {
            Ok(response) => response,
            Err(_) => {
                Problem::busy(format!("took longer than {} s", limit.as_secs()), 5).into_response()
            }
        },
        Err(refusal) => *refusal,
    };
    for (name, value) in meta::SECURITY_HEADERS {
        response.headers_mut().entry(name).or_insert(value);
    }
    let route = row.map_or("none", |(_, path, _, _)| *path);
    let status = response.status().as_u16();
    app.metrics.answered(route, status);
    tracing::debug!(
        %method,
        route,
        status,
        ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "request"
    );
    response
}

/// The answer, as far as whoever asks may see it.
async fn answered(app: &App, request: Request, next: Next) -> Response {
    let role = request.extensions().get::<Identity>().map(|identity| identity.role);
    let response = next.run(request).await;
    if role.is_some_and(|role| app.masks(role)) { masked(response).await } else { response }
}

/// Masks every address in an answer. A stream is masked piece by piece: an event is one piece.
async fn masked(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let kind = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    if kind.is_some_and(|kind| kind.starts_with(b"text/event-stream")) {
        let pieces = body.into_data_stream().map(|piece| {
            piece.map(|bytes| match mask::text(&bytes) {
                Cow::Borrowed(_) => bytes,
                Cow::Owned(masked) => Bytes::from(masked),
            })
        });
        return Response::from_parts(parts, Body::from_stream(pieces));
    }
    match to_bytes(body, MASKED_BYTES).await {
        Ok(bytes) => {
            let masked = mask::text(&bytes).into_owned();
            Response::from_parts(parts, Body::from(masked))
        }
        Err(_) => {
            let detail = "the answer is too large to be masked: ask for less of it";
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).into_response()
        }
    }
}

/// The row that a request belongs to; none for unknown paths and methods.
fn row(request: &Request) -> Option<&'static Row> {
    let path = request.extensions().get::<MatchedPath>()?.as_str();
    let method = match *request.method() {
        // Axum answers HEAD with the handler of GET.
        Method::HEAD => &Method::GET,
        ref method => method,
    };
    TABLE.iter().find(|(row_method, row_path, _, _)| row_method == method && *row_path == path)
}

/// Lets a request through for a time, or says why not.
fn admit(app: &App, row: Option<&Row>, request: &mut Request) -> Result<Duration, Box<Response>> {
    let Some((_, _, access, seconds)) = row else {
        // A path without any handler goes on to the fallback. One with a handler but
        // without a row stops here, be it a wrong method or a mistake in this file.
        return match request.extensions().get::<MatchedPath>() {
            None => Ok(FALLBACK_LIMIT),
            Some(path) => Err(Box::new(wrong_method(path.as_str()))),
        };
    };
    let limit = Duration::from_secs(*seconds);
    if *access == Access::Public {
        return Ok(limit);
    }
    let identity = identify(app, *access, request).map_err(refusal)?;
    if !access.admits(identity.role) {
        let detail = format!(
            "a token of the role {} may not do this: it needs {}",
            identity.role.as_str(),
            access.needs()
        );
        return Err(refusal(Problem::new(StatusCode::FORBIDDEN, detail)));
    }
    request.extensions_mut().insert(identity);
    Ok(limit)
}

fn refusal(problem: Problem) -> Box<Response> {
    Box::new(problem.into_response())
}

fn wrong_method(path: &str) -> Response {
    let methods: Vec<&str> = TABLE
        .iter()
        .filter(|(_, row_path, _, _)| *row_path == path)
        .map(|(method, _, _, _)| method.as_str())
        .collect();
    let allow = methods.join(", ");
    let detail = format!("this path doesn't take this method: expected {allow}");
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).into_response();
    if let Ok(allow) = HeaderValue::from_str(&allow) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

fn identify(app: &App, access: Access, request: &Request) -> Result<Identity, Problem> {
    let unauthorized = |detail| Problem::new(StatusCode::UNAUTHORIZED, detail);
    let unknown = "the token is not known: it was revoked, or belongs to another service";
    // CrowdSec's bouncers know no other way.
    if access == Access::Decisions
        && let Some(key) = request.headers().get("x-api-key")
    {
        let secret = key.to_str().ok();
        return secret
            .and_then(|secret| app.auth.identify(secret.trim(), app.clock.now()))
            .ok_or_else(|| unauthorized(unknown));
    }
    let value = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let Some(value) = value else {
        let now = app.clock.now();
        let Some(session) = app.sessions.find(request.headers(), now) else {
            return Err(unauthorized("no token: send 'authorization: Bearer ipw_…'"));
        };
        if let Some(why) = foreign(request.method(), request.headers()) {
            return Err(Problem::new(StatusCode::FORBIDDEN, why));
        }
        let ended = "the session has ended: its token was revoked";
        return app.auth.identity_of(session.token, now).ok_or_else(|| unauthorized(ended));
    };
    let secret = std::str::from_utf8(value).ok().and_then(|value| {
        let (scheme, secret) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
    });
    secret
        .and_then(|secret| app.auth.identify(secret, app.clock.now()))
        .ok_or_else(|| unauthorized(unknown))
}
