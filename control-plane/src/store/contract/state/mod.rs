//! What every [`StateStore`] must do.

mod feeds;
mod limits;
mod model;
mod notify;
mod regions;
mod suspects;

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use ipwarden::decisions::{Change, Entry};
use jiff::Timestamp;

use super::Fixture;
use crate::model::{Action, Decision, DecisionId, NewDecision, Origin, Role};
use crate::store::{DecisionFilter, NewAudit, NewToken, Removal, StateStore};

/// Makes each behaviour a test for a [`Fixture`] of a [`StateStore`].
///
/// The second argument says whether the fixture's server is there; where it is not, nothing is
/// tested (and the fixture has said so).
macro_rules! state_contract {
    ($fixture:ty) => {
        $crate::store::contract::state::state_contract!(
            $fixture,
            $crate::store::contract::always
        );
    };
    ($fixture:ty, $is_there:path) => {
        $crate::store::contract::state::state_contract!($fixture, $is_there;
            a_new_store_has_revision_0_and_an_epoch_for_life,
            revisions_have_no_gaps_however_many_write_at_once,
            an_addition_replaces_what_has_its_target_action_and_origin,
            the_last_of_equal_ones_in_a_call_stays,
            nothing_changed_is_no_revision,
            a_decision_ends_at_its_end,
            entries_are_in_wire_order_with_their_tiers,
            removal_is_by_number_or_by_exact_target,
            listing_filters_counts_and_pages,
            sweeping_keeps_the_revision_and_what_lives,
            numbers_are_never_given_twice,
            a_set_replaces_what_its_origin_had_in_one_revision,
            what_differs_little_in_its_end_stays_as_it_is,
            targets_that_ended_are_told,
            a_feed_is_kept_with_what_became_of_it,
            limits_and_decisions_share_one_revision,
            a_limit_is_kept_until_it_is_removed,
            resets_are_numbered_on_and_grow_old,
            limits_agree_with_what_was_foreseen,
            regions_are_numbered_with_all_decisions_and_kept_until_they_end,
            a_region_is_switched_and_removed_by_region_and_path,
            a_target_is_one_suspect_with_more_reasons,
            what_was_judged_is_no_news_for_a_while,
            the_policy_decides_once_about_each_flag,
            suspects_are_forgotten_when_nothing_is_new,
            an_hour_is_passed_over_once,
            hooks_are_told_what_they_listen_to_until_they_were,
            what_waits_for_a_hook_is_bounded_and_what_is_dropped_is_counted,
            a_token_lives_under_its_name_until_it_is_revoked,
            the_audit_log_is_read_backwards_in_pages,
            whatever_happens_agrees_with_the_model,
        );
    };
    ($fixture:ty, $is_there:path; $($behaviour:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $behaviour() {
                if !$is_there() {
                    return;
                }
                $crate::store::contract::state::$behaviour::<$fixture>().await;
            }
        )*
    };
}
pub(crate) use feeds::{
    a_feed_is_kept_with_what_became_of_it, a_set_replaces_what_its_origin_had_in_one_revision,
    targets_that_ended_are_told, what_differs_little_in_its_end_stays_as_it_is,
};
pub(crate) use limits::{
    a_limit_is_kept_until_it_is_removed, limits_agree_with_what_was_foreseen,
    limits_and_decisions_share_one_revision, resets_are_numbered_on_and_grow_old,
};
pub(crate) use model::whatever_happens_agrees_with_the_model;
pub(crate) use notify::{
    hooks_are_told_what_they_listen_to_until_they_were,
    what_waits_for_a_hook_is_bounded_and_what_is_dropped_is_counted,
};
pub(crate) use regions::{
    a_region_is_switched_and_removed_by_region_and_path,
    regions_are_numbered_with_all_decisions_and_kept_until_they_end,
};
pub(crate) use state_contract;
pub(crate) use suspects::{
    a_target_is_one_suspect_with_more_reasons, an_hour_is_passed_over_once,
    suspects_are_forgotten_when_nothing_is_new, the_policy_decides_once_about_each_flag,
    what_was_judged_is_no_news_for_a_while,
};

