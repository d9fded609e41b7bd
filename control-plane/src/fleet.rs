//! The proxies: what their workers reported with their batches, who follows the decision
//! stream, and which limits they configure.
//!
//! The first is kept by the log store, the rest only here, bounded: after a restart it is
//! complete again as soon as every proxy has polled once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hashbrown::HashMap;
use jiff::{SignedDuration, Timestamp};

use crate::limits::reports::{Configured, Full, Reports};
use crate::model::{Proxy, Revision};
use crate::store::StreamTotals;

/// Most proxies that are remembered as followers of the stream.
const MAX_FOLLOWERS: usize = 100_000;
/// Workers of one start come up within this time.
const START_SPREAD: SignedDuration = SignedDuration::from_secs(30);
/// A worker that was not heard of for so long says nothing about the revision applied now:
/// without traffic it has nothing to report.
const FRESH: SignedDuration = SignedDuration::from_secs(60);
/// A proxy that was not heard of for so long is not counted as connected.
pub const CONNECTED_FOR: Duration = Duration::from_secs(300);

/// How the names begin under which imported records are stored.
pub const IMPORT_PREFIX: &str = "import:";

/// A poll as the fleet sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follower {
    /// Random number of the leading worker's life, as it names itself.
    pub instance: String,
    /// Version of the filter.
    pub version: String,
    /// The set that it has, absent before the first.
    pub after: Option<Revision>,
    /// When it asked last.
    pub last_seen: Timestamp,
}

/// Who follows the decision stream.
#[derive(Debug, Default)]
pub struct Fleet {
    followers: Mutex<HashMap<String, Follower>>,
    reports: Mutex<Reports>,
    /// What they keep to themselves: each report a list of one.
    privacy: Mutex<Reports>,
}

impl Fleet {
    /// Notes a poll. Names beyond the bound are not remembered.
    pub fn note(&self, name: &str, follower: Follower) {
        let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = followers.get_mut(name) {
            *known = follower;
        } else if followers.len() < MAX_FOLLOWERS {
            followers.insert(name.to_owned(), follower);
        }
    }

    /// Notes the limits that a proxy configures, and its privacy settings where it told them.
    ///
    /// # Errors
    /// [`Full`]; nothing was noted.
    pub fn report(
        &self,
        name: &str,
        limits: &[serde_json::Value],
        privacy: Option<serde_json::Value>,
        now: Timestamp,
    ) -> Result<(), Full> {
        let heard = self.heard();
        let is_gone = |name: &str, reported| !is_connected(heard(name).max(Some(reported)), now);
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.note(name, limits, now, MAX_FOLLOWERS, is_gone)?;
        let mut settings = self.privacy.lock().unwrap_or_else(PoisonError::into_inner);
        settings.note(name, privacy.as_slice(), now, MAX_FOLLOWERS, is_gone)
    }

    /// The privacy settings of connected proxies as they told them, equal ones together, with
    /// the proxies' names; proxies that told none are left out.
    #[must_use]
    pub fn privacy(&self, now: Timestamp) -> Vec<(serde_json::Value, Vec<String>)> {
        let live = {
            let heard = self.heard();
            let is_gone =
                |name: &str, reported| !is_connected(heard(name).max(Some(reported)), now);
            self.privacy.lock().unwrap_or_else(PoisonError::into_inner).live(is_gone)
        };
        let told = Configured::read(live);
        told.into_iter().filter_map(|mut told| Some((told.limits.pop()?, told.proxies))).collect()
    }

    /// The limits that connected proxies configure.
    #[must_use]
    pub fn configured_limits(&self, now: Timestamp) -> Vec<Configured> {
        let live = {
            let heard = self.heard();
            let is_gone =
                |name: &str, reported| !is_connected(heard(name).max(Some(reported)), now);
            self.reports.lock().unwrap_or_else(PoisonError::into_inner).live(is_gone)
        };
        // Not under the locks that polls need.
        Configured::read(live)
    }

    /// Names of the proxies that follow the stream now, in order.
    #[must_use]
    pub fn connected(&self, now: Timestamp) -> Vec<String> {
        let followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<String> = followers
            .iter()
            .filter(|(_, follower)| is_connected(Some(follower.last_seen), now))
            .map(|(name, _)| name.clone())
            .collect();
        names.sort();
        names
    }

