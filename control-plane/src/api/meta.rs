//! What needs no token: health, metrics, the API document, the front page.

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use jiff::{SignedDuration, Timestamp};

use super::status::{live_decisions, log_bytes, open_suspects, state_bytes};
use super::{AppState, Problem, ProblemBody};
use crate::app::App;
use crate::fleet::{self, IMPORT_PREFIX};
use crate::notify::Backlog;
use crate::{metrics, store};

/// The process runs and answers.
#[utoipa::path(
    get, path = "/healthz", tag = "operation", security(()),
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// The stores answer. A shared state store that does not is said, but is no reason to take this
/// control plane out of service: the decision stream and records go on without it.
#[utoipa::path(
    get, path = "/readyz", tag = "operation", security(()),
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = 503, body = ProblemBody),
    )
)]
pub(crate) async fn readyz(State(app): AppState) -> Result<&'static str, Problem> {
    let not_ready = |store: &str, error| {
        Problem::busy(format!("the {store} store doesn't answer"), 1).because(error)
    };
    let state = app.state.revision().await;
    // An address that no client has: the answer is found in the index alone.
    let nobody = std::net::Ipv4Addr::UNSPECIFIED.into();
    let records_wait = match app.log.holds(nobody).await {
        Ok(_) => false,
        // Batches are taken all the same: they wait in the spool.
        Err(_) if app.log.spooled().is_some() => true,
        Err(error) => return Err(not_ready("log", error)),
    };
    match (state, records_wait) {
        (Ok(_), false) if app.fleet_limits.problem().is_some() => {
            Ok("ready, limits over the fleet are not counted: each proxy counts for itself\n")
        }
        (Ok(_), false) => Ok("ready\n"),
        (Ok(_), true) => Ok("ready, records wait: the log store can't be reached\n"),
        (Err(_), false) if app.state.shared().is_some() => {
            Ok("ready, read-only: the state store can't be reached\n")
        }
        (Err(_), true) if app.state.shared().is_some() => {
            Ok("ready, read-only, records wait: neither store can be reached\n")
        }
        (Err(error), _) => Err(not_ready("state", error)),
    }
}

/// Counters and gauges for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "operation", security(()),
    responses((status = 200, body = String, content_type = "application/openmetrics-text"))
)]
pub(crate) async fn metrics(State(app): AppState) -> Result<impl IntoResponse + use<>, Problem> {
    let read = &app.metrics.now;
    let now = app.clock.now();
    let revision = app.hub.revision();
    let logged = read_log(&app, now).await;
    read.log_up.set(u64::from(logged.is_ok()));
    read.fleet_up.set(u64::from(app.fleet_limits.problem().is_none()));
    let spooled = app.log.spooled();
    match logged {
        Ok(()) => {}
        // The last readings stay, and `log_store_up` says what they are worth.
        Err(_) if spooled.is_some() => {}
        Err(error) => return Err(error.into()),
    }
    let spooled = spooled.unwrap_or_default();
    read.spool_batches.set(spooled.batches);
    read.spool_bytes.set(spooled.bytes);
    read.spool_refused.set(spooled.refused);
    read.log_parts_to_change.set(app.log.parts_to_change());
    read.revision.set(revision.number);
    match read_state(&app).await {
        Ok(()) => {}
        // The last readings stay, and `state_store_up` says what they are worth.
        Err(_) if app.state.shared().is_some() => {}
        Err(error) => return Err(error.into()),
    }
    read.state_up.set(u64::from(app.state.problem().is_none()));
    read.leads.set(u64::from(app.state.leadership().leads()));
    read.braked.set(u64::from(app.suspects.brake(app.clock.now()).is_some()));
    read.polls_waiting.set(app.hub.waiting() as u64);
    read.live_subscribers.set(app.live.subscribers() as u64);
    app.metrics.read_geo(&app.geo.databases(now));
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], app.metrics.text()))
}

/// Reads the gauges that the log store knows.
async fn read_log(app: &App, now: Timestamp) -> store::Result<()> {
    let read = &app.metrics.now;
    let connected = SignedDuration::try_from(fleet::CONNECTED_FOR).unwrap_or(SignedDuration::MAX);
    let proxies = app.fleet.view(app.log.streams().await?, app.hub.revision(), now);
    // What was imported is no proxy that could fall silent.
    let present = proxies.iter().filter(|proxy| {
        !proxy.name.starts_with(IMPORT_PREFIX) && now.duration_since(proxy.last_seen) < connected
    });
    read.proxies.set(present.count() as u64);
    read.records_lost
        .set(proxies.iter().fold(0, |sum, proxy| sum.saturating_add(proxy.requests_lost)));
    read.log_bytes.set(log_bytes(app).await?);
    Ok(())
}

/// Reads the gauges that the state store knows.
async fn read_state(app: &App) -> store::Result<()> {
    let read = &app.metrics.now;
    read.decisions.set(live_decisions(app).await?);
    read.suspects_open.set(open_suspects(app).await?);
    let backlogs = app.state.backlog().await?;
    let sum = |of: fn(&Backlog) -> u64| backlogs.iter().map(of).fold(0, u64::saturating_add);
    read.notifications_waiting.set(sum(|backlog| backlog.waiting));
    read.notifications_dropped.set(sum(|backlog| backlog.dropped));
    read.state_bytes.set(state_bytes(app).await?);
    Ok(())
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "operation", security(()),
    responses((status = 200, content_type = "application/json"))
)]
pub(crate) async fn openapi(State(app): AppState) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json")], app.openapi.clone())
}

/// A path that is not in the table.
pub(crate) async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path: see /openapi.json")
}

/// On every response: no page of ours runs scripts, is framed, or tells others where a
/// reader came from; nothing is guessed about content, nothing is cached.
pub(crate) const SECURITY_HEADERS: [(HeaderName, HeaderValue); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
    ),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
];