fn start() -> Timestamp {
    "2026-11-22T16:00:00Z".parse().unwrap()
}

fn after(seconds: u64) -> Timestamp {
    start() + Duration::from_secs(seconds)
}

fn net(text: &str) -> IpNet {
    ipwarden::address::parse_target(text).unwrap()
}

fn audit(subject: &str) -> NewAudit {
    NewAudit {
        actor: "tester".to_owned(),
        action: "decisions.add",
        subject: subject.to_owned(),
        detail: "contract".to_owned(),
    }
}

fn block(target: &str) -> NewDecision {
    NewDecision {
        target: net(target),
        action: Action::Block,
        origin: Origin::Manual,
        reason: "scraping".to_owned(),
        expires_at: None,
    }
}

fn feed() -> Origin {
    Origin::Feed("drop".to_owned())
}

async fn all(store: &impl StateStore, now: Timestamp) -> Vec<Decision> {
    let filter = DecisionFilter { limit: usize::MAX, ..DecisionFilter::default() };
    let (decisions, total) = store.decisions(filter, now).await.unwrap();
    assert_eq!(decisions.len() as u64, total);
    decisions
}

fn ids(decisions: &[Decision]) -> Vec<DecisionId> {
    decisions.iter().map(|decision| decision.id).collect()
}

pub(crate) async fn a_new_store_has_revision_0_and_an_epoch_for_life<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let first = store.revision().await.unwrap();
    assert_eq!(first.number, 0);
    let added = store.add_decisions(vec![block("192.0.2.1")], audit(""), start()).await.unwrap();
    assert_eq!((added.revision.epoch, added.revision.number), (first.epoch, 1));
    drop(store);
    let store = fixture.open().await;
    assert_eq!(store.revision().await.unwrap(), added.revision);
    let other = F::fresh().await.open().await.revision().await.unwrap();
    assert_ne!(other.epoch, first.epoch);
}

pub(crate) async fn revisions_have_no_gaps_however_many_write_at_once<F>()
where
    F: Fixture<Store: StateStore + 'static>,
{
    let fixture = F::fresh().await;
    let store = Arc::new(fixture.open().await);
    let writers: Vec<_> = (0..8u8)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut seen = Vec::new();
                for n in 0..6u8 {
                    let target = format!("10.{writer}.{n}.0/24");
                    let added = store.add_decisions(vec![block(&target)], audit(""), start());
                    seen.push(added.await.unwrap().revision.number);
                    if n % 2 == 0 {
                        let which = Removal::Targets {
                            targets: vec![net(&target)],
                            action: Action::Block,
                            origin: None,
                        };
                        let removed = store.remove_decisions(which, audit(""), start());
                        seen.push(removed.await.unwrap().revision.number);
                    }
                }
                seen
            })
        })
        .collect();
    let mut seen = Vec::new();
    for writer in writers {
        seen.extend(writer.await.unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=72).collect::<Vec<u64>>());
    assert_eq!(store.revision().await.unwrap().number, 72);
    assert_eq!(all(&*store, start()).await.len(), 24);
}

pub(crate) async fn an_addition_replaces_what_has_its_target_action_and_origin<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let others = vec![
        NewDecision { origin: feed(), ..block("192.0.2.0/24") },
        NewDecision { action: Action::Allow, ..block("192.0.2.0/24") },
        block("192.0.2.0/25"),
    ];
    let others = store.add_decisions(others, audit(""), start()).await.unwrap();
    assert!(others.replaced.is_empty());
    let first = store.add_decisions(vec![block("192.0.2.0/24")], audit(""), start()).await.unwrap();
    let again = NewDecision { reason: "again".to_owned(), ..block("192.0.2.0/24") };
    let again = store.add_decisions(vec![again], audit(""), after(1)).await.unwrap();
    assert_eq!(again.replaced, first.ids);
    let Change::Add(entry) = again.changes[1] else { panic!("{:?}", again.changes) };
    assert_eq!(entry.id, again.ids[0]);
    let gone = Change::Remove { target: net("192.0.2.0/24"), id: first.ids[0] };
    assert_eq!(again.changes, [gone, Change::Add(entry)]);
    let live = all(&store, after(1)).await;
    assert_eq!(ids(&live), [again.ids[0], others.ids[2], others.ids[1], others.ids[0]]);
    assert_eq!((live[0].reason.as_str(), live[0].created_at), ("again", after(1)));
}

