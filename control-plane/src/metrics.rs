//! What the service counts. No global state: one value, handed around.
//!
//! Label values come from fixed sets (routes of our table, our own words), never from a
//! client: neither an address nor a path can end up here, and the number of series is bounded.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::geo::{self, Databases, Refreshed};
use crate::suspects::Noted;
use crate::suspects::judge::tally;

/// Content type of the text that [`Metrics::text`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Labels of [`Metrics::requests`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestLabels {
    /// Path as our table writes it, or `none`.
    pub route: &'static str,
    /// Status of the response.
    pub status: u16,
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        ("route", self.route).encode(encoder.encode_label())?;
        ("status", self.status).encode(encoder.encode_label())
    }
}

use prometheus_client::encoding::EncodeLabel;

/// A label whose values are words of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind(pub &'static str);

impl EncodeLabelSet for Kind {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        ("kind", self.0).encode(encoder.encode_label())
    }
}

/// All counters and gauges.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests answered.
    pub requests: Family<RequestLabels, Counter>,
    /// Answers of the decision stream: snapshot, delta, limits, unchanged, busy.
    pub answers: Family<Kind, Counter>,
    /// Bytes of decisions and limits sent.
    pub answer_bytes: Counter,
    /// Records stored.
    pub records: Counter,
    /// Batches: stored, duplicate, noted, undecodable, refused (queue full), failed.
    pub batches: Family<Kind, Counter>,
    /// Bytes of batches taken in.
    pub batch_bytes: Counter,
    /// How long commits of batches take.
    pub commit_seconds: Histogram,
    /// Batches that wait for the store.
    pub queue: Gauge,
    /// Look-ups of places: found, unknown, reserved, no_data.
    pub geo_lookups: Family<Kind, Counter>,
    /// Files with geolocation data: loaded, failed, gone.
    pub geo_files: Family<Kind, Counter>,
    /// Flags of detectors: noted, ignored (the policy answers none), dismissed (a person said
    /// so), dropped (no room).
    pub flags: Family<Kind, Counter>,
    /// Suspects opened.
    pub suspects: Counter,
    /// Automatic blocks: made, withheld (the brake), allowed, protected.
    pub automatic_blocks: Family<Kind, Counter>,
    /// Events that hooks were to be told: sent, failed (an attempt; they wait), dropped.
    pub notifications: Family<Kind, Counter>,
    /// Reports of what proxies took from buckets of the fleet: counted, failed.
    pub fleet_reports: Family<Kind, Counter>,
    /// Buckets in them.
    pub fleet_keys: Counter,
    /// How long the hourly pass takes.
    pub pass_seconds: Histogram,
    /// 1 while the hourly pass is under way.
    pub pass_running: Gauge<u64, AtomicU64>,
    /// Of the streaming detectors.
    pub detect: Detection,
    /// Of the hourly run that hides and deletes.
    pub retention: RetentionMetrics,
    /// Of feeds.
    pub feeds: FeedMetrics,
    /// Set when the metrics are read.
    pub now: Readings,
}

/// A label with the name of a feed: an admin's word, at most [`crate::feeds::MAX_FEEDS`] of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FeedLabel {
    feed: String,
    kind: Option<&'static str>,
}

impl EncodeLabelSet for FeedLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        ("feed", self.feed.as_str()).encode(encoder.encode_label())?;
        match self.kind {
            Some(kind) => ("kind", kind).encode(encoder.encode_label()),
            None => Ok(()),
        }
    }
}

/// What feeds count.
#[derive(Debug, Default)]
pub struct FeedMetrics {
    /// Attempts by what became of them: applied, unchanged, withheld, failed.
    pub attempts: Family<FeedLabel, Counter>,
    /// Decisions in force.
    pub entries: Family<FeedLabel, Gauge>,
    /// When each was last heard of, Unix seconds.
    pub last_success: Family<FeedLabel, Gauge>,
    /// 1 while the newest list is not taken.
    pub withheld: Family<FeedLabel, Gauge>,
    /// Answers to CrowdSec's bouncers: startup, changes, again (nothing was known of it).
    pub told: Family<Kind, Counter>,
}

impl FeedMetrics {
    /// Counts an attempt by what became of it.
    pub fn attempt(&self, feed: &str, kind: &'static str) {
        self.attempts.get_or_create(&FeedLabel { feed: feed.to_owned(), kind: Some(kind) }).inc();
    }

