//! Whatever happens to a [`StateStore`], it agrees with a model kept the simplest way, and
//! so does a proxy that only follows the changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipwarden::decisions::{Change, Entry};
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::{all, audit, block, feed, ids, net, start};
use crate::model::{Action, Decision, DecisionId, NewDecision, Origin};
use crate::store::contract::{Fixture, law};
use crate::store::view::wire_expiry;
use crate::store::{DecisionFilter, Listed, OriginSet, Removal, StateStore};

/// One thing that can happen to a store.
#[derive(Debug, Clone)]
enum Event {
    Add(Vec<(usize, Action, Origin, Option<u64>)>),
    Replace(Vec<usize>, Action, Option<u64>, u64),
    RemoveTargets(Vec<usize>, Action, Option<Origin>),
    RemoveId(DecisionId),
    Wait(u64),
    Sweep,
    Reopen,
}

/// Targets that nest, touch and coincide, of both families.
const TARGETS: [&str; 10] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3",
    "10.255.255.255",
    "11.0.0.0/8",
    "::/0",
    "2001:db8::/32",
    "2001:db8::1",
    "a01:203::/32", // the bytes of 10.1.2.3
];

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![Just(Action::Block), Just(Action::Allow)]
}

fn any_origin() -> impl Strategy<Value = Origin> {
    prop_oneof![Just(Origin::Manual), Just(feed()), Just(Origin::Detector("probing".to_owned()))]
}

fn any_event() -> impl Strategy<Value = Event> {
    let target = 0..TARGETS.len();
    let new = (target.clone(), any_action(), any_origin(), proptest::option::of(1u64..100));
    prop_oneof![
        6 => proptest::collection::vec(new, 1..6).prop_map(Event::Add),
        3 => (
            proptest::collection::vec(target.clone(), 0..6),
            any_action(),
            proptest::option::of(1u64..100),
            0u64..50,
        )
            .prop_map(|(targets, action, life, slack)| Event::Replace(targets, action, life, slack)),
        2 => (
            proptest::collection::vec(target, 1..4),
            any_action(),
            proptest::option::of(any_origin()),
        )
            .prop_map(|(targets, action, origin)| Event::RemoveTargets(targets, action, origin)),
        2 => (1u32..30).prop_map(Event::RemoveId),
        2 => (1u64..60).prop_map(Event::Wait),
        1 => Just(Event::Sweep),
        1 => Just(Event::Reopen),
    ]
}

/// What a store should hold, kept the simplest way, and a proxy that follows its changes.
#[derive(Default)]
struct Model {
    decisions: Vec<Decision>,
    proxy: BTreeMap<DecisionId, Entry>,
    revision: u64,
    next: DecisionId,
}

impl Model {
    fn remove(&mut self, now: Timestamp, gone: impl Fn(&Decision) -> bool) -> Vec<Decision> {
        let (removed, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.decisions)
            .into_iter()
            .filter(|decision| decision.is_live(now))
            .partition(gone);
        self.decisions = kept;
        removed
    }

    fn follow(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Add(entry) => {
                    assert_eq!(self.proxy.insert(entry.id, *entry), None, "added twice");
                }
                Change::Remove { target, id } => {
                    let entry = self.proxy.remove(id).expect("only what was added is removed");
                    assert_eq!(entry.target, *target);
                }
            }
        }
    }

    async fn agrees_with(&self, store: &impl StateStore, now: Timestamp) -> TestCaseResult {
        let mut live: Vec<_> =
            self.decisions.iter().filter(|decision| decision.is_live(now)).cloned().collect();
        live.sort_by_key(|decision| std::cmp::Reverse(decision.id));
        prop_assert_eq!(&all(store, now).await, &live);

        let (revision, entries) = store.entries(now).await.unwrap();
        prop_assert_eq!(revision.number, self.revision);
        prop_assert_eq!(revision, store.revision().await.unwrap());
        let seconds = wire_expiry(Some(now));
        let mut followed: Vec<_> =
            self.proxy.values().filter(|entry| entry.is_live(seconds)).copied().collect();
        followed.sort_by_key(Entry::sort_key);
        prop_assert_eq!(&entries, &followed);

        for target in TARGETS.map(net) {
            let mut found = store.covering(target, now).await.unwrap();
            found.sort_by_key(|decision| std::cmp::Reverse(decision.id));
            let covering = |decision: &&Decision| decision.target.contains(&target);
            prop_assert_eq!(found, live.iter().filter(covering).cloned().collect::<Vec<_>>());
            let inside =
                DecisionFilter { inside: Some(target), limit: 1_000, ..DecisionFilter::default() };
            let (found, _) = store.decisions(inside, now).await.unwrap();
            let inside = |decision: &&Decision| target.contains(&decision.target);
            prop_assert_eq!(found, live.iter().filter(inside).cloned().collect::<Vec<_>>());
        }
        Ok(())
    }
}

