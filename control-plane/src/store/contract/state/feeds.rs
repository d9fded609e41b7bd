use std::sync::Arc;

use super::*;
use crate::store::{Listed, OriginSet, SetChanged};

fn set(targets: &[&str], life: Option<u64>, slack: u64) -> OriginSet {
    let listed = targets.iter().map(|target| Listed {
        target: net(target),
        reason: Arc::from("listed"),
        expires_at: life.map(after),
    });
    OriginSet {
        origin: feed(),
        action: Action::Block,
        listed: listed.collect(),
        slack: Duration::from_secs(slack),
    }
}

fn counts(changed: &SetChanged) -> [u64; 5] {
    let SetChanged { revision, added, removed, renewed, kept, .. } = changed;
    [revision.number, *added, *removed, *renewed, *kept]
}

fn targets(decisions: &[Decision]) -> Vec<String> {
    let mut targets: Vec<_> = decisions
        .iter()
        .filter(|decision| decision.origin == feed())
        .map(|decision| ipwarden::address::display_target(&decision.target))
        .collect();
    targets.sort();
    targets
}

pub(crate) async fn a_set_replaces_what_its_origin_had_in_one_revision<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    store
        .add_decisions(vec![block("192.0.2.1"), block("192.0.2.9")], audit(""), start())
        .await
        .unwrap();
    let first = set(&["192.0.2.1", "192.0.2.2", "192.0.2.2"], Some(100), 0);
    let changed = store.replace_origin(first, audit("drop"), start()).await.unwrap();
    assert_eq!(counts(&changed), [2, 2, 0, 0, 0]);
    assert_eq!(changed.changes.len(), 2);
    let again = set(&["192.0.2.1", "192.0.2.3"], Some(100), 0);
    let changed = store.replace_origin(again, audit("drop"), start()).await.unwrap();
    assert_eq!(counts(&changed), [3, 1, 1, 0, 1]);
    let kinds: Vec<bool> =
        changed.changes.iter().map(|change| matches!(change, Change::Remove { .. })).collect();
    assert_eq!(kinds, [true, false], "what goes comes first");
    assert_eq!(targets(&all(&store, start()).await), ["192.0.2.1", "192.0.2.3"]);
    // The other action: everything of this origin changes its tier.
    let mut allow = set(&["192.0.2.1"], Some(100), 0);
    allow.action = Action::Allow;
    let changed = store.replace_origin(allow, audit("drop"), start()).await.unwrap();
    assert_eq!(counts(&changed), [4, 1, 2, 0, 0]);
    let changed = store.replace_origin(set(&[], None, 0), audit("drop"), start()).await.unwrap();
    assert_eq!(counts(&changed), [5, 0, 1, 0, 0]);
    assert_eq!(all(&store, start()).await.len(), 2, "what people decided stays");
    let lines = store.audit_log(None, 10).await.unwrap();
    assert_eq!(lines[0].detail, "0 added, 1 removed, 0 renewed, 0 kept");
    assert_eq!(lines.len(), 5);
}

pub(crate) async fn what_differs_little_in_its_end_stays_as_it_is<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let replace = async |targets: &[&str], life, now| {
        let set = set(targets, life, 25);
        counts(&store.replace_origin(set, audit("drop"), now).await.unwrap())
    };
    let both = ["192.0.2.1", "2001:db8::/32"];
    assert_eq!(replace(&both, Some(100), start()).await, [1, 2, 0, 0, 0]);
    assert_eq!(replace(&both, Some(125), after(25)).await, [1, 0, 0, 0, 2]);
    assert_eq!(replace(&both, Some(126), after(26)).await, [2, 0, 0, 2, 0]);
    assert_eq!(replace(&both[..1], None, after(27)).await, [3, 0, 1, 1, 0]);
    assert_eq!(replace(&both[..1], None, after(28)).await, [3, 0, 0, 0, 1]);
    assert_eq!(replace(&both, Some(130), after(28)).await, [4, 1, 0, 1, 0]);
    // What has ended makes room and is no removal.
    assert_eq!(replace(&both, Some(300), after(200)).await, [5, 2, 0, 0, 0]);
    assert_eq!(all(&store, after(200)).await.len(), 2);
    let added = store
        .add_decisions(
            vec![NewDecision { origin: feed(), ..block("192.0.2.1") }],
            audit(""),
            after(201),
        )
        .await
        .unwrap();
    assert_eq!(added.replaced.len(), 1, "one live decision a target, action and origin");
}

pub(crate) async fn targets_that_ended_are_told<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let ending = NewDecision { expires_at: Some(after(10)), ..block("192.0.2.1") };
    let new = vec![ending, block("192.0.2.2"), block("192.0.2.3")];
    let added = store.add_decisions(new, audit(""), start()).await.unwrap();
    let removal = Removal::Ids(vec![added.ids[1]]);
    store.remove_decisions(removal, audit(""), after(20)).await.unwrap();
    let ended = async |since, now, most| {
        let mut ended = store.ended_since(after(since), most, after(now)).await.unwrap();
        ended.sort();
        ended
    };
    assert_eq!(ended(0, 5, 10).await, [net("192.0.2.2")], "removed later than `now` is removed");
    assert_eq!(ended(5, 30, 10).await, [net("192.0.2.1"), net("192.0.2.2")]);
    assert_eq!(ended(10, 30, 10).await, [net("192.0.2.2")]);
    assert_eq!(ended(20, 30, 10).await, []);
    assert_eq!(ended(5, 30, 1).await.len(), 1);
}

pub(crate) async fn a_feed_is_kept_with_what_became_of_it<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let put = async |store: &F::Store, name: &str, definition: &str, replace, at| {
        store.put_feed(name, definition.to_owned(), replace, audit(name), after(at)).await.unwrap()
    };
    assert!(put(&store, "b", "{1}", false, 0).await);
    assert!(put(&store, "a", "{2}", true, 1).await);
    assert!(!put(&store, "b", "{3}", false, 2).await);
    store.note_feed("b", after(0), "{fine}".to_owned()).await.unwrap();
    drop(store);
    let store = fixture.open().await;
    let shown = async |store: &F::Store| {
        let feeds = store.feeds().await.unwrap().into_iter();
        feeds.map(|feed| [feed.name, feed.definition, feed.status]).collect::<Vec<_>>()
    };
    assert_eq!(shown(&store).await, [["a", "{2}", "{}"], ["b", "{1}", "{fine}"]]);
    assert!(put(&store, "b", "{3}", true, 3).await);
    // What became of the one before is no news of this one.
    store.note_feed("b", after(0), "{late}".to_owned()).await.unwrap();
    assert_eq!(shown(&store).await[1], ["b", "{3}", "{}"]);
    assert!(store.remove_feed("b", audit("b"), after(4)).await.unwrap());
    assert!(!store.remove_feed("b", audit("b"), after(4)).await.unwrap());
    store.note_feed("b", after(3), "{}".to_owned()).await.unwrap();
    assert_eq!(shown(&store).await.len(), 1);
    assert_eq!(store.audit_log(None, 10).await.unwrap().len(), 4);
}
