//! The contract on a private server, and what several processes on one schema see of each
//! other.

use std::net::IpAddr;
use std::sync::LazyLock;

use super::*;
use crate::model::{Action, Origin, Role};
use crate::privacy::Veil;
use crate::store::contract::Fixture;
use crate::store::contract::state::state_contract;

#[path = "../../../../tests/fixtures/postgres.rs"]
mod server;

use server::Server;

/// One for all tests of this process.
static SERVER: LazyLock<Option<Server>> = LazyLock::new(|| Server::start(false));

/// A schema of its own.
struct Schema(Option<String>);

impl Schema {
    async fn new() -> Self {
        let fresh = tokio::task::spawn_blocking(|| Some(SERVER.as_ref()?.fresh_schema()));
        Self(fresh.await.unwrap())
    }

    fn location(&self) -> Option<Location> {
        self.0.as_ref().map(|url| Location::parse(url).unwrap())
    }

    async fn open(&self) -> Option<PostgresState> {
        Some(PostgresState::open(self.location()?, "").await.unwrap())
    }
}

impl Fixture for Schema {
    type Store = PostgresState;

    async fn fresh() -> Self {
        Self::new().await
    }

    async fn open(&self) -> PostgresState {
        Self::open(self).await.expect("state_contract asks whether there is a server")
    }
}

fn is_there() -> bool {
    SERVER.is_some()
}

state_contract!(Schema, is_there);

fn now() -> Timestamp {
    "2026-11-22T16:00:00Z".parse().unwrap()
}

fn audit() -> NewAudit {
    NewAudit { actor: "test".into(), action: "test", subject: String::new(), detail: String::new() }
}

fn block(target: &str) -> NewDecision {
    NewDecision {
        target: ipwarden::address::parse_target(target).unwrap(),
        action: Action::Block,
        origin: Origin::Manual,
        reason: "scraping".to_owned(),
        expires_at: None,
    }
}

