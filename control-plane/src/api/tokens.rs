//! `/v1/tokens`: who may talk to the service.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppState, Params, Problem, ProblemBody, fault, json};
use crate::app::uncancelled;
use crate::auth::{AuthError, Identity};
use crate::model::{Role, Token};

/// Longest name of a token in bytes.
pub const MAX_NAME_BYTES: usize = 64;

/// All live tokens.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tokens {
    /// By number.
    pub tokens: Vec<Token>,
}

/// Lists live tokens, without their secrets.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "operation",
    responses((status = 200, body = Tokens))
)]
pub(crate) async fn list(State(app): AppState, params: Params) -> Result<Json<Tokens>, Problem> {
    params.finish()?;
    // Uses are noted once a minute; whoever looks wants to know now.
    app.auth.note_use().await?;
    let mut tokens: Vec<Token> =
        app.state.tokens().await?.into_iter().map(|(token, _)| token).collect();
    tokens.sort_by_key(|token| token.id);
    Ok(Json(Tokens { tokens }))
}

/// What to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    /// Letters, digits, `-`, `_` and `.`; at most 64.
    #[schema(example = "edge-eu")]
    name: String,
    /// What it may do.
    role: Role,
}

/// A new token.
#[derive(Debug, Serialize, ToSchema)]
pub struct Created {
    /// The token.
    pub token: Token,
    /// Its secret, shown this once.
    pub secret: String,
}

/// Makes a token. Its secret is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "operation", request_body = CreateRequest,
    responses(
        (status = 201, body = Created),
        (status = 400, body = ProblemBody),
        (status = 409, body = ProblemBody, description = "a live token has that name"),
        (status = 422, body = ProblemBody),
    )
)]
pub(crate) async fn create(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Created>), Problem> {
    params.finish()?;
    let request: CreateRequest = json(&headers, body).await?;
    if !is_name(&request.name) {
        let message = format!("expected 1 to {MAX_NAME_BYTES} letters, digits, '-', '_' or '.'");
        return Err(Problem::unacceptable(vec![fault("name", message)]));
    }
    let name = request.name.clone();
    let created = uncancelled(async move {
        app.auth.create(&name, request.role, &identity.name, app.clock.now()).await
    });
    let Some((token, secret)) = created.await? else {
        let detail =
            format!("a token named {} exists: revoke it or take another name", request.name);
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    Ok((StatusCode::CREATED, Json(Created { token, secret: secret.expose().to_owned() })))
}

/// Revokes a token: it is refused from now on.
#[utoipa::path(
    delete, path = "/v1/tokens/{name}", tag = "operation",
    params(("name" = String, Path, description = "name of the token")),
    responses((status = 204), (status = 404, body = ProblemBody))
)]
pub(crate) async fn revoke(
    State(app): AppState,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    params: Params,
) -> Result<StatusCode, Problem> {
    params.finish()?;
    let revoked =
        uncancelled(async move { app.auth.revoke(&name, &identity.name, app.clock.now()).await });
    if revoked.await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::new(StatusCode::NOT_FOUND, "no live token has that name"))
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Store(error) => error.into(),
            AuthError::File { .. } | AuthError::NotAToken { .. } | AuthError::Random(_) => {
                Self::internal(error)
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
