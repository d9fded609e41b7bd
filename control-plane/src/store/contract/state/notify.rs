//! What hooks are to be told, in a [`StateStore`].

use super::after;
use crate::detect::Severity;
use crate::notify::{Backlog, EventKind, MAX_WAITING, Pending, Subscription};
use crate::store::contract::Fixture;
use crate::store::{AutomaticBlock, StateStore};
use crate::suspects::samples::flag;

fn hook(name: &str, events: &[EventKind], min_severity: Severity) -> Subscription {
    Subscription { name: name.to_owned(), events: events.to_vec(), min_severity }
}

async fn told(store: &impl StateStore, hook: &str) -> Vec<(EventKind, String)> {
    let pending = store.pending(hook, 100).await.unwrap();
    assert!(pending.is_sorted_by_key(|event| event.id));
    let words = |event: Pending| (event.event, event.suspect.target.to_string());
    pending.into_iter().map(words).collect()
}

fn backlog(hook: &str, waiting: u64, dropped: u64) -> Backlog {
    Backlog { hook: hook.to_owned(), waiting, dropped }
}

pub(crate) async fn hooks_are_told_what_they_listen_to_until_they_were<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let early = flag("203.0.113.9", "probing", Severity::Critical, 1);
    store.note_flags(vec![early], after(1)).await.unwrap();
    let blocks = [EventKind::Blocked];
    let all = hook("all", &EventKind::ALL, Severity::Low);
    let worst = hook("worst", &[EventKind::Opened, EventKind::Worse], Severity::High);
    store
        .subscribe(vec![all.clone(), worst, hook("blocks", &blocks, Severity::Low)])
        .await
        .unwrap();
    for severity in [Severity::Low, Severity::Low, Severity::High] {
        let flag = flag("203.0.113.7", "probing", severity, 2);
        store.note_flags(vec![flag], after(2)).await.unwrap();
    }
    let suspect = store.pending("all", 1).await.unwrap().remove(0).suspect;
    let block = AutomaticBlock { target: suspect.target, time: after(3), decision: 5 };
    for _ in 0..2 {
        store.judged(suspect.id, 3, Some(block.clone())).await.unwrap();
    }
    drop(store);

    let store = fixture.open().await;
    let event = |kind| (kind, "203.0.113.7/32".to_owned());
    let everything = [EventKind::Opened, EventKind::Worse, EventKind::Blocked].map(event);
    assert_eq!(told(&store, "all").await, everything, "of what was before nobody is told");
    assert_eq!(told(&store, "worst").await, [event(EventKind::Worse)]);
    assert_eq!(told(&store, "blocks").await, [event(EventKind::Blocked)]);
    let blocked = store.pending("blocks", 1).await.unwrap().remove(0);
    assert_eq!((blocked.decision, blocked.time), (Some(5), after(3)));
    let first = store.pending("all", 1).await.unwrap().remove(0);
    store.told("all", first.id).await.unwrap();
    assert_eq!(told(&store, "all").await, everything[1..]);
    assert_eq!(
        store.backlog().await.unwrap(),
        [backlog("all", 2, 0), backlog("blocks", 1, 0), backlog("worst", 1, 0)]
    );
    assert_eq!(store.expire_pending("all", after(2)).await.unwrap(), 1);
    assert_eq!(told(&store, "all").await, everything[2..]);

    store.subscribe(vec![all.clone()]).await.unwrap();
    assert_eq!(store.backlog().await.unwrap(), [backlog("all", 1, 1)]);
    store.subscribe(Vec::new()).await.unwrap();
    store.subscribe(vec![all]).await.unwrap();
    assert_eq!(store.backlog().await.unwrap(), [backlog("all", 0, 0)]);
}

pub(crate) async fn what_waits_for_a_hook_is_bounded_and_what_is_dropped_is_counted<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    store.subscribe(vec![hook("all", &EventKind::ALL, Severity::Low)]).await.unwrap();
    let first = u32::from(std::net::Ipv4Addr::new(198, 18, 0, 0));
    let address = |n: u64| std::net::Ipv4Addr::from(first + u32::try_from(n).unwrap()).to_string();
    let flags = (0..MAX_WAITING + 7)
        .map(|n| flag(&address(n), "probing", Severity::High, 1))
        .collect::<Vec<_>>();
    store.note_flags(flags, after(1)).await.unwrap();
    assert_eq!(store.backlog().await.unwrap(), [backlog("all", MAX_WAITING, 7)]);
    let oldest = store.pending("all", 1).await.unwrap().remove(0);
    assert_eq!(oldest.suspect.target.addr().to_string(), address(7));
}