    /// Says when a proxy polled last.
    fn heard(&self) -> impl Fn(&str) -> Option<Timestamp> + '_ {
        let followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        move |name| followers.get(name).map(|follower| follower.last_seen)
    }

    /// Everything known of every proxy, by name.
    #[must_use]
    pub fn view(
        &self,
        streams: Vec<StreamTotals>,
        present: Revision,
        now: Timestamp,
    ) -> Vec<Proxy> {
        let mut streams_of: HashMap<String, Vec<StreamTotals>> = HashMap::new();
        for stream in streams {
            streams_of.entry(stream.proxy.clone()).or_default().push(stream);
        }
        let mut followers = {
            let followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
            followers.clone()
        };
        let mut proxies: Vec<Proxy> = streams_of
            .into_iter()
            .map(|(name, streams)| {
                let follower = followers.remove(&name);
                proxy(name, streams, follower, present, now)
            })
            .collect();
        proxies.extend(
            followers
                .into_iter()
                .map(|(name, follower)| proxy(name, Vec::new(), Some(follower), present, now)),
        );
        proxies.sort_by(|a, b| a.name.cmp(&b.name));
        proxies
    }
}

fn is_connected(heard: Option<Timestamp>, now: Timestamp) -> bool {
    heard.is_some_and(|heard| now.duration_since(heard).unsigned_abs() < CONNECTED_FOR)
}

fn proxy(
    name: String,
    streams: Vec<StreamTotals>,
    follower: Option<Follower>,
    present: Revision,
    now: Timestamp,
) -> Proxy {
    let workers = since_last_start(streams);
    let newest = workers.iter().max_by_key(|worker| worker.last_seen);
    let heard = newest.map(|worker| worker.last_seen);
    let polled = follower.as_ref().map(|follower| follower.last_seen);
    let last_seen = heard.max(polled).unwrap_or(now);
    let number = |revision: Revision| {
        if revision.epoch == present.epoch { revision.number } else { 0 }
    };
    let applied = workers
        .iter()
        .filter(|worker| now.duration_since(worker.last_seen) < FRESH)
        .map(|worker| number(worker.applied));
    let leads = follower.as_ref().map(|follower| follower.after.map_or(0, number));
    let revision = applied
        .chain(leads)
        .min()
        .or_else(|| newest.map(|worker| number(worker.applied)))
        .unwrap_or(0);
    let version = match (&follower, newest) {
        (Some(follower), newest) if newest.is_none_or(|n| n.last_seen < follower.last_seen) => {
            follower.version.clone()
        }
        (_, Some(newest)) => newest.version.clone(),
        (Some(follower), None) => follower.version.clone(),
        (None, None) => String::new(),
    };
    let sum =
        |count: fn(&StreamTotals) -> u64| workers.iter().map(count).fold(0u64, u64::saturating_add);
    Proxy {
        name,
        version,
        last_seen,
        revision,
        revision_lag: present.number.saturating_sub(revision),
        requests_seen: sum(|worker| worker.seen),
        requests_stored: sum(|worker| worker.stored),
        requests_lost: sum(|worker| worker.lost),
        requests_skipped: sum(|worker| worker.skipped),
        clock_offset_ms: newest.map_or(0, |worker| worker.clock_offset_ms),
        workers: workers.len() as u64,
    }
}

