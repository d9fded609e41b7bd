//! What happens when a change is only half told: the store has it, memory doesn't.

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use ipnet::IpNet;
use ipwarden::decisions::{Change, Entry, wire};
use ipwarden::limits::{Mode, policy};
use tempfile::TempDir;

use super::*;
use crate::model::{Action, AuditEntry, Decision, Origin, Token};
use crate::notify::{Backlog, Pending, Subscription};
use crate::store::sqlite::SqliteState;
use crate::store::{AutomaticBlock, BlockHistory, DecisionFilter, NewToken, PassDone, StoredFeed};
use crate::suspects::{Closing, Noted, Sighting, Suspect, SuspectFilter};

/// A store that can commit a change and then report an error, as one does whose connection
/// breaks at the wrong moment.
struct Faulty {
    inner: SqliteState,
    fail_after_commit: AtomicBool,
}

impl Faulty {
    fn fails(&self) -> Result<(), StoreError> {
        if self.fail_after_commit.swap(false, Ordering::Relaxed) {
            return Err(StoreError::Unavailable("connection lost".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl StateStore for Faulty {
    async fn revision(&self) -> store::Result<Revision> {
        self.inner.revision().await
    }

    async fn add_decisions(
        &self,
        new: Vec<NewDecision>,
        audit: NewAudit,
        now: Timestamp,
    ) -> store::Result<Added> {
        let added = self.inner.add_decisions(new, audit, now).await?;
        self.fails()?;
        Ok(added)
    }

    async fn remove_decisions(
        &self,
        which: Removal,
        audit: NewAudit,
        now: Timestamp,
    ) -> store::Result<Removed> {
        let removed = self.inner.remove_decisions(which, audit, now).await?;
        self.fails()?;
        Ok(removed)
    }

    async fn replace_origin(
        &self,
        set: OriginSet,
        audit: NewAudit,
        now: Timestamp,
    ) -> store::Result<SetChanged> {
        let changed = self.inner.replace_origin(set, audit, now).await?;
        self.fails()?;
        Ok(changed)
    }

    async fn ended_since(&self, _: Timestamp, _: usize, _: Timestamp) -> store::Result<Vec<IpNet>> {
        unreachable!("the hub looks forward")
    }

    async fn feeds(&self) -> store::Result<Vec<StoredFeed>> {
        unreachable!("the hub knows no feeds")
    }

    async fn put_feed(
        &self,
        _: &str,
        _: String,
        _: bool,
        _: NewAudit,
        _: Timestamp,
    ) -> store::Result<bool> {
        unreachable!("the hub knows no feeds")
    }

    async fn note_feed(&self, _: &str, _: Timestamp, _: String) -> store::Result<()> {
        unreachable!("the hub knows no feeds")
    }

    async fn remove_feed(&self, _: &str, _: NewAudit, _: Timestamp) -> store::Result<bool> {
        unreachable!("the hub knows no feeds")
    }

    async fn decisions(
        &self,
        filter: DecisionFilter,
        now: Timestamp,
    ) -> store::Result<(Vec<Decision>, u64)> {
        self.inner.decisions(filter, now).await
    }

    async fn covering(&self, net: ipnet::IpNet, now: Timestamp) -> store::Result<Vec<Decision>> {
        self.inner.covering(net, now).await
    }

    async fn entries(&self, now: Timestamp) -> store::Result<(Revision, Vec<Entry>)> {
        self.inner.entries(now).await
    }

    async fn sweep_decisions(&self, now: Timestamp, keep: Duration) -> store::Result<u64> {
        self.inner.sweep_decisions(now, keep).await
    }

    async fn limits(&self, now: Timestamp) -> store::Result<(Revision, Policy)> {
        self.inner.limits(now).await
    }

    async fn change_limits(
        &self,
        change: limits::Change,
        audit: NewAudit,
        now: Timestamp,
    ) -> store::Result<LimitsChanged> {
        let changed = self.inner.change_limits(change, audit, now).await?;
        self.fails()?;
        Ok(changed)
    }

    async fn note_flags(&self, _: Vec<Sighting>, _: Timestamp) -> store::Result<Vec<Noted>> {
        unreachable!("the hub knows no suspects")
    }

    async fn suspects(&self, _: SuspectFilter) -> store::Result<(Vec<Suspect>, u64)> {
        unreachable!("the hub knows no suspects")
    }

    async fn suspect(&self, _: i64) -> store::Result<Option<Suspect>> {
        unreachable!("the hub knows no suspects")
    }

    async fn close_suspect(
        &self,
        _: i64,
        _: Closing,
        _: NewAudit,
        _: Timestamp,
    ) -> store::Result<Option<Suspect>> {
        unreachable!("the hub knows no suspects")
    }

    async fn unjudged(&self, _: usize) -> store::Result<Vec<Suspect>> {
        unreachable!("the hub knows no suspects")
    }

    async fn judged(&self, _: i64, _: u64, _: Option<AutomaticBlock>) -> store::Result<()> {
        unreachable!("the hub knows no suspects")
    }

    async fn automatic_blocks(
        &self,
        _: IpNet,
        _: Timestamp,
        _: Timestamp,
    ) -> store::Result<BlockHistory> {
        unreachable!("the hub knows no suspects")
    }

    async fn sweep_suspects(&self, _: Timestamp, _: Duration, _: Duration) -> store::Result<u64> {
        unreachable!("the hub knows no suspects")
    }

    async fn pass(&self, _: i64) -> store::Result<Option<PassDone>> {
        unreachable!("the hub knows no passes")
    }

    async fn last_pass(&self) -> store::Result<Option<PassDone>> {
        unreachable!("the hub knows no passes")
    }

    async fn subscribe(&self, _: Vec<Subscription>) -> store::Result<()> {
        unreachable!("the hub knows no hooks")
    }

    async fn pending(&self, _: &str, _: usize) -> store::Result<Vec<Pending>> {
        unreachable!("the hub knows no hooks")
    }

    async fn told(&self, _: &str, _: i64) -> store::Result<()> {
        unreachable!("the hub knows no hooks")
    }

    async fn expire_pending(&self, _: &str, _: Timestamp) -> store::Result<u64> {
        unreachable!("the hub knows no hooks")
    }

    async fn backlog(&self) -> store::Result<Vec<Backlog>> {
        unreachable!("the hub knows no hooks")
    }

    async fn finish_pass(
        &self,
        _: PassDone,
        _: Vec<Sighting>,
        _: Timestamp,
    ) -> store::Result<Option<Vec<Noted>>> {
        unreachable!("the hub knows no passes")
    }

    async fn create_token(
        &self,
        token: NewToken,
        audit: NewAudit,
        now: Timestamp,
    ) -> store::Result<Option<Token>> {
        self.inner.create_token(token, audit, now).await
    }

    async fn tokens(&self) -> store::Result<Vec<(Token, [u8; 32])>> {
        self.inner.tokens().await
    }

    async fn revoke_token(
        &self,
        name: &str,
        audit: NewAudit,
        now: Timestamp,
    ) -> store::Result<bool> {
        self.inner.revoke_token(name, audit, now).await
    }

    async fn touch_tokens(&self, used: Vec<(i64, Timestamp)>) -> store::Result<()> {
        self.inner.touch_tokens(used).await
    }

    async fn audit(&self, entry: NewAudit, now: Timestamp) -> store::Result<()> {
        self.inner.audit(entry, now).await
    }

    async fn audit_log(&self, before: Option<i64>, limit: usize) -> store::Result<Vec<AuditEntry>> {
        self.inner.audit_log(before, limit).await
    }
}

struct Bench {
    store: Arc<Faulty>,
    hub: Hub,
    now: Timestamp,
    _directory: TempDir,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Faulty {
            inner: SqliteState::open(&directory.path().join("state.db")).unwrap(),
            fail_after_commit: AtomicBool::new(false),
        });
        let now = "2026-11-22T16:00:00Z".parse().unwrap();
        let (clock, _) = Clock::manual(now);
        let hub = Hub::load(Arc::clone(&store) as Arc<dyn StateStore>, clock, 10).await.unwrap();
        Self { store, hub, now, _directory: directory }
    }

    async fn add(&self, target: &str) -> Result<Added, ChangeError> {
        self.hub.add(vec![block(target)], audit(), self.now).await
    }

    async fn change(&self, change: limits::Change) -> Result<LimitsChanged, ChangeError> {
        self.hub.change_limits(change, audit(), self.now).await
    }

    /// Another hub on the same store, as after a restart.
    async fn restarted(&self) -> Hub {
        let (clock, _) = Clock::manual(self.now);
        Hub::load(Arc::clone(&self.store) as Arc<dyn StateStore>, clock, 10).await.unwrap()
    }

    /// Targets of the whole set, as a new proxy is told.
    async fn told(&self) -> Vec<String> {
        let mut told = Vec::new();
        let Polled::Snapshot(bytes) = self.hub.poll(None, 0, Duration::ZERO).await else {
            panic!("expected a snapshot")
        };
        let message = wire::decode(&bytes).unwrap();
        assert_eq!(message.header.revision, self.hub.revision());
        for frame in message.frames {
            frame.entries(|entry| told.push(entry.target.addr().to_string())).unwrap();
        }
        told
    }
}

fn block(target: &str) -> NewDecision {
    NewDecision {
        target: ipwarden::address::parse_target(target).unwrap(),
        action: Action::Block,
        origin: Origin::Manual,
        reason: String::new(),
        expires_at: None,
    }
}

fn set(name: &str) -> limits::Change {
    let definition = format!(r#"{{"name":"{name}","anonymous":{{"requests":5,"per":"1m"}}}}"#);
    limits::Change::Set { name: name.to_owned(), definition }
}

/// What a body says of decisions (revisions of its messages) and of limits (number, names).
fn read(polled: &Polled) -> (Vec<u64>, Option<(u64, Vec<String>)>) {
    let (Polled::Snapshot(body) | Polled::Delta(body) | Polled::Limits(body)) = polled else {
        return (Vec::new(), None);
    };
    let body = wire::decode_body(body).unwrap();
    let revisions = [body.message, body.then].into_iter().flatten();
    let revisions = revisions.map(|message| message.header.revision.number).collect();
    let limits = (!body.rest.is_empty()).then(|| {
        let message = policy::decode(body.rest).unwrap();
        let told = ipwarden::config::check_policy(message.payload).unwrap();
        let names = told.limits.iter().map(|change| match change {
            policy::Override::Whole(limit) => limit.name.clone(),
            policy::Override::Mode { name, mode } => format!("{name}:{}", mode.as_str()),
        });
        (message.number, names.collect())
    });
    (revisions, limits)
}

fn told(number: u64, names: &[&str]) -> Option<(u64, Vec<String>)> {
    Some((number, names.iter().map(|name| (*name).to_owned()).collect()))
}

fn audit() -> NewAudit {
    NewAudit { actor: "test".into(), action: "test", subject: String::new(), detail: String::new() }
}

#[tokio::test]
async fn a_change_that_was_committed_but_reported_as_failed_is_told_all_the_same() {
    let bench = Bench::new().await;
    bench.add("192.0.2.1").await.unwrap();
    let at = bench.hub.revision();
    bench.store.fail_after_commit.store(true, Ordering::Relaxed);
    let error = bench.add("192.0.2.2").await.unwrap_err();
    assert_eq!(error.to_string(), "store is unavailable: connection lost");
    // Memory follows the store, whatever the error said.
    assert!(matches!(bench.hub.poll(Some(at), 0, Duration::ZERO).await, Polled::Snapshot(_)));
    assert_eq!(bench.told().await, ["192.0.2.1", "192.0.2.2"]);
    bench.add("192.0.2.3").await.unwrap();
    assert_eq!(bench.told().await.len(), 3);
}

#[tokio::test]
async fn a_change_from_elsewhere_is_noticed_with_the_next_one_or_within_a_minute() {
    let bench = Bench::new().await;
    let elsewhere =
        |target| bench.store.inner.add_decisions(vec![block(target)], audit(), bench.now);
    elsewhere("192.0.2.1").await.unwrap();
    bench.add("192.0.2.2").await.unwrap();
    assert_eq!(bench.told().await, ["192.0.2.1", "192.0.2.2"]);

    let at = bench.hub.revision();
    let waiting = bench.hub.poll(Some(at), 0, Duration::from_secs(30));
    let changing = async {
        elsewhere("192.0.2.3").await.unwrap();
        bench.hub.verify().await.unwrap();
    };
    let (polled, ()) = tokio::join!(waiting, changing);
    assert!(matches!(polled, Polled::Snapshot(_)), "{polled:?}");
    assert_eq!(bench.told().await.len(), 3);
}

#[tokio::test]
async fn a_change_is_told_even_if_whoever_made_it_goes_away() {
    let bench = Bench::new().await;
    let at = bench.hub.revision();
    let hub = bench.hub.clone();
    let now = bench.now;
    let abandoned =
        tokio::spawn(async move { hub.add(vec![block("192.0.2.1")], audit(), now).await });
    // Started, then dropped at its first wait.
    tokio::task::yield_now().await;
    abandoned.abort();
    let polled = bench.hub.poll(Some(at), 0, Duration::from_secs(30)).await;
    assert!(matches!(polled, Polled::Delta(_)), "{polled:?}");
}

#[tokio::test]
async fn changes_at_once_are_told_in_the_order_of_their_revisions() {
    let bench = Bench::new().await;
    let at = bench.hub.revision();
    let targets: Vec<String> = (0..50).map(|n| format!("192.0.2.{n}")).collect();
    let added =
        futures_util::future::join_all(targets.iter().map(|target| bench.add(target))).await;
    let mut numbers: Vec<u64> =
        added.iter().map(|added| added.as_ref().unwrap().revision.number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (at.number + 1..=at.number + 50).collect::<Vec<_>>());
    let Polled::Delta(bytes) = bench.hub.poll(Some(at), 0, Duration::ZERO).await else {
        panic!("expected a delta")
    };
    let mut ids = Vec::new();
    for frame in wire::decode(&bytes).unwrap().frames {
        frame
            .changes(|change| {
                let Change::Add(entry) = change else { panic!("{change:?}") };
                ids.push(entry.id);
            })
            .unwrap();
    }
    assert!(ids.is_sorted() && ids.len() == 50, "{ids:?}");
}

#[tokio::test]
async fn nothing_changed_is_no_news() {
    let bench = Bench::new().await;
    let at = bench.hub.revision();
    let removed = bench.hub.remove(Removal::Ids(vec![7]), audit(), bench.now).await.unwrap();
    assert_eq!((removed.revision, removed.decisions.len()), (at, 0));
    assert_eq!(bench.hub.poll(Some(at), 0, Duration::ZERO).await, Polled::Unchanged);
}

#[tokio::test]
async fn a_set_that_no_proxy_could_load_is_refused() {
    let bench = Bench::new().await;
    // Single IPv6 addresses far apart: each takes some twenty bytes.
    let sparse = |n: u64| {
        let bits = u128::from(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(n);
        NewDecision {
            target: ipnet::IpNet::from(std::net::IpAddr::from(std::net::Ipv6Addr::from(bits))),
            ..block("::1")
        }
    };
    let new = (0..1_800_000).map(sparse).collect();
    let error = bench.hub.add(new, audit(), bench.now).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the decision set would grow beyond what a proxy can load: at most 31 MiB encoded; remove decisions, or join neighbouring addresses to networks"
    );
    assert_eq!(bench.hub.revision().number, 0);
}

#[tokio::test]
async fn a_change_of_limits_wakes_waiting_polls_and_is_one_revision() {
    let bench = Bench::new().await;
    bench.add("192.0.2.1").await.unwrap();
    let at = bench.hub.revision();
    let waiting = bench.hub.poll(Some(at), 0, Duration::from_secs(30));
    let (polled, changed) = tokio::join!(waiting, bench.change(set("login")));
    let changed = changed.unwrap();
    assert_eq!(changed.revision, Revision { number: at.number + 1, ..at });
    assert_eq!(bench.hub.revision(), changed.revision);
    assert!(matches!(polled, Polled::Delta(_)), "{polled:?}");
    assert_eq!(read(&polled), (vec![2], told(2, &["login"])));
    // It has both now.
    let polled = bench.hub.poll(Some(changed.revision), 2, Duration::ZERO).await;
    assert_eq!(polled, Polled::Unchanged);
}

#[tokio::test]
async fn a_proxy_with_the_policy_does_not_get_it_again() {
    let bench = Bench::new().await;
    bench.change(set("login")).await.unwrap();
    let at = bench.hub.revision();
    bench.add("192.0.2.1").await.unwrap();
    let polled = bench.hub.poll(Some(at), 1, Duration::ZERO).await;
    assert_eq!(read(&polled), (vec![2], None));
}

#[tokio::test]
async fn a_proxy_with_another_policy_gets_it_alone_at_once() {
    let bench = Bench::new().await;
    bench.change(set("login")).await.unwrap();
    let at = bench.hub.revision();
    for has in [0, 7] {
        let polled = bench.hub.poll(Some(at), has, Duration::from_secs(30)).await;
        assert!(matches!(polled, Polled::Limits(_)), "{polled:?}");
        assert_eq!(read(&polled), (vec![], told(1, &["login"])));
    }
}

#[tokio::test]
async fn a_new_proxy_gets_decisions_and_limits_and_so_it_does_after_a_restart() {
    let bench = Bench::new().await;
    bench.add("192.0.2.1").await.unwrap();
    bench.change(set("login")).await.unwrap();
    let mode = limits::Change::Mode { name: "api".to_owned(), mode: Mode::Shadow };
    bench.change(mode).await.unwrap();
    let expected = (vec![3], told(3, &["api:shadow", "login"]));
    for hub in [bench.hub.clone(), bench.restarted().await] {
        let polled = hub.poll(None, 0, Duration::ZERO).await;
        assert!(matches!(polled, Polled::Snapshot(_)), "{polled:?}");
        assert_eq!(read(&polled), expected);
        assert_eq!(hub.poll(Some(hub.revision()), 3, Duration::ZERO).await, Polled::Unchanged);
    }
}

#[tokio::test]
async fn a_database_that_lost_its_limits_says_so() {
    let (old, new) = (Bench::new().await, Bench::new().await);
    old.change(set("login")).await.unwrap();
    new.add("192.0.2.1").await.unwrap();
    let at = old.hub.revision();
    assert_eq!(at.number, new.hub.revision().number);
    let polled = new.hub.poll(Some(at), 1, Duration::from_secs(30)).await;
    assert_eq!(read(&polled), (vec![1], told(0, &[])));
    // And one that has others, under the same number.
    let other = Bench::new().await;
    other.change(set("search")).await.unwrap();
    let polled = other.hub.poll(Some(at), 1, Duration::from_secs(30)).await;
    assert_eq!(read(&polled), (vec![1], told(1, &["search"])));
    // Whoever has none is told of none.
    let polled = new.hub.poll(None, 0, Duration::ZERO).await;
    assert_eq!(read(&polled), (vec![1], None));
}

#[tokio::test]
async fn a_change_of_limits_that_was_reported_as_failed_is_told_all_the_same() {
    let bench = Bench::new().await;
    let at = bench.hub.revision();
    bench.store.fail_after_commit.store(true, Ordering::Relaxed);
    let error = bench.change(set("login")).await.unwrap_err();
    assert_eq!(error.to_string(), "store is unavailable: connection lost");
    let polled = bench.hub.poll(Some(at), 0, Duration::ZERO).await;
    assert_eq!(read(&polled).1, told(1, &["login"]));
}

#[tokio::test]
async fn limits_that_no_proxy_would_take_are_refused_before_they_are_stored() {
    let bench = Bench::new().await;
    // Limits of some 30 KB each.
    let large = |n: usize| {
        let paths: Vec<String> = (0..32).map(|at| format!("/{at}/{}", "x".repeat(1_000))).collect();
        let definition = serde_json::json!({
            "name": format!("l{n}"), "match": {"path": paths},
            "anonymous": {"requests": 5, "per": "1m"},
        });
        limits::Change::Set { name: format!("l{n}"), definition: definition.to_string() }
    };
    let mut stored = 0;
    let error = loop {
        match bench.change(large(stored)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    let ChangeError::LimitsFull { bytes } = error else { panic!("{error:?}") };
    assert_eq!(
        error.to_string(),
        format!(
            "all changes to limits together would take {bytes} bytes: expected at most 262144; shorten this one, or remove others"
        )
    );
    assert_eq!(bench.hub.revision().number, stored as u64);
    assert_eq!(bench.store.inner.limits(bench.now).await.unwrap().1.overrides.len(), stored);

    let unknown = r#"{"name":"login","anonymous":"unlimited","requets":5}"#.to_owned();
    let unknown = limits::Change::Set { name: "login".to_owned(), definition: unknown };
    let error = bench.change(unknown).await.unwrap_err();
    assert!(matches!(error, ChangeError::Limits(_)), "{error:?}");
    assert_eq!(bench.hub.revision().number, stored as u64);
}

#[tokio::test]
async fn old_resets_are_left_out_without_waking_anybody() {
    let bench = Bench::new().await;
    let (clock, handle) = Clock::manual(bench.now);
    let store = Arc::clone(&bench.store) as Arc<dyn StateStore>;
    let hub = Hub::load(store, clock, 10).await.unwrap();
    let reset = limits::Change::Reset { key: "192.0.2.1".to_owned(), limit: None };
    hub.change_limits(reset, audit(), bench.now).await.unwrap();
    let resets = async || {
        let Polled::Limits(body) = hub.poll(Some(hub.revision()), 0, Duration::ZERO).await else {
            panic!("expected limits")
        };
        let payload = policy::decode(&body).unwrap().payload.to_vec();
        ipwarden::config::check_policy(&payload).unwrap().resets.len()
    };
    assert_eq!(resets().await, 1);
    handle.advance(Duration::from_secs(7 * 86_400));
    hub.verify().await.unwrap();
    assert_eq!(resets().await, 0);
    assert_eq!(hub.poll(Some(hub.revision()), 1, Duration::ZERO).await, Polled::Unchanged);
}