pub(crate) async fn the_last_of_equal_ones_in_a_call_stays<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let new = vec![block("192.0.2.1"), block("192.0.2.2"), block("192.0.2.1")];
    let added = store.add_decisions(new, audit(""), start()).await.unwrap();
    assert_eq!(added.ids.len(), 3);
    assert_eq!(added.replaced, [added.ids[0]]);
    let (revision, entries) = store.entries(start()).await.unwrap();
    assert_eq!(revision, added.revision);
    assert_eq!(
        entries.iter().map(|entry| entry.id).collect::<Vec<_>>(),
        [added.ids[2], added.ids[1]]
    );
    assert_eq!(added.changes, [Change::Add(entries[1]), Change::Add(entries[0])]);
}

pub(crate) async fn nothing_changed_is_no_revision<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let before = store.revision().await.unwrap();
    let added = store.add_decisions(vec![], audit(""), start()).await.unwrap();
    assert_eq!((added.revision, added.ids.len()), (before, 0));
    let which = Removal::Ids(vec![1, 2, 3]);
    let removed = store.remove_decisions(which, audit(""), start()).await.unwrap();
    assert_eq!((removed.revision, removed.decisions.len()), (before, 0));
    assert_eq!(store.revision().await.unwrap(), before);
    assert!(store.audit_log(None, 10).await.unwrap().is_empty());
}

pub(crate) async fn a_decision_ends_at_its_end<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let short = || NewDecision { expires_at: Some(after(60)), ..block("2001:db8::/32") };
    let first = store.add_decisions(vec![short()], audit(""), start()).await.unwrap();
    let host = net("2001:db8::7");
    let just_before = after(60).checked_sub(Duration::from_micros(1)).unwrap();
    assert_eq!(all(&store, just_before).await.len(), 1);
    assert_eq!(store.covering(host, just_before).await.unwrap().len(), 1);
    assert_eq!(store.entries(just_before).await.unwrap().1.len(), 1);
    assert!(all(&store, after(60)).await.is_empty());
    assert!(store.covering(host, after(60)).await.unwrap().is_empty());
    assert!(store.entries(after(60)).await.unwrap().1.is_empty());
    // One that has ended can't be removed, and is not replaced.
    let which = Removal::Ids(first.ids);
    let removed = store.remove_decisions(which, audit(""), after(60)).await.unwrap();
    assert_eq!((removed.revision, removed.decisions.len()), (first.revision, 0));
    let second = NewDecision { expires_at: None, ..short() };
    let second = store.add_decisions(vec![second], audit(""), after(60)).await.unwrap();
    assert!(second.replaced.is_empty());
    assert_eq!(second.changes.len(), 1);
    assert_eq!(ids(&all(&store, after(60)).await), second.ids);
}

pub(crate) async fn entries_are_in_wire_order_with_their_tiers<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let half = after(10).checked_add(Duration::from_millis(1)).unwrap();
    let new = vec![
        block("2001:db8::1"),
        block("10.1.0.0/16"),
        NewDecision { origin: feed(), ..block("10.0.0.0/8") },
        NewDecision { origin: Origin::Detector("probing".to_owned()), ..block("10.0.0.0/8") },
        NewDecision { action: Action::Allow, origin: feed(), ..block("10.0.0.0/8") },
        NewDecision { action: Action::Allow, ..block("10.0.0.0/8") },
        NewDecision { expires_at: Some(half), ..block("0.0.0.0/0") },
    ];
    let added = store.add_decisions(new, audit(""), start()).await.unwrap();
    let (_, entries) = store.entries(start()).await.unwrap();
    let mut expected: Vec<Entry> = added
        .changes
        .iter()
        .map(|change| match change {
            Change::Add(entry) => *entry,
            Change::Remove { .. } => panic!("{change:?}"),
        })
        .collect();
    expected.sort_by_key(Entry::sort_key);
    assert_eq!(entries, expected);
    let tiers: Vec<u8> = entries.iter().map(|entry| entry.tier as u8).collect();
    assert_eq!(tiers, [1, 0, 0, 2, 3, 1, 1]);
    // Proxies know whole seconds: rounded up, so that it ends there no earlier than here.
    assert_eq!(i64::from(entries[0].expires_at), after(11).as_second());
}