/// The workers of the proxy's present life: those that started with the newest one, and
/// those heard of after it started (a single worker's module may start anew).
fn since_last_start(streams: Vec<StreamTotals>) -> Vec<StreamTotals> {
    // By our clock: the proxy's may differ.
    let started = |stream: &StreamTotals| {
        stream
            .started_at
            .saturating_sub(SignedDuration::from_millis(stream.clock_offset_ms))
            .unwrap_or(stream.started_at)
    };
    let Some(newest) = streams.iter().map(started).max() else { return streams };
    streams
        .into_iter()
        .filter(|stream| {
            stream.last_seen >= newest || newest.duration_since(started(stream)) <= START_SPREAD
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn revision(number: u64) -> Revision {
        Revision { epoch: 7, number }
    }

    fn worker(proxy: &str, stream: u64, started: i64, seen: i64, applied: u64) -> StreamTotals {
        StreamTotals {
            proxy: proxy.into(),
            stream,
            version: "0.1.0".into(),
            started_at: at(started),
            last_seen: at(seen),
            clock_offset_ms: 0,
            applied: revision(applied),
            seen: 10,
            lost: 1,
            skipped: 2,
            stored: 7,
        }
    }

    fn follower(after: Option<u64>, seen: i64) -> Follower {
        Follower {
            instance: "1f".into(),
            version: "0.2.0".into(),
            after: after.map(revision),
            last_seen: at(seen),
        }
    }

    #[test]
    fn the_slowest_worker_says_what_a_proxy_has_applied() {
        let fleet = Fleet::default();
        fleet.note("edge", follower(Some(9), 100));
        let workers = vec![worker("edge", 1, 0, 90, 9), worker("edge", 2, 1, 95, 7)];
        let proxies = fleet.view(workers, revision(10), at(100));
        assert_eq!(
            proxies,
            [Proxy {
                name: "edge".into(),
                version: "0.2.0".into(),
                last_seen: at(100),
                revision: 7,
                revision_lag: 3,
                requests_seen: 20,
                requests_stored: 14,
                requests_lost: 2,
                requests_skipped: 4,
                clock_offset_ms: 0,
                workers: 2,
            }]
        );
    }

    #[test]
    fn privacy_settings_are_known_while_their_proxy_is_connected() {
        let fleet = Fleet::default();
        for name in ["a", "b", "c"] {
            fleet.note(name, follower(None, 0));
        }
        let told = serde_json::json!({"address": "truncate"});
        fleet.report("b", &[], Some(told.clone()), at(0)).unwrap();
        fleet.report("a", &[], Some(told.clone()), at(0)).unwrap();
        fleet.report("c", &[], None, at(0)).unwrap();
        assert_eq!(fleet.privacy(at(1)), [(told, vec!["a".to_owned(), "b".to_owned()])]);
        assert_eq!(fleet.privacy(at(1_000)), []);
    }

    #[test]
    fn limits_are_known_while_their_proxy_is_connected() {
        let fleet = Fleet::default();
        fleet.note("a", follower(None, 0));
        fleet.note("b", follower(None, 0));
        fleet.report("a", &[serde_json::json!({"name": "login"})], None, at(0)).unwrap();
        fleet.note("b", follower(None, 200));
        assert_eq!(fleet.connected(at(299)), ["a", "b"]);
        assert_eq!(fleet.connected(at(300)), ["b"]);
        assert_eq!(fleet.configured_limits(at(299))[0].proxies, ["a"]);
        assert_eq!(fleet.configured_limits(at(300)), []);
        fleet.note("a", follower(None, 300));
        assert_eq!(fleet.configured_limits(at(300))[0].proxies, ["a"]);
    }

    #[test]
    fn a_worker_without_news_does_not_hold_the_revision_back() {
        let fleet = Fleet::default();
        fleet.note("edge", follower(Some(10), 990));
        let proxies = fleet.view(vec![worker("edge", 1, 0, 10, 3)], revision(10), at(1_000));
        assert_eq!((proxies[0].revision, proxies[0].workers), (10, 1));
    }

    #[test]
    fn workers_of_an_earlier_start_are_left_out() {
        let fleet = Fleet::default();
        let workers = vec![
            worker("edge", 1, 0, 500, 5),
            worker("edge", 2, 1, 499, 5),
            worker("edge", 3, 1_000, 1_100, 9),
            // Started long before, but heard of since: only its neighbour started anew.
            worker("edge", 4, 2, 1_100, 9),
        ];
        let proxies = fleet.view(workers, revision(9), at(1_101));
        assert_eq!((proxies[0].workers, proxies[0].revision), (2, 9));
    }

    #[test]
    fn a_proxy_is_known_by_its_polls_alone_or_its_reports_alone() {
        let fleet = Fleet::default();
        fleet.note("a", follower(None, 5));
        let foreign =
            StreamTotals { applied: Revision { epoch: 8, number: 99 }, ..worker("b", 1, 0, 3, 0) };
        let proxies = fleet.view(vec![foreign], revision(4), at(6));
        let seen: Vec<_> =
            proxies.iter().map(|p| (p.name.as_str(), p.revision_lag, p.last_seen)).collect();
        assert_eq!(seen, [("a", 4, at(5)), ("b", 4, at(3))]);
    }
}
