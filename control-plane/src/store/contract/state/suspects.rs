//! Suspects in a [`StateStore`].

use std::time::Duration;

use super::{after, audit, net, start};
use crate::detect::Severity;
use crate::store::contract::Fixture;
use crate::store::{AutomaticBlock, PassDone, StateStore};
use crate::suspects::samples::flag;
use crate::suspects::{Closing, Noted, Sighting, Status, Suspect, SuspectFilter};

const DAY: Duration = Duration::from_secs(86_400);

async fn note(store: &impl StateStore, sighting: Sighting, second: u64) -> Noted {
    let mut noted = store.note_flags(vec![sighting], after(second)).await.unwrap();
    assert_eq!(noted.len(), 1);
    noted.remove(0)
}

fn suspect(noted: Noted) -> (Suspect, bool) {
    match noted {
        Noted::Suspect { suspect, opened } => (*suspect, opened),
        Noted::Dismissed { .. } => panic!("{noted:?}"),
    }
}

fn high(target: &str, rule: &str, second: u64) -> Sighting {
    flag(target, rule, Severity::High, second)
}

fn closing(status: Status, quiet_second: u64) -> Closing {
    Closing { status, decision: None, quiet_until: after(quiet_second) }
}

pub(crate) async fn a_target_is_one_suspect_with_more_reasons<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let flags = vec![
        high("203.0.113.7", "probing", 1),
        high("2001:db8::/64", "probing", 1),
        high("203.0.113.7", "exploit", 2),
    ];
    let noted = store.note_flags(flags, after(3)).await.unwrap();
    assert_eq!(noted.len(), 2);
    drop(store);
    let store = fixture.open().await;
    let (found, opened) = suspect(note(&store, high("203.0.113.7", "probing", 5), 6).await);
    assert!(!opened);
    assert_eq!((found.reasons.len(), found.flags), (2, 3));
    assert_eq!(store.suspect(found.id).await.unwrap(), Some(found.clone()));
    assert_eq!(store.suspect(99).await.unwrap(), None);
    let open = SuspectFilter { status: Some(Status::Open), limit: 10, ..Default::default() };
    let (all, total) = store.suspects(open.clone()).await.unwrap();
    assert_eq!((all.len(), total), (2, 2));
    assert!(all[0].id > all[1].id);
    let page = SuspectFilter { limit: 1, before: Some(all[0].id), ..open.clone() };
    assert_eq!(store.suspects(page).await.unwrap(), (vec![all[1].clone()], 2));
    for (inside, expected) in
        [("203.0.113.0/24", 1), ("203.0.113.7", 1), ("203.0.113.8", 0), ("2001:db8::5", 1)]
    {
        let filter = SuspectFilter { target: Some(net(inside)), ..open.clone() };
        assert_eq!(store.suspects(filter).await.unwrap().1, expected, "{inside}");
    }
}

pub(crate) async fn what_was_judged_is_no_news_for_a_while<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let (first, opened) = suspect(note(&store, high("203.0.113.7", "probing", 1), 1).await);
    assert!(opened);
    let dismissed =
        store.close_suspect(first.id, closing(Status::Dismissed, 100), audit("dismiss"), after(2));
    let dismissed = dismissed.await.unwrap().unwrap();
    assert_eq!((dismissed.status, dismissed.closed_at), (Status::Dismissed, Some(after(2))));
    assert_eq!(dismissed.closed_by.as_deref(), Some("tester"));
    assert_eq!(store.audit_log(None, 9).await.unwrap().len(), 1);
    // The same rule, no worse: not heard.
    let same = note(&store, high("203.0.113.7", "probing", 3), 3).await;
    assert_eq!(same, Noted::Dismissed { flags: 1 });
    // Worse: a new suspect. Then the milder one belongs to it only if it is news.
    let worse = flag("203.0.113.7", "probing", Severity::Critical, 4);
    let (second, opened) = suspect(note(&store, worse, 4).await);
    assert!(opened && second.id != first.id);
    let confirmed = closing(Status::Confirmed, 50);
    store.close_suspect(second.id, confirmed, audit("confirm"), after(5)).await.unwrap().unwrap();
    // A confirmed one takes what comes while its block lasts.
    let (third, opened) = suspect(note(&store, high("203.0.113.7", "other", 6), 6).await);
    assert_eq!((opened, third.id, third.status), (false, second.id, Status::Confirmed));
    let (fourth, opened) = suspect(note(&store, high("203.0.113.7", "other", 60), 60).await);
    assert!(opened && fourth.id != second.id);
    // And after the quiet time the dismissed rule is heard again.
    let (fifth, opened) = suspect(note(&store, high("203.0.113.7", "probing", 101), 101).await);
    assert_eq!((opened, fifth.id, fifth.reasons.len()), (false, fourth.id, 2));
    let missing = store.close_suspect(99, closing(Status::Confirmed, 1), audit(""), after(7));
    assert_eq!(missing.await.unwrap(), None);
    assert_eq!(store.audit_log(None, 9).await.unwrap().len(), 2);
}

