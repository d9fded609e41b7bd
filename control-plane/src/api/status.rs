//! `GET /v1/status`: the service about itself.

use std::path::Path;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{AppState, Params, Problem};
use crate::app::App;
use crate::geo::Databases;
use crate::store::{self, DecisionFilter, StoreError};
use crate::suspects::{Status as SuspectStatus, SuspectFilter};

/// Name of the state store's file in the data directory.
pub const STATE_FILE: &str = "state.db";
/// Name of the log store's file in the data directory.
pub const LOG_FILE: &str = "log.db";

/// The service about itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// Its version.
    pub version: &'static str,
    /// When it started.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// Its clock.
    #[schema(value_type = String, format = DateTime)]
    pub now: Timestamp,
    /// Random number of the state store's life.
    pub epoch: u64,
    /// Number of the decision set.
    pub revision: u64,
    /// Live decisions.
    pub decisions: u64,
    /// Where it keeps its data.
    pub data_dir: String,
    /// Where the state is: `sqlite`, or the URL of a database without secrets.
    pub state_store: String,
    /// Whether this control plane does what of several one does: always when it is alone.
    pub leads: bool,
    /// Why a shared state store can't be asked at the moment: changes are refused, and what is said
    /// here of decisions and suspects is 0.
    pub state_problem: Option<String>,
    /// Size of the state store's files or tables.
    pub state_bytes: u64,
    /// Where records are: `sqlite`, or the URL of a server without secrets.
    pub log_store: String,
    /// Why the log store can't be asked at the moment: batches wait in the spool, and what is
    /// said of records here is 0.
    pub log_problem: Option<String>,
    /// Where limits over the fleet are counted: `memory`, or the URL of a server without secrets.
    pub fleet_store: String,
    /// Why they are not at the moment: each proxy counts for itself.
    pub fleet_problem: Option<String>,
    /// Batches that wait in the spool.
    pub spool_batches: u64,
    /// Bytes of the spool's files.
    pub spool_bytes: u64,
    /// Size of the log store's files or tables.
    pub log_bytes: u64,
    /// Free on the data directory's disk; absent when the system doesn't say.
    pub disk_free_bytes: Option<u64>,
    /// Size of that disk.
    pub disk_total_bytes: Option<u64>,
    /// Requests that the stored records stand for.
    pub records_stored: u64,
    /// Batches that wait for the store.
    pub ingest_queue: usize,
    /// Polls that wait for a change.
    pub polls_waiting: usize,
    /// Suspects that nobody has judged.
    pub suspects_open: u64,
    /// Blocks that the brake withheld since it began to act; absent when it did not act in
    /// the last hour.
    pub blocks_withheld: Option<u64>,
    /// Detection rules in force.
    pub rules: usize,
    /// Why the rule file as it is now can't be used; the rules before it stay in force.
    pub rules_problem: Option<String>,
    /// Why the last run of retention did not end; absent when it did, or none was made yet.
    pub retention_error: Option<String>,
    /// Records that the last run deleted before their time, because the log was beyond its cap.
    pub retention_capped: u64,
    /// Geolocation data.
    pub geo: Databases,
    /// Envoy's admin interface, where configured.
    pub envoy_admin: Option<String>,
}

