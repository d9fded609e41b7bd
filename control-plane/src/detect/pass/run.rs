//! When the pass runs, once for each hour, and where its flags go.
//!
//! An hour is noted as done in the transaction that notes its flags: a pass that dies leaves
//! nothing, and the next one does all of it.

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;

use super::Settings;
use super::rules::{self, Position};
use crate::clock::Clock;
use crate::detect::Flag;
use crate::detect::feed::InForce;
use crate::detect::names::Names;
use crate::detect::policy::Response;
use crate::geo::{Geo, Places};
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::privacy::keys::Keys;
use crate::store::{self, HourRollups, LogStore, PassDone, StateStore, StoreError};
use crate::suspects::judge::{Suspects, sighting};

/// Records of an hour are waited for so long after its end.
const GRACE: Duration = Duration::from_secs(90);
/// How often it is looked whether an hour is over.
const LOOK: Duration = Duration::from_secs(10);
/// Hours that are caught up with after a long silence.
const CATCH_UP: i64 = 24;

/// The pass. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Pass(Arc<Inner>);

struct Inner {
    state: Arc<dyn StateStore>,
    log: Arc<dyn LogStore>,
    geo: Geo,
    suspects: Suspects,
    rules: InForce,
    clock: Clock,
    metrics: Arc<Metrics>,
    keys: Keys,
    settings: Settings,
    policy: crate::detect::policy::Policy,
    names: Option<Names>,
    /// One at a time.
    turn: tokio::sync::Mutex<()>,
}

/// What a pass did.
#[derive(Debug, Clone, PartialEq)]
pub struct Passed {
    /// Unix time / 3600.
    pub hour: i64,
    /// Whether the hour was over; one that is not will be passed over again.
    pub complete: bool,
    /// Whether it had been done before: nothing was done now, and no flags are told.
    pub already: bool,
    /// Addresses that made requests.
    pub addresses: u64,
    /// Requests.
    pub requests: u64,
    /// What was found.
    pub flags: Vec<Flag>,
}

impl Pass {
    /// Puts its parts together.
    #[expect(clippy::too_many_arguments, reason = "all that it needs, once")]
    #[must_use]
    pub fn new(
        state: Arc<dyn StateStore>,
        log: Arc<dyn LogStore>,
        geo: Geo,
        suspects: Suspects,
        rules: InForce,
        clock: Clock,
        metrics: Arc<Metrics>,
        keys: Keys,
        names: Option<Names>,
        detect: &crate::config::Detect,
    ) -> Self {
        Self(Arc::new(Inner {
            state,
            log,
            geo,
            suspects,
            rules,
            clock,
            metrics,
            keys,
            settings: detect.pass.clone(),
            policy: detect.policy.clone(),
            names,
            turn: tokio::sync::Mutex::default(),
        }))
    }

    /// Passes over each hour when it is over, those missed while nothing ran first, until the
    /// service stops.
    pub async fn keep(self, hub: Hub) {
        // Of a log that all control planes have one does it for all; each does its own.
        let shared = self.0.log.is_shared();
        let leadership = self.0.state.leadership();
        loop {
            if (!shared || leadership.leads())
                && let Err(error) = self.catch_up().await
            {
                tracing::warn!("the hourly pass could not be made, it is tried again: {error}");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = hub.stopping() => return,
            }
        }
    }

    /// Passes over every hour that is over and was not passed over.
    ///
    /// # Errors
    /// Those of the stores; hours before the one that failed are done.
    pub async fn catch_up(&self) -> store::Result<()> {
        let last = last_complete(self.0.clock.now());
        let first = match self.0.state.last_pass().await? {
            // Nothing is known of what was before the first start.
            None => last,
            Some(done) => (done.hour + 1).max(last - CATCH_UP + 1),
        };
        for hour in first..=last {
            let passed = self.run(hour, false).await?;
            if passed.requests > 0 && !passed.already {
                tracing::info!(
                    hour = %hour_start(hour),
                    addresses = passed.addresses,
                    requests = passed.requests,
                    flags = passed.flags.len(),
                    "hourly pass done"
                );
            }
        }
        Ok(())
    }

