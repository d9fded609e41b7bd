//! Limits in a [`StateStore`]: one revision with decisions, one transaction with the audit line.

use std::time::Duration;

use ipwarden::limits::Mode;
use ipwarden::limits::policy::MAX_RESETS;
use jiff::Timestamp;
use proptest::prelude::*;

use super::{after, audit, block, start};
use crate::limits::{Change, Policy};
use crate::store::contract::{Fixture, law};
use crate::store::{NewAudit, StateStore};

const WEEK: u64 = 7 * 86_400;

fn set(name: &str, requests: u32) -> Change {
    let limit = serde_json::json!({
        "name": name, "anonymous": {"requests": requests, "per": "1m"},
    });
    Change::Set { name: name.to_owned(), definition: limit.to_string() }
}

fn mode(name: &str, mode: Mode) -> Change {
    Change::Mode { name: name.to_owned(), mode }
}

fn remove(name: &str) -> Change {
    Change::Remove { name: name.to_owned() }
}

fn reset(key: &str, limit: Option<&str>) -> Change {
    Change::Reset { key: key.to_owned(), limit: limit.map(str::to_owned) }
}

fn line(action: &'static str) -> NewAudit {
    NewAudit { action, ..audit("login") }
}

async fn policy(store: &impl StateStore, now: Timestamp) -> Policy {
    let (revision, policy) = store.limits(now).await.unwrap();
    assert_eq!(revision, store.revision().await.unwrap());
    policy
}

pub(crate) async fn limits_and_decisions_share_one_revision<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    assert_eq!(policy(&store, start()).await, Policy::default());
    let added = store.add_decisions(vec![block("192.0.2.1")], audit(""), start()).await.unwrap();
    let changes =
        [set("login", 5), mode("login", Mode::Shadow), reset("192.0.2.1", None), remove("login")];
    for (change, number) in changes.into_iter().zip(2..) {
        let changed = store.change_limits(change, line("limits.set"), start()).await.unwrap();
        assert_eq!(
            (changed.revision.epoch, changed.revision.number),
            (added.revision.epoch, number)
        );
        assert_eq!(changed.policy.number, number);
        assert_eq!(store.revision().await.unwrap(), changed.revision);
    }
    // A decision leaves the policy's number as it is.
    store.add_decisions(vec![block("192.0.2.2")], audit(""), start()).await.unwrap();
    drop(store);
    let store = fixture.open().await;
    assert_eq!(policy(&store, start()).await.number, 5);
    let (revision, entries) = store.entries(start()).await.unwrap();
    assert_eq!((revision.number, entries.len()), (6, 2));
}

pub(crate) async fn a_limit_is_kept_until_it_is_removed<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let first = store.change_limits(set("login", 5), line("limits.set"), start()).await.unwrap();
    assert_eq!(first.before, None);
    let kept = first.policy.get("login").unwrap().clone();
    assert_eq!((kept.changed_at, kept.changed_by.as_str()), (start(), "tester"));
    assert_eq!(kept.limit().unwrap()["anonymous"]["requests"], 5);

    // A mode lies over the definition; a whole limit replaces both.
    let shadow = mode("login", Mode::Shadow);
    let shadow = store.change_limits(shadow, line("limits.mode"), after(1)).await.unwrap();
    assert_eq!(shadow.before, Some(kept));
    let kept = shadow.policy.get("login").unwrap().clone();
    assert_eq!((kept.mode, kept.changed_at), (Some(Mode::Shadow), after(1)));
    assert_eq!(kept.limit().unwrap()["anonymous"]["requests"], 5);
    let again = store.change_limits(set("login", 9), line("limits.set"), after(2)).await.unwrap();
    assert_eq!(again.before, Some(kept));
    assert_eq!(again.policy.get("login").unwrap().mode, None);

    // A mode of a configured limit needs no definition.
    let alone = mode("api", Mode::Enforce);
    let alone = store.change_limits(alone, line("limits.mode"), after(3)).await.unwrap();
    assert_eq!(alone.policy.get("api").unwrap().definition, None);
    let names: Vec<&str> = alone.policy.overrides.iter().map(|kept| kept.name.as_str()).collect();
    assert_eq!(names, ["api", "login"]);
    drop(store);
    let store = fixture.open().await;
    assert_eq!(policy(&store, after(3)).await, alone.policy);

    let removed = store.change_limits(remove("login"), line("limits.remove"), after(4)).await;
    let removed = removed.unwrap();
    assert_eq!(removed.before, again.policy.get("login").cloned());
    assert_eq!(removed.policy.get("login"), None);
    let lines = store.audit_log(None, 10).await.unwrap();
    let actions: Vec<&str> = lines.iter().map(|line| line.action.as_str()).collect();
    assert_eq!(
        actions,
        ["limits.remove", "limits.mode", "limits.set", "limits.mode", "limits.set"]
    );

    // What is not there changes nothing.
    let nothing = store.change_limits(remove("login"), line("limits.remove"), after(5)).await;
    let nothing = nothing.unwrap();
    assert_eq!((nothing.revision, nothing.before), (removed.revision, None));
    assert_eq!(store.audit_log(None, 10).await.unwrap().len(), 5);
}

