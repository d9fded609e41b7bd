//! The filter's metrics in Envoy.
//!
//! The ABI has no labels: `name.tag=value` is taken apart by `stats_config.stats_tags` of
//! the bootstrap (see `envoy/envoy.yaml`). Values of tags are fixed words, never a client's
//! input: Envoy keeps a stat for ever.

use hashbrown::HashMap;

use super::abi::{self, Metric};
use crate::limits::limiter::RuleCounts;
use crate::record::Verdict;

/// A metric that the host may have refused to define.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handle(Option<u32>);

impl Handle {
    fn counter(name: &str) -> Self {
        Self(abi::define(Metric::Counter, name))
    }

    fn gauge(name: &str) -> Self {
        Self(abi::define(Metric::Gauge, name))
    }

    #[inline]
    pub(super) fn add(self, count: u64) {
        if let Some(id) = self.0
            && count > 0
        {
            abi::increment(id, i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    #[inline]
    pub(super) fn set(self, value: u64) {
        if let Some(id) = self.0 {
            abi::record(id, value);
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Metrics {
    requests: [Handle; Verdict::ALL.len()],
    /// Requests whose client address is not known (pipes, internal listeners).
    pub(super) address_unknown: Handle,
    /// Requests judged although the host refused to tell something.
    pub(super) host_errors: Handle,
    /// Revision in force (of the worker that wrote last).
    pub(super) revision: Handle,
    /// Entries in a worker's table.
    pub(super) entries: Handle,
    /// Polls that brought a snapshot, a delta, nothing, a refusal, no answer, a bad message.
    pub(super) polls_snapshot: Handle,
    pub(super) polls_delta: Handle,
    pub(super) polls_unchanged: Handle,
    pub(super) polls_refused: Handle,
    pub(super) polls_failed: Handle,
    pub(super) polls_bad: Handle,
    pub(super) polls_superseded: Handle,
    /// Unix time of the last poll that was answered: how stale the set may be.
    pub(super) synced: Handle,
    /// How often a worker took over as the leader.
    pub(super) takeovers: Handle,
    /// Damaged shared data found.
    pub(super) damaged: Handle,
    pub(super) batches_stored: Handle,
    pub(super) batches_rejected: Handle,
    pub(super) batches_failed: Handle,
    /// Requests whose records were dropped.
    pub(super) records_lost: Handle,
    /// Messages with records that workers at their end left to others, for which there was no
    /// place, and that others took.
    pub(super) handovers_left: Handle,
    pub(super) handovers_refused: Handle,
    pub(super) handovers_taken: Handle,
    /// Bytes of records held (of the worker that wrote last).
    pub(super) records_held: Handle,
    /// Requests of each limit, by its name.
    limits: HashMap<String, LimitMetrics>,
    /// Clients in debt, estimated, and how many there is room for.
    pub(super) limits_keys: Handle,
    pub(super) limits_slots: Handle,
    /// Clients in debt that lost their bucket to another: more than 0 means that the table is
    /// too small.
    pub(super) limits_evicted: Handle,
    /// Compare-and-swaps that were lost and tried again, and attempts given up.
    pub(super) limits_retries: Handle,
    pub(super) limits_contended: Handle,
    /// Policies of the control plane that came into force, or could not be used.
    pub(super) policies_applied: Handle,
    pub(super) policies_refused: Handle,
    /// Reports of consumption from limits over the fleet, by what became of them; Unix time of
    /// the last one that was answered.
    pub(super) fleet_taken: Handle,
    pub(super) fleet_failed: Handle,
    pub(super) fleet_synced: Handle,
    /// Buckets that were not reported in their second, and that were moved forward because
    /// others took from them.
    pub(super) fleet_left_out: Handle,
    pub(super) fleet_advanced: Handle,
    /// Requests that decisions by region refused, would have refused, or could not judge
    /// because nobody knows where they come from.
    pub(super) regions_refused: Handle,
    pub(super) regions_shadow: Handle,
    pub(super) regions_unknown: Handle,
    /// Places and look-ups.
    pub(super) geo: GeoMetrics,
}

/// Places and look-ups.
#[derive(Debug)]
pub(super) struct GeoMetrics {
    /// Requests whose place the worker remembered, or found in shared data, or not.
    pub(super) hits: Handle,
    pub(super) shared_hits: Handle,
    pub(super) misses: Handle,
    /// Look-ups sent, and how they ended.
    pub(super) sent: Handle,
    pub(super) found: Handle,
    pub(super) unknown: Handle,
    pub(super) failed: Handle,
    /// Networks that could not be noted, and look-ups that the quota forbade.
    pub(super) dropped: Handle,
    pub(super) over_quota: Handle,
    /// How often the breaker opened and closed; 0 closed, 1 half open, 2 open (of the worker
    /// that wrote last).
    pub(super) opened: Handle,
    pub(super) closed: Handle,
    pub(super) breaker: Handle,
    /// Look-ups on their way, networks remembered (of the worker that wrote last).
    pub(super) in_flight: Handle,
    pub(super) networks: Handle,
    /// Look-ups of this day, of all workers.
    pub(super) spent: Handle,
    /// Requests that waited for their place: until it came, or as long as they may.
    pub(super) waited: Handle,
    pub(super) timed_out: Handle,
    /// Headers of ours that clients sent.
    pub(super) spoofed: Handle,
}

impl GeoMetrics {
    fn define() -> Self {
        let request =
            |result: &str| Handle::counter(&format!("ipwarden_geo_requests.result={result}"));
        let lookup =
            |result: &str| Handle::counter(&format!("ipwarden_geo_lookups.result={result}"));
        let wait = |result: &str| Handle::counter(&format!("ipwarden_geo_waits.result={result}"));
        let change = |result: &str| {
            Handle::counter(&format!("ipwarden_geo_breaker_changes.result={result}"))
        };
        Self {
            hits: request("remembered"),
            shared_hits: request("shared"),
            misses: request("not_known"),
            sent: lookup("sent"),
            found: lookup("found"),
            unknown: lookup("unknown"),
            failed: lookup("failed"),
            dropped: lookup("dropped"),
            over_quota: lookup("over_quota"),
            opened: change("opened"),
            closed: change("closed"),
            breaker: Handle::gauge("ipwarden_geo_breaker"),
            in_flight: Handle::gauge("ipwarden_geo_in_flight"),
            networks: Handle::gauge("ipwarden_geo_networks"),
            spent: Handle::gauge("ipwarden_geo_lookups_today"),
            waited: wait("answered"),
            timed_out: wait("timed_out"),
            spoofed: Handle::counter("ipwarden_headers_removed"),
        }
    }
}

/// Requests of one limit.
#[derive(Debug, Clone, Copy)]
struct LimitMetrics {
    admitted: Handle,
    refused: Handle,
    shadow: Handle,
}

/// Most limits that are told apart: Envoy keeps a stat for ever, and the control plane may
/// name new ones at any time.
const MAX_NAMED_LIMITS: usize = 256;

impl Metrics {
    pub(super) fn define() -> Self {
        let requests = Verdict::ALL.map(|verdict| {
            Handle::counter(&format!("ipwarden_requests.verdict={}", verdict.as_str()))
        });
        let poll = |result: &str| Handle::counter(&format!("ipwarden_polls.result={result}"));
        let batch = |result: &str| Handle::counter(&format!("ipwarden_batches.result={result}"));
        let handover =
            |result: &str| Handle::counter(&format!("ipwarden_handovers.result={result}"));
        let policy =
            |result: &str| Handle::counter(&format!("ipwarden_limits_policies.result={result}"));
        let region =
            |result: &str| Handle::counter(&format!("ipwarden_region_requests.result={result}"));
        let metrics = Self {
            requests,
            address_unknown: Handle::counter("ipwarden_address_unknown"),
            host_errors: Handle::counter("ipwarden_host_errors"),
            revision: Handle::gauge("ipwarden_decisions_revision"),
            entries: Handle::gauge("ipwarden_decisions_entries"),
            polls_snapshot: poll("snapshot"),
            polls_delta: poll("delta"),
            polls_unchanged: poll("unchanged"),
            polls_refused: poll("refused"),
            polls_failed: poll("failed"),
            polls_bad: poll("bad"),
            polls_superseded: poll("superseded"),
            synced: Handle::gauge("ipwarden_decisions_synced_seconds"),
            takeovers: Handle::counter("ipwarden_leader_takeovers"),
            damaged: Handle::counter("ipwarden_shared_data_damaged"),
            batches_stored: batch("stored"),
            batches_rejected: batch("rejected"),
            batches_failed: batch("failed"),
            records_lost: Handle::counter("ipwarden_records_lost"),
            handovers_left: handover("left"),
            handovers_refused: handover("refused"),
            handovers_taken: handover("taken"),
            records_held: Handle::gauge("ipwarden_records_held_bytes"),
            limits: HashMap::new(),
            limits_keys: Handle::gauge("ipwarden_limits_keys"),
            limits_slots: Handle::gauge("ipwarden_limits_slots"),
            limits_evicted: Handle::counter("ipwarden_limits_evicted_in_debt"),
            limits_retries: Handle::counter("ipwarden_limits_retries"),
            limits_contended: Handle::counter("ipwarden_limits_contended"),
            policies_applied: policy("applied"),
            policies_refused: policy("refused"),
            fleet_taken: Handle::counter("ipwarden_fleet_reports.result=taken"),
            fleet_failed: Handle::counter("ipwarden_fleet_reports.result=failed"),
            fleet_synced: Handle::gauge("ipwarden_fleet_synced_seconds"),
            fleet_left_out: Handle::counter("ipwarden_fleet_keys_left_out"),
            fleet_advanced: Handle::counter("ipwarden_fleet_keys_advanced"),
            regions_refused: region("refused"),
            regions_shadow: region("shadow"),
            regions_unknown: region("unknown"),
            geo: GeoMetrics::define(),
        };
        Handle::gauge(&format!("ipwarden_build_info.version={}", crate::VERSION)).set(1);
        metrics
    }

    #[inline]
    pub(super) fn count_request(&self, verdict: Verdict) {
        if let Some(handle) = self.requests.get(verdict as usize) {
            handle.add(1);
        }
    }

    /// Adds to the counts of a limit.
    pub(super) fn count_limit(&mut self, name: &str, counts: RuleCounts) {
        if !self.limits.contains_key(name) {
            if self.limits.len() >= MAX_NAMED_LIMITS {
                return;
            }
            let handle = |result: &str| {
                Handle::counter(&format!("ipwarden_limit_requests.limit={name}.result={result}"))
            };
            let metrics = LimitMetrics {
                admitted: handle("admitted"),
                refused: handle("refused"),
                shadow: handle("shadow"),
            };
            self.limits.insert(name.to_owned(), metrics);
        }
        if let Some(metrics) = self.limits.get(name) {
            metrics.admitted.add(counts.admitted);
            metrics.refused.add(counts.refused);
            metrics.shadow.add(counts.shadow);
        }
    }
}
