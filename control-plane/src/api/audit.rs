//! `GET /v1/audit`: who did what.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{AppState, Params, Problem, ProblemBody};
use crate::model::AuditEntry;

/// A page of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditPage {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    /// Give this as `before` for the next page; absent on the last.
    pub next: Option<i64>,
}

/// Reads the audit log, newest first.
#[utoipa::path(
    get, path = "/v1/audit", tag = "operation",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000, 100 if absent"),
        ("before" = Option<i64>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, body = AuditPage), (status = 400, body = ProblemBody))
)]
pub(crate) async fn list(
    State(app): AppState,
    mut params: Params,
) -> Result<Json<AuditPage>, Problem> {
    let limit = params.page();
    let before = params.before();
    params.finish()?;
    let mut entries = app.state.audit_log(before, limit + 1).await?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().map(|entry| entry.id).filter(|_| more);
    Ok(Json(AuditPage { entries, next }))
}