    /// Shows how a feed is doing.
    pub fn show(&self, feed: &str, entries: u64, last_success: Option<i64>, withheld: bool) {
        let label = FeedLabel { feed: feed.to_owned(), kind: None };
        self.entries.get_or_create(&label).set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.withheld.get_or_create(&label).set(i64::from(withheld));
        if let Some(at) = last_success {
            self.last_success.get_or_create(&label).set(at);
        }
    }

    /// Forgets a feed that is gone.
    pub fn forget(&self, feed: &str) {
        let label = |kind| FeedLabel { feed: feed.to_owned(), kind };
        for family in [&self.entries, &self.last_success, &self.withheld] {
            family.remove(&label(None));
        }
        for kind in ["applied", "unchanged", "withheld", "failed"] {
            self.attempts.remove(&label(Some(kind)));
        }
    }

    /// Counts an answer to a bouncer.
    pub fn told(&self, kind: &'static str) {
        self.told.get_or_create(&Kind(kind)).inc();
    }
}

/// What the hourly run that hides and deletes counts.
#[derive(Debug, Default)]
pub struct RetentionMetrics {
    /// Whether one is under way.
    pub running: Gauge,
    /// When the last one that ended began, Unix seconds.
    pub last_success: Gauge,
    /// Rows by what became of them: hidden, hidden_rollups, admitted, refused, sensitive, all,
    /// rollups, texts, audit, capped.
    pub rows: Family<Kind, Counter>,
}

impl RetentionMetrics {
    /// Counts rows by what became of them.
    pub fn rows(&self, kind: &'static str, rows: u64) {
        if rows > 0 {
            self.rows.get_or_create(&Kind(kind)).inc_by(rows);
        }
    }
}

/// What the streaming detectors count.
#[derive(Debug, Default)]
pub struct Detection {
    /// Stored batches: observed, dropped (the queue was full).
    pub batches: Family<Kind, Counter>,
    /// Batches that wait for the detectors.
    pub queue: Gauge,
    /// From the arrival of the batch that was looked at last until then.
    pub lag_seconds: Gauge<f64, AtomicU64>,
    /// Requests observed.
    pub observed: Gauge<u64, AtomicU64>,
    /// Addresses remembered.
    pub addresses: Gauge<u64, AtomicU64>,
    /// Bytes of buckets.
    pub bucket_bytes: Gauge<u64, AtomicU64>,
    /// Addresses and buckets given up to stay within the bounds.
    pub forgotten: Gauge<u64, AtomicU64>,
    /// Flags not raised because the address is known.
    pub spared: Gauge<u64, AtomicU64>,
    /// Addresses whose names were asked for: verified, other, unknown (no answer in time), skipped
    /// (too many at once).
    pub names: Family<Kind, Counter>,
    /// Rules in force.
    pub rules: Gauge<u64, AtomicU64>,
    /// 1 while the rule file is not in order and the old rules stay.
    pub rules_problem: Gauge<u64, AtomicU64>,
}

