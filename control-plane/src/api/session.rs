//! `/v1/session`: logging in to the dashboard.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppState, Params, Problem, ProblemBody, json};
use crate::auth::Identity;
use crate::model::Role;
use crate::session::{Peer, foreign, is_secure, set_cookie};
use crate::store::NewAudit;

/// Longest token that is looked at, in bytes.
const MAX_TOKEN_BYTES: usize = 256;

/// Who is logged in.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionView {
    /// Name of the token.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Whether addresses are shown as their networks.
    pub addresses_masked: bool,
    /// When the session ends; absent for a request with a token.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Version of the service.
    pub version: &'static str,
}

/// A token to log in with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The secret of a token of the role viewer or admin.
    #[schema(example = "ipw_…")]
    token: String,
}

/// Logs in: a token is exchanged for a cookie that scripts can't read.
#[utoipa::path(
    post, path = "/v1/session", tag = "operation", security(()), request_body = LoginRequest,
    responses(
        (status = 200, body = SessionView, description = "with set-cookie"),
        (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody, description = "a proxy's token, or another site's page"),
        (status = 429, body = ProblemBody, description = "too many failed logins"),
    )
)]
pub(crate) async fn login(
    State(app): AppState,
    peer: Option<Extension<Peer>>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    params.finish()?;
    if let Some(why) = foreign(&Method::POST, &headers) {
        return Err(Problem::new(StatusCode::FORBIDDEN, why));
    }
    let now = app.clock.now();
    let source = peer.map(|Extension(Peer(ip))| ip);
    if let Err(seconds) = app.sessions.may_try(source, now) {
        let detail = "too many failed logins from your address: wait before the next";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).after(seconds));
    }
    let request: LoginRequest = json(&headers, body).await?;
    let secret = request.token.trim();
    let identity = app.auth.identify(secret, now).filter(|_| secret.len() <= MAX_TOKEN_BYTES);
    let token = identity.as_ref().and_then(|_| app.auth.token_of(secret));
    let (Some(identity), Some(token)) = (identity, token) else {
        app.sessions.failed(source, now);
        let detail = "the token is not known: it was revoked, or belongs to another service";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, detail));
    };
    if matches!(identity.role, Role::Proxy | Role::Bouncer) {
        let detail = "a token of this role opens no dashboard: use one of the role viewer or admin";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    let (secret, expires_at) = app.sessions.open(token, now)?;
    let audit = NewAudit {
        actor: identity.name.clone(),
        action: "session.open",
        subject: identity.name.clone(),
        detail: format!("role {}", identity.role.as_str()),
    };
    app.state.audit(audit, now).await?;
    let view = view(&app, identity, Some(expires_at));
    Ok(with_cookie(Json(view).into_response(), Some(&secret), &headers))
}

/// Who asks.
#[utoipa::path(
    get, path = "/v1/session", tag = "operation",
    responses((status = 200, body = SessionView))
)]
pub(crate) async fn show(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    params: Params,
    headers: HeaderMap,
) -> Result<Json<SessionView>, Problem> {
    params.finish()?;
    let session = app.sessions.find(&headers, app.clock.now());
    Ok(Json(view(&app, identity, session.map(|session| session.expires_at))))
}

/// Logs out: the cookie is worth nothing from now on.
#[utoipa::path(
    delete, path = "/v1/session", tag = "operation",
    responses((status = 204, description = "logged out"))
)]
pub(crate) async fn logout(
    State(app): AppState,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.finish()?;
    app.sessions.close(&headers);
    Ok(with_cookie(StatusCode::NO_CONTENT.into_response(), None, &headers))
}

fn view(app: &crate::app::App, identity: Identity, expires_at: Option<Timestamp>) -> SessionView {
    SessionView {
        addresses_masked: app.masks(identity.role),
        name: identity.name,
        role: identity.role,
        expires_at,
        version: ipwarden::VERSION,
    }
}

fn with_cookie(mut response: Response, secret: Option<&str>, headers: &HeaderMap) -> Response {
    if let Some(cookie) = set_cookie(secret, is_secure(headers)) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}