/// Waits until something holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "did not come true: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_have_no_gaps_however_many_processes_write() {
    let schema = Schema::new().await;
    let (Some(a), Some(b)) = (schema.open().await, schema.open().await) else { return };
    let (a, b) = (Arc::new(a), Arc::new(b));
    let before = a.revision().await.unwrap();
    let mut writers = Vec::new();
    for (n, store) in [&a, &b].into_iter().cycle().take(40).enumerate() {
        let store = Arc::clone(store);
        writers.push(tokio::spawn(async move {
            let target = format!("192.0.2.{n}");
            store.add_decisions(vec![block(&target)], audit(), now()).await.unwrap().revision
        }));
    }
    let mut numbers = Vec::new();
    for writer in writers {
        numbers.push(writer.await.unwrap().number);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
    // Whoever follows the steps has what whoever reads the set has.
    let steps = b.steps_after(before).await.unwrap().unwrap();
    let followed: Vec<u64> = steps.iter().map(|step| step.revision.number).collect();
    assert_eq!(followed, numbers);
    let mut added: Vec<Entry> = steps
        .iter()
        .flat_map(|step| &step.changes)
        .map(|change| match change {
            ipwarden::decisions::Change::Add(entry) => *entry,
            other => panic!("{other:?}"),
        })
        .collect();
    added.sort_by_key(Entry::sort_key);
    assert_eq!(a.entries(now()).await.unwrap(), (steps[39].revision, added));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_start_at_once_make_one_schema() {
    let schema = Schema::new().await;
    let Some(location) = schema.location() else { return };
    let starts = (0..6).map(|_| tokio::spawn(PostgresState::open(location.clone(), "")));
    let mut epochs = Vec::new();
    for start in starts.collect::<Vec<_>>() {
        let store = start.await.unwrap().unwrap();
        epochs.push(store.revision().await.unwrap().epoch);
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_a_later_version_is_refused() {
    let schema = Schema::new().await;
    let Some(location) = schema.location() else { return };
    drop(schema.open().await);
    let (client, connection) =
        location.config().connect(location.connector().unwrap()).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("INSERT INTO ipwarden_schema (version) VALUES (99)").await.unwrap();
    let error = PostgresState::open(location.clone(), "").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "store can't be used: {location}: its schema is of version 99, this program knows versions up to 2: start a later ipwarden"
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_to_the_others_at_once() {
    let schema = Schema::new().await;
    let (Some(a), Some(b)) = (schema.open().await, schema.open().await) else { return };
    let mut news = b.shared().unwrap().news;
    // It listens: everything counted as news once.
    news.wait_for(|news| news.decisions > 0).await.unwrap();
    let before = *news.borrow_and_update();
    a.add_decisions(vec![block("192.0.2.1")], audit(), now()).await.unwrap();
    let told = news.wait_for(|news| news.decisions > before.decisions);
    tokio::time::timeout(Duration::from_secs(5), told).await.unwrap().unwrap();
    let token = NewToken { name: "edge".to_owned(), role: Role::Proxy, hash: [1; 32] };
    a.create_token(token, audit(), now()).await.unwrap().unwrap();
    let told = news.wait_for(|news| news.tokens > before.tokens);
    tokio::time::timeout(Duration::from_secs(5), told).await.unwrap().unwrap();
    assert_eq!(b.tokens().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_are_not_kept_mean_reading_everything() {
    let schema = Schema::new().await;
    let Some(store) = schema.open().await else { return };
    let start = store.revision().await.unwrap();
    assert_eq!(store.steps_after(start).await.unwrap(), Some(vec![]));
    let other_life = Revision { epoch: start.epoch + 1, ..start };
    assert_eq!(store.steps_after(other_life).await.unwrap(), None);
    let future = Revision { number: 7, ..start };
    assert_eq!(store.steps_after(future).await.unwrap(), None);

    let added = store.add_decisions(vec![block("192.0.2.1")], audit(), now()).await.unwrap();
    let change = Change::Reset { key: "192.0.2.1".to_owned(), limit: None };
    store.change_limits(change, audit(), now()).await.unwrap();
    let steps = store.steps_after(start).await.unwrap().unwrap();
    let seen: Vec<_> = steps.iter().map(|step| (step.changes.len(), step.limits)).collect();
    assert_eq!(seen, [(1, false), (0, true)]);
    assert_eq!(steps[0].changes, added.changes);

    // A step that is too large is not kept.
    let many = (0..60_000u32).map(|n| {
        let address = IpAddr::from(std::net::Ipv4Addr::from(n.wrapping_mul(2_654_435_761) | 1));
        NewDecision { target: IpNet::from(address), ..block("192.0.2.1") }
    });
    store.add_decisions(many.collect(), audit(), now()).await.unwrap();
    assert_eq!(store.steps_after(start).await.unwrap(), None);
    let at = store.revision().await.unwrap();
    store.add_decisions(vec![block("192.0.2.9")], audit(), now()).await.unwrap();
    assert_eq!(store.steps_after(at).await.unwrap().map(|steps| steps.len()), Some(1));

    // What is erased is in no step.
    let address: IpAddr = "192.0.2.9".parse().unwrap();
    let names = vec![Kept { ip: address, veil: Veil::NONE }];
    store.erase(names, "erased".to_owned(), false, audit(), now()).await.unwrap();
    assert_eq!(store.steps_after(at).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_address_is_in_no_text_of_any_table() {
    let schema = Schema::new().await;
    let Some(store) = schema.open().await else { return };
    let told = |text: &str| NewAudit { subject: text.to_owned(), ..audit() };
    store.audit(told("looked at 203.0.113.7, twice: 203.0.113.7"), now()).await.unwrap();
    store.audit(told("looked at 203.0.113.70"), now()).await.unwrap();
    let reason = NewDecision { reason: "as 203.0.113.7".to_owned(), ..block("192.0.2.1") };
    store.add_decisions(vec![reason], audit(), now()).await.unwrap();
    let gone = store.add_decisions(vec![block("203.0.113.7")], audit(), now()).await.unwrap();
    store.remove_decisions(Removal::Ids(gone.ids), audit(), now()).await.unwrap();
    let reset = Change::Reset { key: "203.0.113.7".to_owned(), limit: None };
    store.change_limits(reset, audit(), now()).await.unwrap();
    // Names are there once only: two that become the same are told apart.
    for name in ["of X", "of 203.0.113.7"] {
        let mode = Change::Mode { name: name.to_owned(), mode: ipwarden::limits::Mode::Shadow };
        store.change_limits(mode, audit(), now()).await.unwrap();
    }
    let names = || vec![Kept { ip: "203.0.113.7".parse().unwrap(), veil: Veil::NONE }];
    let held = store.subject(names(), None, 10).await.unwrap();
    assert_eq!((held.decisions.len(), held.audit.len(), held.limit_resets), (1, 1, 1));
    let erased = store.erase(names(), "X".to_owned(), false, audit(), now()).await.unwrap();
    assert_eq!((erased.decisions, erased.redacted), (1, 4));
    let held = store.subject(names(), None, 10).await.unwrap();
    assert_eq!(held, SubjectState::default());
    let subjects: Vec<String> =
        store.audit_log(None, 100).await.unwrap().into_iter().map(|line| line.subject).collect();
    assert!(subjects.contains(&"looked at X, twice: X".to_owned()), "{subjects:?}");
    assert!(subjects.contains(&"looked at 203.0.113.70".to_owned()), "{subjects:?}");
    store.rewrite().await.unwrap();
    let dump = schema.0.as_ref().unwrap().rsplit_once("%3D").unwrap().1.to_owned();
    let dump = tokio::task::spawn_blocking(move || {
        let server = SERVER.as_ref().unwrap();
        let tables = server.sql(&format!(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = '{dump}'"
        ));
        let rows = |table: &str| server.sql(&format!("SELECT t::text FROM {dump}.{table} t"));
        tables.lines().map(rows).collect::<Vec<_>>().join("\n")
    });
    let dump = dump.await.unwrap();
    assert!(dump.contains("203.0.113.70") && !dump.contains("203.0.113.7,"), "{dump}");
    assert!(!crate::privacy::mention::mentions(&dump, "203.0.113.7".parse().unwrap()), "{dump}");
}

/// Who holds the lease, and for how many more seconds.
async fn lease(store: &PostgresState) -> Option<(String, f64)> {
    let lease = store.read(|tx| async {
        let sql = "SELECT holder, extract(epoch FROM expires_at - clock_timestamp())::float8 \
             FROM leases";
        let row = tx.optional(sql, &[]).await?;
        let lease = row.map(|row| Work::Ok((row.try_get(0)?, row.try_get(1)?))).transpose()?;
        Ok((tx, lease))
    });
    lease.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_another_takes_over() {
    let schema = Schema::new().await;
    let Some(a) = schema.open().await else { return };
    let lead_a = a.shared().unwrap().leadership;
    lead_a.gained().await;
    let b = schema.open().await.unwrap();
    let lead_b = b.shared().unwrap().leadership;
    // Whoever else asks is refused.
    let other = b.write(|tx| async {
        let held = news::hold(&tx, "another").await?;
        Ok((tx, held))
    });
    assert!(!other.await.unwrap());
    assert!(lead_a.leads() && !lead_b.leads());
    // Gone without a word: its lease runs out, and no earlier another one leads.
    let holder = a.holder.clone();
    drop(a);
    let start = Instant::now();
    let (holds, left) = lease(&b).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), lead_b.gained()).await.unwrap();
    if holds == holder {
        assert!(start.elapsed().as_secs_f64() >= left, "{:?} {left}", start.elapsed());
    }
    // Orderly: given back, and the next one need not wait for its end.
    let c = schema.open().await.unwrap();
    let lead_c = c.shared().unwrap().leadership;
    b.close().await;
    let held = lease(&c).await.map(|(holder, _)| holder);
    assert!(held.is_none_or(|held| held == c.holder), "it was given back");
    tokio::time::timeout(Duration::from_secs(60), lead_c.gained()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_of_one_log_is_done_once_whoever_does_it() {
    let schema = Schema::new().await;
    let (Some(a), Some(b)) = (schema.open().await, schema.open().await) else { return };
    let done = |hour| PassDone { hour, finished_at: now(), addresses: 1, requests: 2, flagged: 0 };
    let both =
        tokio::join!(a.finish_pass(done(7), vec![], now()), b.finish_pass(done(7), vec![], now()));
    let (one, other) = (both.0.unwrap(), both.1.unwrap());
    assert!(one.is_some() != other.is_some(), "{one:?} {other:?}");
    // Another log's hours are others.
    let own = PostgresState::open(schema.location().unwrap(), "own").await.unwrap();
    assert_eq!(own.last_pass().await.unwrap(), None);
    assert!(own.finish_pass(done(7), vec![], now()).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_before_the_commit_is_tried_again() {
    let schema = Schema::new().await;
    let Some(store) = schema.open().await else { return };
    let tries = std::sync::atomic::AtomicU32::new(0);
    let tries = &tries;
    let done: Result<u32> = store
        .write(|tx| async move {
            if tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2 {
                tx.batch("SELECT pg_terminate_backend(pg_backend_pid())").await?;
            }
            Ok((tx, 7))
        })
        .await;
    assert_eq!((done.unwrap(), tries.load(std::sync::atomic::Ordering::Relaxed)), (7, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_and_comes_back_is_noticed_both_times() {
    let Some(server) = Server::start(true) else { return };
    let server = Arc::new(server);
    let store = PostgresState::open(Location::parse(&server.url()).unwrap(), "").await.unwrap();
    let mut news = store.shared().unwrap().news;
    let added = store.add_decisions(vec![block("192.0.2.1")], audit(), now()).await.unwrap();
    news.wait_for(|news| news.decisions > 0).await.unwrap();
    assert_eq!(store.problem(), None);
    let at = Arc::clone(&server);
    tokio::task::spawn_blocking(move || at.kill()).await.unwrap();
    let refused = store.add_decisions(vec![block("192.0.2.2")], audit(), now()).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(store.problem().is_some());
    // From now on nobody waits.
    eventually("refusals come at once", async || {
        let start = Instant::now();
        let refused = store.revision().await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
        start.elapsed() < Duration::from_millis(100)
    })
    .await;
    let before = *news.borrow_and_update();
    let at = Arc::clone(&server);
    tokio::task::spawn_blocking(move || at.restart()).await.unwrap();
    let told = news.wait_for(|news| news.decisions > before.decisions);
    tokio::time::timeout(Duration::from_secs(10), told).await.unwrap().unwrap();
    assert_eq!(store.problem(), None);
    assert_eq!(store.revision().await.unwrap(), added.revision);
}