pub(crate) async fn removal_is_by_number_or_by_exact_target<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let new = vec![
        block("192.0.2.0/24"),
        NewDecision { origin: feed(), ..block("192.0.2.0/24") },
        NewDecision { action: Action::Allow, ..block("192.0.2.0/24") },
        block("192.0.2.1"),
    ];
    let added = store.add_decisions(new, audit(""), start()).await.unwrap();
    let targets = || vec![net("192.0.2.0/24"), net("192.0.2.0/24"), net("198.51.100.1")];
    let of = |origin| Removal::Targets { targets: targets(), action: Action::Block, origin };
    let removed = store.remove_decisions(of(Some(feed())), audit(""), start()).await.unwrap();
    assert_eq!(ids(&removed.decisions), [added.ids[1]]);
    let gone = Change::Remove { target: net("192.0.2.0/24"), id: added.ids[1] };
    assert_eq!(removed.changes, [gone]);
    assert_eq!(removed.revision.number, added.revision.number + 1);
    let removed = store.remove_decisions(of(None), audit(""), start()).await.unwrap();
    assert_eq!(ids(&removed.decisions), [added.ids[0]]);
    let which = Removal::Ids(vec![added.ids[3], added.ids[3], added.ids[0], 4_000_000]);
    let removed = store.remove_decisions(which, audit(""), start()).await.unwrap();
    assert_eq!(ids(&removed.decisions), [added.ids[3]]);
    assert_eq!(ids(&all(&store, start()).await), [added.ids[2]]);
}

pub(crate) async fn listing_filters_counts_and_pages<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let mut new: Vec<_> = (0..20).map(|n| block(&format!("10.0.{n}.0/24"))).collect();
    new.extend((0..5).map(|n| NewDecision { origin: feed(), ..block(&format!("11.0.0.{n}")) }));
    new.push(NewDecision { action: Action::Allow, ..block("11.0.0.0/24") });
    store.add_decisions(new, audit(""), start()).await.unwrap();
    let none = DecisionFilter { limit: 100, ..DecisionFilter::default() };
    let found = async |filter: DecisionFilter| {
        let (decisions, total) = store.decisions(filter, start()).await.unwrap();
        (ids(&decisions), total)
    };
    let of_feed = DecisionFilter { origin: Some(feed()), limit: 2, ..none.clone() };
    assert_eq!(found(of_feed).await, (vec![25, 24], 5));
    let unknown = Origin::Feed("unknown".to_owned());
    let of_none = DecisionFilter { origin: Some(unknown), ..none.clone() };
    assert_eq!(found(of_none).await, (vec![], 0));
    let allows = DecisionFilter { action: Some(Action::Allow), ..none.clone() };
    assert_eq!(found(allows).await, (vec![26], 1));
    let inside = DecisionFilter { inside: Some(net("10.0.16.0/20")), ..none.clone() };
    assert_eq!(found(inside).await, (vec![20, 19, 18, 17], 4));
    let mut paged = Vec::new();
    let mut before = None;
    loop {
        let page = DecisionFilter { limit: 7, before, ..none.clone() };
        let (page, total) = found(page).await;
        assert_eq!(total, 26);
        let Some(last) = page.last() else { break };
        before = Some(*last);
        paged.extend(page);
    }
    assert_eq!(paged, (1..=26).rev().collect::<Vec<_>>());
}