/// The service about itself.
#[utoipa::path(
    get, path = "/v1/status", tag = "operation",
    responses((status = 200, body = Status))
)]
pub(crate) async fn status(State(app): AppState, params: Params) -> Result<Json<Status>, Problem> {
    params.finish()?;
    let revision = app.hub.revision();
    let directory = &app.config.data_dir;
    // Weights, kept by stream: counting the records themselves would read all of them.
    let stored = async {
        let streams = app.log.streams().await?;
        let stored = streams.iter().fold(0u64, |sum, s| sum.saturating_add(s.stored));
        Ok::<_, StoreError>((stored, log_bytes(&app).await?))
    };
    let spooled = app.log.spooled();
    let ((stored, log_bytes), log_problem) = match stored.await {
        Ok(read) => (read, None),
        Err(StoreError::Unavailable(why)) if spooled.is_some() => ((0, 0), Some(why)),
        Err(error) => return Err(error.into()),
    };
    let spooled = spooled.unwrap_or_default();
    let state = async {
        let decisions = live_decisions(&app).await?;
        Ok::<_, StoreError>((decisions, open_suspects(&app).await?, state_bytes(&app).await?))
    };
    let shared = app.state.shared();
    let ((decisions, suspects_open, state_bytes), state_problem) = match state.await {
        Ok(read) => (read, None),
        Err(StoreError::Unavailable(why)) if shared.is_some() => ((0, 0, 0), Some(why)),
        Err(error) => return Err(error.into()),
    };
    let retention = app.retention.status().last;
    let disk = rustix::fs::statvfs(directory).ok();
    let bytes = |blocks: u64, size: u64| blocks.saturating_mul(size);
    Ok(Json(Status {
        version: ipwarden::VERSION,
        started_at: app.started_at,
        now: app.clock.now(),
        epoch: revision.epoch,
        revision: revision.number,
        decisions,
        data_dir: std::fs::canonicalize(directory)
            .unwrap_or_else(|_| directory.clone())
            .display()
            .to_string(),
        state_store: shared.map_or_else(|| "sqlite".to_owned(), |at| at.location),
        leads: app.state.leadership().leads(),
        state_problem,
        state_bytes,
        log_store: app.log.location(),
        log_problem,
        fleet_store: app.fleet_limits.location(),
        fleet_problem: app.fleet_limits.problem().map(|problem| problem.to_string()),
        spool_batches: spooled.batches,
        spool_bytes: spooled.bytes,
        log_bytes,
        disk_free_bytes: disk.as_ref().map(|disk| bytes(disk.f_bavail, disk.f_frsize)),
        disk_total_bytes: disk.as_ref().map(|disk| bytes(disk.f_blocks, disk.f_frsize)),
        records_stored: stored,
        ingest_queue: app.ingest.queued(),
        polls_waiting: app.hub.waiting(),
        suspects_open,
        rules: app.rules.rules().list().len(),
        rules_problem: app.rules.problem(),
        blocks_withheld: app.suspects.brake(app.clock.now()).map(|brake| brake.withheld),
        retention_error: retention.as_ref().and_then(|run| run.error.clone()),
        retention_capped: retention.as_ref().map_or(0, |run| run.capped),
        geo: app.geo.databases(app.clock.now()),
        envoy_admin: app.config.envoy_admin.clone(),
    }))
}

/// How many decisions are live.
pub(crate) async fn live_decisions(app: &App) -> store::Result<u64> {
    let filter = DecisionFilter { limit: 1, ..DecisionFilter::default() };
    let (_, total) = app.state.decisions(filter, app.clock.now()).await?;
    Ok(total)
}

/// How many suspects nobody has judged.
pub(crate) async fn open_suspects(app: &App) -> store::Result<u64> {
    let filter =
        SuspectFilter { status: Some(SuspectStatus::Open), limit: 1, ..SuspectFilter::default() };
    let (_, total) = app.state.suspects(filter).await?;
    Ok(total)
}

/// Size of the state store.
pub(crate) async fn state_bytes(app: &App) -> store::Result<u64> {
    let told = app.state.bytes().await?;
    Ok(told.unwrap_or_else(|| store_bytes(&app.config.data_dir, STATE_FILE)))
}

/// Size of the log store.
pub(crate) async fn log_bytes(app: &App) -> store::Result<u64> {
    let told = app.log.bytes().await?;
    Ok(told.unwrap_or_else(|| store_bytes(&app.config.data_dir, LOG_FILE)))
}

/// Size of a store's file and of what SQLite keeps beside it.
pub(crate) fn store_bytes(directory: &Path, file: &str) -> u64 {
    ["", "-wal", "-shm"]
        .iter()
        .filter_map(|suffix| std::fs::metadata(directory.join(format!("{file}{suffix}"))).ok())
        .map(|metadata| metadata.len())
        .sum()
}