    /// Passes over one hour. A dry run finds the same and notes nothing, also for an hour that
    /// is done. An hour that is not over is noted, but not as done.
    ///
    /// # Errors
    /// Those of the stores; nothing was noted.
    pub async fn run(&self, hour: i64, dry: bool) -> store::Result<Passed> {
        let inner = &self.0;
        let _turn = inner.turn.lock().await;
        let now = inner.clock.now();
        let complete = hour <= last_complete(now);
        if !dry && let Some(done) = inner.state.pass(hour).await? {
            return Ok(Passed {
                hour,
                complete: true,
                already: true,
                addresses: done.addresses,
                requests: done.requests,
                flags: Vec::new(),
            });
        }
        let started = tokio::time::Instant::now();
        let _running = Running::new(&inner.metrics);
        let settings = inner.settings.clone();
        let least = settings.forest_requests.min(settings.hourly_requests.saturating_add(1));
        let rollups = inner.log.rollups(hour, least).await?;
        let targets = rules::compared_targets(&rollups, &settings);
        let names = targets.iter().map(|target| inner.keys.names_of(target.addr())).collect();
        let past = inner.log.past_hours(rules::compared_hours(hour), names).await?;
        let (addresses, requests) = (rollups.addresses, rollups.requests);
        let geo = inner.geo.current();
        // A second of work must not keep others waiting.
        let found = tokio::task::spawn_blocking(move || {
            let locate = |target: IpNet| {
                let place = geo.locate(target.addr()).place;
                let name = place.city.or_else(|| place.country.map(|code| code.to_string()));
                Some(Position {
                    latitude: place.latitude?,
                    longitude: place.longitude?,
                    name: name.unwrap_or_else(|| "an unnamed place".to_owned()),
                })
            };
            let mut flags = rules::flags(hour, &rollups, &targets, &past, &settings, &locate);
            // Those that are not as they came, each kind apart: none has a past or a place here.
            for (veil, list) in rollups.veiled {
                let (addresses, requests) = (rollups.addresses, rollups.requests);
                let rollups =
                    HourRollups { addresses, requests, rollups: list, ..HourRollups::default() };
                let found = rules::flags(hour, &rollups, &[], &[], &settings, &|_| None);
                flags.extend(found.into_iter().map(|flag| Flag { veil, ..flag }));
            }
            flags
        });
        let mut flags = found
            .await
            .map_err(|error| StoreError::Internal(format!("the pass ended early: {error}")))?;
        // As the streaming detectors: crawlers that are known by their networks are spared.
        let known = inner.rules.rules();
        flags.retain(|flag| {
            inner.policy.response(flag.severity) != Response::None
                && !known.knows(flag.target.addr())
        });
        if let Some(names) = &inner.names {
            names.spare(&mut flags).await;
        }
        if !dry {
            self.note(hour, complete, (addresses, requests), &flags, now).await?;
            inner.metrics.pass_seconds.observe(started.elapsed().as_secs_f64());
        }
        Ok(Passed { hour, complete, already: false, addresses, requests, flags })
    }

    async fn note(
        &self,
        hour: i64,
        complete: bool,
        (addresses, requests): (u64, u64),
        flags: &[Flag],
        now: Timestamp,
    ) -> store::Result<()> {
        let inner = &self.0;
        let mut places = Places::new(inner.geo.clone());
        let sightings =
            flags.iter().map(|flag| sighting(flag.clone(), &mut places)).collect::<Vec<_>>();
        let count = sightings.len();
        let noted = if complete {
            let flagged = count as u64;
            let done = PassDone { hour, finished_at: now, addresses, requests, flagged };
            inner.state.finish_pass(done, sightings, now).await?
        } else {
            Some(inner.state.note_flags(sightings, now).await?)
        };
        if let Some(noted) = noted {
            inner.metrics.noted(count, &noted);
        }
        inner.suspects.look();
        Ok(())
    }
}

/// Says in the metrics that the pass is under way, until it is dropped.
struct Running<'a>(&'a Metrics);

impl<'a> Running<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.pass_running.set(1);
        Self(metrics)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.pass_running.set(0);
    }
}

/// The last hour that is over, its late records included.
#[must_use]
pub fn last_complete(now: Timestamp) -> i64 {
    now.checked_sub(GRACE).unwrap_or(now).as_second().div_euclid(3_600) - 1
}

/// When an hour begins.
#[must_use]
pub fn hour_start(hour: i64) -> Timestamp {
    Timestamp::from_second(hour.saturating_mul(3_600)).unwrap_or_default()
}
