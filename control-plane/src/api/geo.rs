//! `/v1/geo`: where addresses are.

use std::net::IpAddr;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use ipwarden::address::fold;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{AppState, Params, Problem, ProblemBody, fault, json};
use crate::app::App;
use crate::geo::{Databases, Located, NoData};

/// Most addresses in one request.
pub const MAX_ADDRESSES: usize = 1_000;
/// How long an answer may be kept: what is known of networks changes in months.
const KEEP_KNOWN: HeaderValue = HeaderValue::from_static("private, max-age=86400");
/// How long it may be kept that nothing is known: the next data may know.
const KEEP_UNKNOWN: HeaderValue = HeaderValue::from_static("private, max-age=3600");
/// When to ask again while there is no data at all.
const RETRY_SECONDS: u32 = 60;

impl From<NoData> for Problem {
    fn from(no_data: NoData) -> Self {
        Self::busy(no_data.to_string(), RETRY_SECONDS)
    }
}

/// Lists the databases: what they are, how old, what their licences ask for, and which files
/// can't be used.
#[utoipa::path(
    get, path = "/v1/geo", tag = "geo",
    responses((status = 200, body = Databases))
)]
pub(crate) async fn databases(
    State(app): AppState,
    params: Params,
) -> Result<Json<Databases>, Problem> {
    params.finish()?;
    Ok(Json(app.geo.databases(app.clock.now())))
}

/// Says where an address is. The answer holds for the whole of its `network` and may be kept
/// for as long as `cache-control` says. Fields that are not known are left out.
#[utoipa::path(
    get, path = "/v1/geo/{ip}", tag = "geo",
    params(("ip" = String, Path, description = "the address")),
    responses(
        (status = 200, body = Located),
        (status = 400, body = ProblemBody),
        (status = 503, body = ProblemBody, description = "there is no data: see retry-after"),
    )
)]
pub(crate) async fn locate(
    State(app): AppState,
    Path(text): Path<String>,
    params: Params,
) -> Result<impl IntoResponse + use<>, Problem> {
    params.finish()?;
    let ip = parse(&text).ok_or_else(|| Problem::parameters(vec![fault("ip", EXPECTED)]))?;
    let located = look_up(&app, ip)?;
    let keep =
        if located.reserved || !located.place.is_empty() { KEEP_KNOWN } else { KEEP_UNKNOWN };
    Ok(([(header::CACHE_CONTROL, keep)], Json(located)))
}

/// Addresses to look up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// At most 1000.
    pub ips: Vec<String>,
}

/// Where addresses are.
#[derive(Debug, Serialize, ToSchema)]
pub struct AllLocated {
    /// In the order asked.
    pub results: Vec<Located>,
}

/// Says where up to 1000 addresses are.
#[utoipa::path(
    post, path = "/v1/geo", tag = "geo",
    request_body = Addresses,
    responses(
        (status = 200, body = AllLocated),
        (status = 400, body = ProblemBody),
        (status = 413, body = ProblemBody),
        (status = 422, body = ProblemBody, description = "some are no addresses"),
        (status = 503, body = ProblemBody, description = "there is no data: see retry-after"),
    )
)]
pub(crate) async fn locate_all(
    State(app): AppState,
    params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<AllLocated>, Problem> {
    params.finish()?;
    let Addresses { ips } = json(&headers, body).await?;
    if ips.len() > MAX_ADDRESSES {
        let detail = format!("{} addresses: at most {MAX_ADDRESSES} at once", ips.len());
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
    }
    let mut faults = Vec::new();
    let mut parsed = Vec::with_capacity(ips.len());
    for (n, text) in ips.iter().enumerate() {
        match parse(text) {
            Some(ip) => parsed.push(ip),
            None => faults.push(fault(format!("ips[{n}]"), EXPECTED)),
        }
    }
    if !faults.is_empty() {
        let detail = "nothing was looked up: the request has errors";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with(faults));
    }
    let results = parsed.into_iter().map(|ip| look_up(&app, ip)).collect::<Result<_, _>>()?;
    Ok(Json(AllLocated { results }))
}

/// What was found is not repeated: it may be an address with something before or after it.
const EXPECTED: &str = "expected an IP address such as 192.0.2.7 or 2001:db8::1";

fn parse(text: &str) -> Option<IpAddr> {
    text.trim().parse().ok().map(fold)
}

fn look_up(app: &App, ip: IpAddr) -> Result<Located, NoData> {
    let located = app.geo.locate(ip);
    app.metrics.geo_lookup(match &located {
        Err(NoData) => "no_data",
        Ok(located) if located.reserved => "reserved",
        Ok(located) if located.place.is_empty() => "unknown",
        Ok(_) => "found",
    });
    located
}
