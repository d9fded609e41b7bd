//! The service's parts, put together once and injected everywhere.

use std::sync::Arc;

use jiff::Timestamp;

use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::Config;
use crate::detect::feed::InForce;
use crate::detect::pass::run::Pass;
use crate::feeds::Feeds;
use crate::feeds::bouncers::Bouncers;
use crate::fleet::Fleet;
use crate::geo::Geo;
use crate::hub::Hub;
use crate::ingest::Ingest;
use crate::limits::fleet::FleetLimits;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::model::Role;
use crate::notify::Notifier;
use crate::privacy::keys::Keys;
use crate::privacy::retention::Retention;
use crate::privacy::subjects::Subjects;
use crate::session::Sessions;
use crate::store::{LogStore, StateStore, StoreError};
use crate::suspects::judge::Suspects;
use crate::transparency::editions::Editions;

/// Everything that a request handler may need.
pub struct App {
    /// The checked configuration.
    pub config: Config,
    /// The time.
    pub clock: Clock,
    /// When the service started.
    pub started_at: Timestamp,
    /// Decisions, tokens, audit. Decisions are changed through [`App::hub`] only.
    pub state: Arc<dyn StateStore>,
    /// Records. They are added through [`App::ingest`] only.
    pub log: Arc<dyn LogStore>,
    /// Tokens.
    pub auth: Auth,
    /// Logins of the dashboard.
    pub sessions: Sessions,
    /// Who looked at addresses through statistics, so that each hour is noted once.
    pub looks: crate::api::stats::Looks,
    /// The decision stream.
    pub hub: Hub,
    /// The way in for batches.
    pub ingest: Ingest,
    /// The live stream of records.
    pub live: Live,
    /// Where addresses are.
    pub geo: Geo,
    /// Whom detectors flagged. They are changed through this only.
    pub suspects: Suspects,
    /// The hourly pass.
    pub pass: Pass,
    /// The detectors' rules in force.
    pub rules: InForce,
    /// Who is told of suspects and blocks.
    pub notifier: Notifier,
    /// Keys of pseudonyms.
    pub keys: Keys,
    /// The hourly run that hides and deletes.
    pub retention: Retention,
    /// What is held on an address.
    pub subjects: Subjects,
    /// Lists that are fetched from elsewhere.
    pub feeds: Feeds,
    /// What is refused, for other programs.
    pub bouncers: Bouncers,
    /// Who follows the decision stream.
    pub fleet: Fleet,
    /// Limits that count over all proxies.
    pub fleet_limits: FleetLimits,
    /// Since when the text for visitors says what it says.
    pub editions: Editions,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How many imports of decisions may be worked on at once: each holds up to
    /// `limits.import_bytes` and more.
    pub imports: tokio::sync::Semaphore,
    /// The API document, generated from the code.
    pub openapi: String,
}

impl App {
    /// Whether a role sees the networks of addresses only.
    #[must_use]
    pub fn masks(&self, role: Role) -> bool {
        role == Role::Viewer && !self.config.dashboard.viewers_see_addresses
    }
}

/// Runs to its end even if the caller goes away: for changes that are made in two places,
/// the store first and memory after it.
///
/// # Errors
/// Those of `work`; [`StoreError::Internal`] when it panicked.
pub async fn uncancelled<T, E, F>(work: F) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::from(error).into()),
    }
}