pub(crate) async fn resets_are_numbered_on_and_grow_old<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    for n in 0..MAX_RESETS as u64 + 2 {
        let change = reset(&format!("identity:{n}"), n.is_multiple_of(2).then_some("login"));
        store.change_limits(change, line("limits.reset"), after(n)).await.unwrap();
    }
    let now = after(MAX_RESETS as u64 + 2);
    let resets = policy(&store, now).await.resets;
    assert_eq!((resets.len(), resets[0].key.as_str()), (MAX_RESETS, "identity:2"));
    assert_eq!((resets[0].limit.as_deref(), resets[1].limit.as_deref()), (Some("login"), None));
    assert!(resets.windows(2).all(|pair| pair[0].id + 1 == pair[1].id), "{resets:?}");
    let last = resets.last().unwrap().clone();
    assert_eq!(last.time, after(MAX_RESETS as u64 + 1));

    // After 7 days nothing is left of them but their numbers.
    let just_before = after(MAX_RESETS as u64 + 1 + WEEK).checked_sub(Duration::from_micros(1));
    assert_eq!(policy(&store, just_before.unwrap()).await.resets, std::slice::from_ref(&last));
    let later = after(MAX_RESETS as u64 + 1 + WEEK);
    assert_eq!(policy(&store, later).await.resets, []);
    drop(store);
    let store = fixture.open().await;
    let changed =
        store.change_limits(reset("192.0.2.1", None), line("limits.reset"), later).await.unwrap();
    assert_eq!(changed.policy.resets.len(), 1);
    assert_eq!(changed.policy.resets[0].id, last.id + 1);
}

fn any_change() -> impl Strategy<Value = Change> {
    let name = prop_oneof![Just("api"), Just("login"), Just("search")];
    let modes = prop_oneof![Just(Mode::Enforce), Just(Mode::Shadow)];
    prop_oneof![
        (name.clone(), 1u32..9).prop_map(|(name, requests)| set(name, requests)),
        (name.clone(), modes).prop_map(|(name, to)| mode(name, to)),
        name.clone().prop_map(remove),
        proptest::option::of(name).prop_map(|name| reset("192.0.2.1", name)),
    ]
}

/// A store does what [`Policy::after`] says, which is what is checked before a change.
pub(crate) async fn limits_agree_with_what_was_foreseen<F>()
where
    F: Fixture<Store: StateStore>,
{
    law::<F, _, _>(
        16,
        &proptest::collection::vec((any_change(), any::<bool>()), 1..20),
        async |changes| {
            let fixture = F::fresh().await;
            let mut store = fixture.open().await;
            let mut foreseen = Policy::default();
            let mut revision = 0;
            for ((change, reopen), n) in changes.into_iter().zip(1..) {
                let before = change.name().and_then(|name| foreseen.get(name)).cloned();
                let is_reset = matches!(change, Change::Reset { .. });
                if before.is_some() || !matches!(change, Change::Remove { .. }) {
                    revision += 1;
                    foreseen = foreseen.after(&change, "tester", after(n));
                    foreseen.number = revision;
                }
                let changed =
                    store.change_limits(change, line("limits.set"), after(n)).await.unwrap();
                prop_assert_eq!(changed.revision.number, revision);
                prop_assert_eq!(changed.before, before.filter(|_| !is_reset));
                prop_assert_eq!(&changed.policy, &foreseen);
                if reopen {
                    drop(store);
                    store = fixture.open().await;
                }
                prop_assert_eq!(&policy(&store, after(n)).await, &foreseen);
            }
            Ok(())
        },
    );
}
