//! `GET /v1/proxies`: the fleet.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{AppState, Params, Problem};
use crate::model::Proxy;

/// Every proxy.
#[derive(Debug, Serialize, ToSchema)]
pub struct Proxies {
    /// Number of the present decision set.
    pub revision: u64,
    /// By name.
    pub proxies: Vec<Proxy>,
}

/// Lists the proxies: what they have applied, what they lost, when they were last heard of.
#[utoipa::path(
    get, path = "/v1/proxies", tag = "proxies",
    responses((status = 200, body = Proxies))
)]
pub(crate) async fn list(State(app): AppState, params: Params) -> Result<Json<Proxies>, Problem> {
    params.finish()?;
    let streams = app.log.streams().await?;
    let present = app.hub.revision();
    let proxies = app.fleet.view(streams, present, app.clock.now());
    Ok(Json(Proxies { revision: present.number, proxies }))
}