pub(crate) async fn the_policy_decides_once_about_each_flag<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let (found, _) = suspect(note(&store, high("203.0.113.7", "probing", 1), 1).await);
    note(&store, high("203.0.113.7", "probing", 2), 2).await;
    drop(store);
    // Also after a crash.
    let store = fixture.open().await;
    assert_eq!(store.unjudged(10).await.unwrap().len(), 1);
    let block = AutomaticBlock { target: net("203.0.113.7"), time: after(3), decision: 7 };
    // Only the first flag was looked at.
    store.judged(found.id, 1, Some(block.clone())).await.unwrap();
    assert_eq!(store.unjudged(10).await.unwrap().len(), 1);
    store.judged(found.id, 2, Some(block)).await.unwrap();
    assert!(store.unjudged(10).await.unwrap().is_empty());
    assert_eq!(store.suspect(found.id).await.unwrap().unwrap().decision, Some(7));
    let blocks = async |target: &str, since: u64| {
        store.automatic_blocks(net(target), start(), after(since)).await.unwrap()
    };
    let history = blocks("203.0.113.7", 0).await;
    assert_eq!((history.of_target, history.all), (1, 1), "one decision is one block");
    assert_eq!(blocks("203.0.113.8", 3).await.of_target, 0);
    assert_eq!(blocks("203.0.113.8", 3).await.all, 0);
}

pub(crate) async fn suspects_are_forgotten_when_nothing_is_new<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let (judged, _) = suspect(note(&store, high("203.0.113.7", "probing", 1), 0).await);
    store
        .close_suspect(judged.id, closing(Status::Dismissed, 3 * 86_400), audit(""), after(0))
        .await
        .unwrap();
    note(&store, high("203.0.113.8", "probing", 1), 0).await;
    note(&store, high("203.0.113.9", "probing", 1), 2 * 86_400).await;
    let sweep = async |day: u64| store.sweep_suspects(after(day * 86_400 + 1), DAY, DAY).await;
    assert_eq!(sweep(0).await.unwrap(), 0);
    assert_eq!(sweep(2).await.unwrap(), 1);
    // The dismissed one is remembered as long as it keeps others quiet.
    assert_eq!(store.suspect(judged.id).await.unwrap().map(|found| found.id), Some(judged.id));
    assert_eq!(sweep(3).await.unwrap(), 2);
    assert_eq!(store.suspects(SuspectFilter::default()).await.unwrap().1, 0);
}

pub(crate) async fn an_hour_is_passed_over_once<F>()
where
    F: Fixture<Store: StateStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    assert_eq!(store.last_pass().await.unwrap(), None);
    let done = PassDone { hour: 9, finished_at: after(5), addresses: 3, requests: 700, flagged: 1 };
    let found = || vec![high("203.0.113.7", "volume", 1)];
    let noted = store.finish_pass(done.clone(), found(), after(5)).await.unwrap().unwrap();
    assert!(matches!(noted[..], [Noted::Suspect { opened: true, .. }]));
    drop(store);
    let store = fixture.open().await;
    assert_eq!(store.finish_pass(done.clone(), found(), after(6)).await.unwrap(), None);
    assert_eq!(store.pass(9).await.unwrap(), Some(done.clone()));
    assert_eq!(store.pass(8).await.unwrap(), None);
    let earlier = PassDone { hour: 8, ..done.clone() };
    assert!(store.finish_pass(earlier, vec![], after(7)).await.unwrap().is_some());
    assert_eq!(store.last_pass().await.unwrap(), Some(done));
    let filter = SuspectFilter { limit: 10, ..Default::default() };
    let (all, _) = store.suspects(filter).await.unwrap();
    assert_eq!((all.len(), all[0].flags), (1, 1));
}
