//! Decisions by region in a [`StateStore`]: numbered with all others, in the policy's revision.

use ipwarden::geo::regions::Region;
use ipwarden::limits::Mode;
use jiff::Timestamp;

use super::{after, audit, block, start};
use crate::limits;
use crate::regions::{Change, NewRule, Rule};
use crate::store::contract::Fixture;
use crate::store::{LimitsChanged, NewAudit, StateStore};

fn region(text: &str) -> Region {
    Region::parse(text).unwrap()
}

fn new(text: &str, path: Option<&str>, mode: Mode, expires_at: Option<Timestamp>) -> NewRule {
    NewRule {
        region: region(text),
        path: path.map(str::to_owned),
        mode,
        reason: "scans".to_owned(),
        expires_at,
    }
}

async fn change(store: &impl StateStore, change: Change, now: Timestamp) -> LimitsChanged {
    let line = NewAudit { action: "regions.block", ..audit("country:FR") };
    store.change_limits(limits::Change::Regions(change), line, now).await.unwrap()
}

async fn rules(store: &impl StateStore, now: Timestamp) -> Vec<Rule> {
    store.limits(now).await.unwrap().1.regions
}

fn ids(rules: &[Rule]) -> Vec<u32> {
    rules.iter().map(|rule| rule.id).collect()
}

pub(crate) async fn regions_are_numbered_with_all_decisions_and_kept_until_they_end<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    store.add_decisions(vec![block("192.0.2.1")], audit(""), start()).await.unwrap();
    let admin = || new("country:FR", Some("/admin"), Mode::Enforce, Some(after(60)));
    let whole = new("asn:64496", None, Mode::Shadow, None);
    let made = change(&store, Change::Add(vec![admin(), whole]), start()).await;
    assert_eq!(ids(&made.regions.rules), [2, 3]);
    assert_eq!((made.revision.number, made.policy.number, made.before), (2, 2, None));
    assert_eq!(made.policy.regions, made.regions.rules);
    let kept = &made.regions.rules[0];
    assert_eq!((kept.created_at, kept.created_by.as_str()), (start(), "tester"));
    let next = store.add_decisions(vec![block("192.0.2.2")], audit(""), start()).await.unwrap();
    assert_eq!(next.ids, [4]);

    // The same region and path again is one rule, with a new number.
    let again = change(&store, Change::Add(vec![admin()]), after(1)).await;
    assert_eq!((ids(&again.regions.rules), again.regions.replaced), (vec![5], vec![2]));
    drop(store);
    let store = fixture.open().await;
    assert_eq!(rules(&store, after(1)).await, again.policy.regions);
    assert_eq!(ids(&again.policy.regions), [3, 5]);

    // Its end needs nobody; a limit's change leaves it alone.
    assert_eq!(ids(&rules(&store, after(59)).await), [3, 5]);
    assert_eq!(ids(&rules(&store, after(60)).await), [3]);
    let mode = limits::Change::Mode { name: "login".to_owned(), mode: Mode::Shadow };
    let other = store.change_limits(mode, audit(""), after(60)).await.unwrap();
    assert_eq!((ids(&other.policy.regions), other.regions.rules.len()), (vec![3], 0));
}

pub(crate) async fn a_region_is_switched_and_removed_by_region_and_path<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let rules_made = vec![
        new("country:FR", None, Mode::Shadow, None),
        new("country:FR", Some("/admin"), Mode::Enforce, None),
    ];
    let made = change(&store, Change::Add(rules_made), start()).await;
    let regions = || vec![region("country:FR"), region("country:BE")];
    let on = Change::Mode { regions: regions(), path: None, mode: Mode::Enforce };
    let on = change(&store, on, after(1)).await;
    let switched = Rule { mode: Mode::Enforce, ..made.regions.rules[0].clone() };
    assert_eq!(on.regions.rules, std::slice::from_ref(&switched));
    let gone = change(&store, Change::Remove { regions: regions(), path: None }, after(2)).await;
    assert_eq!(gone.regions.rules, [switched]);
    assert_eq!((ids(&gone.policy.regions), gone.revision.number), (vec![2], 3));
    drop(store);
    let store = fixture.open().await;
    assert_eq!(rules(&store, after(2)).await, made.regions.rules[1..]);

    // What is not there changes nothing and leaves no line.
    let lines = store.audit_log(None, 10).await.unwrap().len();
    assert_eq!(lines, 3);
    for nothing in [
        Change::Remove { regions: regions(), path: None },
        Change::Mode { regions: regions(), path: Some("/x".to_owned()), mode: Mode::Shadow },
        Change::Add(Vec::new()),
    ] {
        let nothing = change(&store, nothing, after(3)).await;
        assert_eq!((nothing.revision, nothing.regions), (gone.revision, Default::default()));
    }
    assert_eq!(store.audit_log(None, 10).await.unwrap().len(), lines);
}