/// Gauges that are read off the service at the moment it is asked.
#[derive(Debug, Default)]
pub struct Readings {
    /// Number of the present decision set.
    pub revision: Gauge<u64, AtomicU64>,
    /// Live decisions.
    pub decisions: Gauge<u64, AtomicU64>,
    /// Polls that wait.
    pub polls_waiting: Gauge<u64, AtomicU64>,
    /// Subscribers of the live stream.
    pub live_subscribers: Gauge<u64, AtomicU64>,
    /// Proxies heard of in the last minutes.
    pub proxies: Gauge<u64, AtomicU64>,
    /// Records lost, as the proxies report, since their present start.
    pub records_lost: Gauge<u64, AtomicU64>,
    /// Databases with geolocation data in use.
    pub geo_databases: Gauge<u64, AtomicU64>,
    /// Files that should be in use and can't be.
    pub geo_problems: Gauge<u64, AtomicU64>,
    /// When the oldest data of a kind was put together, Unix seconds.
    pub geo_built: Family<Kind, Gauge>,
    /// Suspects that nobody has judged.
    pub suspects_open: Gauge<u64, AtomicU64>,
    /// Events that wait for hooks.
    pub notifications_waiting: Gauge<u64, AtomicU64>,
    /// Events that hooks were never told, since they were configured.
    pub notifications_dropped: Gauge<u64, AtomicU64>,
    /// Whether the brake acted within the hour.
    pub braked: Gauge<u64, AtomicU64>,
    /// Whether the state store can be reached.
    pub state_up: Gauge<u64, AtomicU64>,
    /// Whether this control plane leads.
    pub leads: Gauge<u64, AtomicU64>,
    /// Size of the state store's files or tables.
    pub state_bytes: Gauge<u64, AtomicU64>,
    /// Size of the log store's files or tables.
    pub log_bytes: Gauge<u64, AtomicU64>,
    /// Whether limits over the fleet are counted.
    pub fleet_up: Gauge<u64, AtomicU64>,
    /// Whether the log store can be reached.
    pub log_up: Gauge<u64, AtomicU64>,
    /// Batches that wait in the spool.
    pub spool_batches: Gauge<u64, AtomicU64>,
    /// Bytes of the spool's files.
    pub spool_bytes: Gauge<u64, AtomicU64>,
    /// Batches out of the spool that the store refused for good.
    pub spool_refused: Gauge<u64, AtomicU64>,
    /// Parts of the log's tables that a change has still to write.
    pub log_parts_to_change: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("ipwarden"),
            requests: Family::default(),
            answers: Family::default(),
            answer_bytes: Counter::default(),
            records: Counter::default(),
            batches: Family::default(),
            batch_bytes: Counter::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            queue: Gauge::default(),
            geo_lookups: Family::default(),
            geo_files: Family::default(),
            flags: Family::default(),
            suspects: Counter::default(),
            automatic_blocks: Family::default(),
            notifications: Family::default(),
            fleet_reports: Family::default(),
            fleet_keys: Counter::default(),
            pass_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            pass_running: Gauge::default(),
            detect: Detection::default(),
            retention: RetentionMetrics::default(),
            feeds: FeedMetrics::default(),
            now: Readings::default(),
        };
        let r = &mut metrics.registry;
        r.register("build", "The running program", Info::new([("version", ipwarden::VERSION)]));
        r.register("http_requests", "Requests answered", metrics.requests.clone());
        r.register("stream_answers", "Answers of the decision stream", metrics.answers.clone());
        r.register_with_unit("stream", "Decisions sent", Unit::Bytes, metrics.answer_bytes.clone());
        r.register("ingest_records", "Records stored", metrics.records.clone());
        r.register("ingest_batches", "Batches by what became of them", metrics.batches.clone());
        r.register_with_unit(
            "ingest",
            "Batches taken in",
            Unit::Bytes,
            metrics.batch_bytes.clone(),
        );
        r.register_with_unit(
            "ingest_commit",
            "Time from taking batches off the queue to their durable commit",
            Unit::Seconds,
            metrics.commit_seconds.clone(),
        );
        r.register(
            "ingest_queue_batches",
            "Batches that wait for the store",
            metrics.queue.clone(),
        );
        r.register("geo_lookups", "Places asked for", metrics.geo_lookups.clone());
        r.register(
            "geo_files",
            "Files with geolocation data by what became of them",
            metrics.geo_files.clone(),
        );
        r.register("flags", "Flags of detectors by what became of them", metrics.flags.clone());
        r.register(
            "detect_names",
            "Addresses whose names were asked for, by what came of it",
            metrics.detect.names.clone(),
        );
        r.register_with_unit(
            "detect_pass",
            "Time that the hourly pass takes",
            Unit::Seconds,
            metrics.pass_seconds.clone(),
        );
        r.register(
            "detect_pass_running",
            "1 while the hourly pass is under way",
            metrics.pass_running.clone(),
        );
        r.register("suspects_opened", "Suspects opened", metrics.suspects.clone());
        r.register(
            "automatic_blocks",
            "Blocks that the policy asked for by what became of them",
            metrics.automatic_blocks.clone(),
        );
        r.register(
            "notifications",
            "Events that hooks were to be told by what became of them",
            metrics.notifications.clone(),
        );
        r.register(
            "fleet_reports",
            "Reports of what proxies took from limits over the fleet by what became of them",
            metrics.fleet_reports.clone(),
        );
        r.register("fleet_keys", "Keys in those that were counted", metrics.fleet_keys.clone());
        let detect = &metrics.detect;
        r.register("detect_batches", "Batches offered to the detectors", detect.batches.clone());
        r.register(
            "detect_queue_batches",
            "Batches that wait for the detectors",
            detect.queue.clone(),
        );
        r.register_with_unit(
            "detect_lag",
            "Time from a batch's arrival until the detectors looked at it",
            Unit::Seconds,
            detect.lag_seconds.clone(),
        );
        let gauges = [
            ("detect_observed", "Requests observed since the start", &detect.observed),
            ("detect_addresses", "Addresses that the detectors remember", &detect.addresses),
            ("detect_bucket_bytes", "Bytes of the detectors' buckets", &detect.bucket_bytes),
            ("detect_forgotten", "Addresses and buckets given up for room", &detect.forgotten),
            ("detect_spared", "Flags not raised: the address is known", &detect.spared),
            ("detect_rules", "Detection rules in force", &detect.rules),
            ("detect_rules_problem", "Whether the rule file can't be used", &detect.rules_problem),
        ];
        for (name, help, gauge) in gauges {
            r.register(name, help, gauge.clone());
        }
        let retention = &metrics.retention;
        r.register(
            "retention_running",
            "Whether the hourly run that hides and deletes is under way",
            retention.running.clone(),
        );
        r.register(
            "retention_rows",
            "Rows hidden and deleted: capped ones before their time",
            retention.rows.clone(),
        );
        r.register_with_unit(
            "retention_last_success_timestamp",
            "When the last run that ended began",
            Unit::Seconds,
            retention.last_success.clone(),
        );
        let feeds = &metrics.feeds;
        r.register(
            "feed_attempts",
            "Attempts to fetch feeds by what became of them",
            feeds.attempts.clone(),
        );
        r.register("feed_entries", "Decisions of feeds in force", feeds.entries.clone());
        r.register_with_unit(
            "feed_last_success_timestamp",
            "When each feed was last heard of",
            Unit::Seconds,
            feeds.last_success.clone(),
        );
        r.register(
            "feed_withheld",
            "1 while the newest list of a feed is not taken",
            feeds.withheld.clone(),
        );
        r.register("bouncer_answers", "Answers to CrowdSec's bouncers", feeds.told.clone());
        let now = &metrics.now;
        r.register("suspects_open", "Suspects that nobody has judged", now.suspects_open.clone());
        r.register(
            "automatic_blocks_braked",
            "1 while the brake withholds automatic blocks, or did within the hour",
            now.braked.clone(),
        );
        r.register(
            "notifications_waiting",
            "Events that wait for hooks",
            now.notifications_waiting.clone(),
        );
        r.register(
            "notifications_given_up",
            "Events that hooks were never told, since they were configured",
            now.notifications_dropped.clone(),
        );
        r.register("geo_databases", "Geolocation databases in use", now.geo_databases.clone());
        r.register(
            "geo_problems",
            "Geolocation files that should be in use and can't be",
            now.geo_problems.clone(),
        );
        r.register_with_unit(
            "geo_built_timestamp",
            "When the oldest geolocation data of a kind was put together",
            Unit::Seconds,
            now.geo_built.clone(),
        );
        r.register("revision", "Number of the decision set", now.revision.clone());
        r.register("decisions", "Live decisions", now.decisions.clone());
        r.register("polls_waiting", "Polls that wait for a change", now.polls_waiting.clone());
        r.register(
            "live_subscribers",
            "Subscribers of the live stream",
            now.live_subscribers.clone(),
        );
        r.register("proxies", "Proxies heard of in the last five minutes", now.proxies.clone());
        r.register(
            "proxy_records_lost",
            "Requests whose record the proxies lost since their present start",
            now.records_lost.clone(),
        );
        r.register(
            "state_store_up",
            "1 while the state store can be reached; 0: changes are refused, proxies go on",
            now.state_up.clone(),
        );
        r.register(
            "leads",
            "1 where this control plane does what of several one does",
            now.leads.clone(),
        );
        r.register_with_unit(
            "state_store",
            "State store files",
            Unit::Bytes,
            now.state_bytes.clone(),
        );
        r.register_with_unit("log_store", "Log store files", Unit::Bytes, now.log_bytes.clone());
        r.register(
            "fleet_store_up",
            "1 while limits over the fleet are counted; 0: each proxy counts for itself",
            now.fleet_up.clone(),
        );
        r.register(
            "log_store_up",
            "1 while the log store can be reached; 0: batches wait in the spool",
            now.log_up.clone(),
        );
        r.register(
            "log_spool_batches",
            "Batches that wait for the log store on the disk",
            now.spool_batches.clone(),
        );
        r.register_with_unit(
            "log_spool",
            "Files of batches that wait for the log store",
            Unit::Bytes,
            now.spool_bytes.clone(),
        );
        r.register(
            "log_spool_refused",
            "Batches out of the spool that the log store refused for good, since the start",
            now.spool_refused.clone(),
        );
        r.register(
            "log_parts_to_change",
            "Parts of the log's tables that hiding or erasing has still to write",
            now.log_parts_to_change.clone(),
        );
        metrics.begin_at_zero();
        metrics
    }

    /// Counters that alerts watch are there from the start: the first event is an increase.
    fn begin_at_zero(&self) {
        let families = [
            (&self.batches, &["stored", "duplicate", "undecodable", "refused", "failed"][..]),
            (&self.automatic_blocks, &["made", "withheld", "allowed", "protected"]),
            (&self.detect.batches, &["observed", "dropped"]),
        ];
        for (family, kinds) in families {
            for kind in kinds {
                drop(family.get_or_create(&Kind(kind)));
            }
        }
    }

    /// Counts an answered request.
    pub fn answered(&self, route: &'static str, status: u16) {
        self.requests.get_or_create(&RequestLabels { route, status }).inc();
    }

    /// Counts a batch by what became of it.
    pub fn batch(&self, kind: &'static str) {
        self.batches.get_or_create(&Kind(kind)).inc();
    }

    /// Counts flags by what became of them.
    pub fn flags(&self, kind: &'static str, count: usize) {
        if count > 0 {
            self.flags.get_or_create(&Kind(kind)).inc_by(count as u64);
        }
    }

    /// Counts addresses whose names were asked for, by what came of it.
    pub fn names(&self, kind: &'static str, count: usize) {
        if count > 0 {
            self.detect.names.get_or_create(&Kind(kind)).inc_by(count as u64);
        }
    }

    /// Counts flags that a store took.
    pub fn noted(&self, flags: usize, noted: &[Noted]) {
        let (opened, dismissed) = tally(noted);
        self.flags("noted", flags - dismissed.min(flags));
        self.flags("dismissed", dismissed);
        self.suspects.inc_by(opened as u64);
    }

    /// Counts a block that the policy asked for by what became of it.
    pub fn automatic_block(&self, kind: &'static str) {
        self.automatic_blocks.get_or_create(&Kind(kind)).inc();
    }

    /// Counts events that a hook was to be told by what became of them.
    pub fn notified(&self, kind: &'static str, events: u64) {
        self.notifications.get_or_create(&Kind(kind)).inc_by(events);
    }

    /// Counts a stored batch by what the detectors made of it.
    pub fn detect_batch(&self, kind: &'static str) {
        self.detect.batches.get_or_create(&Kind(kind)).inc();
    }

    /// Counts a look-up of a place.
    pub fn geo_lookup(&self, kind: &'static str) {
        self.geo_lookups.get_or_create(&Kind(kind)).inc();
    }

    /// Counts what a look at the files with geolocation data found.
    pub fn geo_refreshed(&self, refreshed: &Refreshed) {
        let found = [
            ("loaded", refreshed.loaded.len()),
            ("failed", refreshed.failed.len()),
            ("gone", refreshed.gone.len()),
        ];
        for (kind, count) in found {
            if count > 0 {
                self.geo_files.get_or_create(&Kind(kind)).inc_by(count as u64);
            }
        }
    }

    /// Reads the gauges of geolocation data off its list.
    pub fn read_geo(&self, databases: &Databases) {
        let now = &self.now;
        now.geo_databases.set(databases.in_use().count() as u64);
        now.geo_problems.set(databases.problems().count() as u64);
        now.geo_built.clear();
        for kind in geo::Kind::ALL {
            let built = databases.in_use().filter(|data| data.kind == kind);
            if let Some(oldest) = built.filter_map(|data| data.built_at).min() {
                now.geo_built.get_or_create(&Kind(kind.as_str())).set(oldest.as_second());
            }
        }
    }

    /// Everything as OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_what_was_counted() {
        let metrics = Metrics::new();
        metrics.answered("/v1/decisions", 200);
        metrics.batch("stored");
        metrics.commit_seconds.observe(0.001);
        let text = metrics.text();
        for line in [
            "ipwarden_build_info{version=\"0.1.0\"} 1",
            "ipwarden_http_requests_total{route=\"/v1/decisions\",status=\"200\"} 1",
            "ipwarden_ingest_batches_total{kind=\"stored\"} 1",
            "ipwarden_ingest_commit_seconds_count 1",
            "ipwarden_revision 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} not in\n{text}");
        }
    }
}