pub(crate) async fn sweeping_keeps_the_revision_and_what_lives<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let new = vec![
        block("192.0.2.1"),
        NewDecision { expires_at: Some(after(100)), ..block("192.0.2.2") },
        NewDecision { expires_at: Some(after(200)), ..block("192.0.2.3") },
        block("192.0.2.4"),
    ];
    let added = store.add_decisions(new, audit(""), start()).await.unwrap();
    let which = Removal::Ids(vec![added.ids[3]]);
    let removed = store.remove_decisions(which, audit(""), after(50)).await.unwrap();
    let keep = Duration::from_secs(60);
    assert_eq!(store.sweep_decisions(after(110), keep).await.unwrap(), 0);
    assert_eq!(store.sweep_decisions(after(111), keep).await.unwrap(), 1);
    assert_eq!(store.sweep_decisions(after(161), keep).await.unwrap(), 1);
    assert_eq!(store.sweep_decisions(after(161), Duration::MAX).await.unwrap(), 0);
    assert_eq!(store.revision().await.unwrap(), removed.revision);
    let live = all(&store, after(161)).await;
    assert_eq!(ids(&live), [added.ids[2], added.ids[0]]);
    assert_eq!(live[1].reason, "scraping");
}

pub(crate) async fn numbers_are_never_given_twice<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let first = store.add_decisions(vec![block("192.0.2.1")], audit(""), start()).await.unwrap();
    let which = Removal::Ids(first.ids.clone());
    store.remove_decisions(which, audit(""), start()).await.unwrap();
    assert_eq!(store.sweep_decisions(after(1), Duration::ZERO).await.unwrap(), 1);
    drop(store);
    let store = fixture.open().await;
    let second = store.add_decisions(vec![block("192.0.2.1")], audit(""), start()).await.unwrap();
    assert!(second.ids[0] > first.ids[0]);
}

pub(crate) async fn a_token_lives_under_its_name_until_it_is_revoked<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let new = |hash| NewToken { name: "edge".to_owned(), role: Role::Proxy, hash: [hash; 32] };
    let token = store.create_token(new(1), audit("edge"), start()).await.unwrap().unwrap();
    assert_eq!((token.name.as_str(), token.role), ("edge", Role::Proxy));
    assert_eq!(store.tokens().await.unwrap(), [(token.clone(), [1; 32])]);
    assert_eq!(store.create_token(new(2), audit("edge"), start()).await.unwrap(), None);
    // Only what was done is in the audit log.
    assert_eq!(store.audit_log(None, 10).await.unwrap().len(), 1);

    let uses = vec![(token.id, after(120)), (token.id, after(60)), (99, after(60))];
    store.touch_tokens(uses).await.unwrap();
    assert_eq!(store.tokens().await.unwrap()[0].0.last_used_at, Some(after(120)));

    assert!(store.revoke_token("edge", audit("edge"), after(1)).await.unwrap());
    assert!(!store.revoke_token("edge", audit("edge"), after(1)).await.unwrap());
    assert!(store.tokens().await.unwrap().is_empty());
    let again = store.create_token(new(3), audit("edge"), after(2)).await.unwrap().unwrap();
    assert_ne!(again.id, token.id);
    drop(store);
    assert_eq!(fixture.open().await.tokens().await.unwrap(), [(again, [3; 32])]);
}

pub(crate) async fn the_audit_log_is_read_backwards_in_pages<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    for n in 0..5u64 {
        store.audit(audit(&n.to_string()), after(n)).await.unwrap();
    }
    // A change and its line are one.
    store.add_decisions(vec![block("192.0.2.1")], audit("5"), after(5)).await.unwrap();
    let newest = store.audit_log(None, 2).await.unwrap();
    let subjects: Vec<&str> = newest.iter().map(|entry| entry.subject.as_str()).collect();
    assert_eq!(subjects, ["5", "4"]);
    assert_eq!((newest[1].time, newest[1].actor.as_str()), (after(4), "tester"));
    assert_eq!(newest[1].action, "decisions.add");
    assert_eq!(newest[1].detail, "contract");
    let rest = store.audit_log(Some(newest[1].id), 100).await.unwrap();
    let subjects: Vec<&str> = rest.iter().map(|entry| entry.subject.as_str()).collect();
    assert_eq!(subjects, ["3", "2", "1", "0"]);
}
