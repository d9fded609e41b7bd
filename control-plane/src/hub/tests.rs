//! What happens when a change is only half told: the store has it, memory doesn't.

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use ipwarden::decisions::{Change, Entry, wire};
use tempfile::TempDir;

use super::*;
use crate::model::{Action, AuditEntry, Decision, Origin, Token};
use crate::store::sqlite::SqliteState;
use crate::store::{DecisionFilter, NewToken};

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

    /// Targets of the whole set, as a new proxy is told.
    async fn told(&self) -> Vec<String> {
        let mut told = Vec::new();
        let Polled::Snapshot(bytes) = self.hub.poll(None, Duration::ZERO).await else {
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
    assert!(matches!(bench.hub.poll(Some(at), Duration::ZERO).await, Polled::Snapshot(_)));
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
    let waiting = bench.hub.poll(Some(at), Duration::from_secs(30));
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
    let polled = bench.hub.poll(Some(at), Duration::from_secs(30)).await;
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
    let Polled::Delta(bytes) = bench.hub.poll(Some(at), Duration::ZERO).await else {
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
    assert_eq!(bench.hub.poll(Some(at), Duration::ZERO).await, Polled::Unchanged);
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
        "the decision set would grow beyond what a proxy can load: at most 32 MiB encoded; remove decisions, or join neighbouring addresses to networks"
    );
    assert_eq!(bench.hub.revision().number, 0);
}