pub(crate) async fn whatever_happens_agrees_with_the_model<F>()
where
    F: Fixture<Store: StateStore>,
{
    law::<F, _, _>(16, &proptest::collection::vec(any_event(), 1..16), async |events| {
        let fixture = F::fresh().await;
        let mut store = Some(fixture.open().await);
        let mut model = Model { next: 1, ..Model::default() };
        let mut now = start();
        for event in events {
            let open = store.as_ref().unwrap();
            match event {
                Event::Add(new) => {
                    let new: Vec<_> = new
                        .into_iter()
                        .map(|(target, action, origin, life)| NewDecision {
                            action,
                            origin,
                            expires_at: life.map(|life| now + Duration::from_secs(life)),
                            ..block(TARGETS[target])
                        })
                        .collect();
                    let added = open.add_decisions(new.clone(), audit(""), now).await.unwrap();
                    let mut replaced = Vec::new();
                    for (new, id) in new.into_iter().zip(&added.ids) {
                        prop_assert_eq!(*id, model.next);
                        let same = |old: &Decision| {
                            (old.target, old.action, &old.origin)
                                == (new.target, new.action, &new.origin)
                        };
                        replaced.extend(ids(&model.remove(now, same)));
                        model.decisions.push(Decision {
                            id: *id,
                            target: new.target,
                            action: new.action,
                            origin: new.origin,
                            reason: new.reason,
                            created_at: now,
                            expires_at: new.expires_at,
                        });
                        model.next += 1;
                    }
                    prop_assert_eq!(added.replaced, replaced);
                    model.revision += 1;
                    model.follow(&added.changes);
                }
                Event::Replace(targets, action, life, slack) => {
                    let expires_at = life.map(|life| now + Duration::from_secs(life));
                    let slack = Duration::from_secs(slack);
                    let listed = targets.iter().map(|at| Listed {
                        target: net(TARGETS[*at]),
                        reason: Arc::from("listed"),
                        expires_at,
                    });
                    let set = OriginSet { origin: feed(), action, listed: listed.collect(), slack };
                    let changed = open.replace_origin(set, audit(""), now).await.unwrap();
                    let near = |end: Option<Timestamp>| match (end, expires_at) {
                        (Some(end), Some(wanted)) => {
                            end.duration_since(wanted).unsigned_abs() <= slack
                        }
                        (None, None) => true,
                        _ => false,
                    };
                    let wanted: std::collections::BTreeSet<_> = targets.into_iter().collect();
                    let stays = |old: &Decision| {
                        old.action == action
                            && near(old.expires_at)
                            && wanted.iter().any(|at| net(TARGETS[*at]) == old.target)
                    };
                    let gone = model.remove(now, |old| old.origin == feed() && !stays(old));
                    let new: Vec<_> = wanted
                        .iter()
                        .map(|at| net(TARGETS[*at]))
                        .filter(|target| {
                            !model.decisions.iter().any(|old| {
                                old.origin == feed()
                                    && old.target == *target
                                    && old.action == action
                            })
                        })
                        .collect();
                    prop_assert_eq!(changed.removed + changed.renewed, gone.len() as u64);
                    prop_assert_eq!(changed.added + changed.renewed, new.len() as u64);
                    model.revision += u64::from(!gone.is_empty() || !new.is_empty());
                    // In whatever order the numbers were given.
                    for change in &changed.changes {
                        let Change::Add(entry) = change else { continue };
                        prop_assert!(new.contains(&entry.target));
                        model.decisions.push(Decision {
                            id: entry.id,
                            target: entry.target,
                            action,
                            origin: feed(),
                            reason: "listed".to_owned(),
                            created_at: now,
                            expires_at,
                        });
                    }
                    model.decisions.sort_by_key(|decision| decision.id);
                    model.next += new.len() as DecisionId;
                    model.follow(&changed.changes);
                }
                Event::RemoveTargets(targets, action, origin) => {
                    let targets: Vec<_> = targets.into_iter().map(|at| net(TARGETS[at])).collect();
                    let gone = model.remove(now, |decision| {
                        targets.contains(&decision.target)
                            && decision.action == action
                            && origin.as_ref().is_none_or(|origin| *origin == decision.origin)
                    });
                    let which = Removal::Targets {
                        targets: targets.clone(),
                        action,
                        origin: origin.clone(),
                    };
                    let removed = open.remove_decisions(which, audit(""), now).await.unwrap();
                    model.revision += u64::from(!gone.is_empty());
                    prop_assert_eq!(removed.decisions, gone);
                    model.follow(&removed.changes);
                }
                Event::RemoveId(id) => {
                    let gone = model.remove(now, |decision| decision.id == id);
                    let which = Removal::Ids(vec![id]);
                    let removed = open.remove_decisions(which, audit(""), now).await.unwrap();
                    model.revision += u64::from(!gone.is_empty());
                    prop_assert_eq!(removed.decisions, gone);
                    model.follow(&removed.changes);
                }
                Event::Wait(seconds) => now += Duration::from_secs(seconds),
                Event::Sweep => {
                    open.sweep_decisions(now, Duration::from_secs(10)).await.unwrap();
                }
                Event::Reopen => {
                    drop(store.take());
                    store = Some(fixture.open().await);
                }
            }
            model.agrees_with(store.as_ref().unwrap(), now).await?;
        }
        Ok(())
    });
}
