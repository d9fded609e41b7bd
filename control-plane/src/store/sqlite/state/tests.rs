use super::*;
use crate::model::{Action, Origin};
use ipwarden::decisions::Change;

#[tokio::test]
async fn what_is_added_is_listed_covers_and_can_be_removed() {
    let directory = tempfile::tempdir().unwrap();
    let state = SqliteState::open(&directory.path().join("state.db")).unwrap();
    let now: Timestamp = "2026-11-22T16:00:00Z".parse().unwrap();
    let audit = || NewAudit {
        actor: "test".to_owned(),
        action: "decisions.add",
        subject: String::new(),
        detail: String::new(),
    };
    let new = |target: &str| NewDecision {
        target: target.parse().unwrap(),
        action: Action::Block,
        origin: Origin::Manual,
        reason: "scraping".to_owned(),
        expires_at: None,
    };
    let added = state.add_decisions(vec![new("203.0.113.0/24")], audit(), now).await.unwrap();
    assert_eq!(added.revision, state.revision().await.unwrap());
    let covering = state.covering("203.0.113.7/32".parse().unwrap(), now).await.unwrap();
    assert_eq!(covering[0].id, added.ids[0]);
    let inside = DecisionFilter {
        inside: Some("203.0.0.0/16".parse().unwrap()),
        limit: 5,
        ..DecisionFilter::default()
    };
    assert_eq!(state.decisions(inside, now).await.unwrap(), (covering.clone(), 1));
    let (_, entries) = state.entries(now).await.unwrap();
    assert_eq!(added.changes, [Change::Add(entries[0])]);
    let which = Removal::Targets {
        targets: vec!["203.0.113.0/24".parse().unwrap()],
        action: Action::Block,
        origin: Some(Origin::Manual),
    };
    let removed = state.remove_decisions(which, audit(), now).await.unwrap();
    assert_eq!(removed.decisions, covering);
    assert_eq!(state.audit_log(None, 10).await.unwrap().len(), 2);
    assert_eq!(state.sweep_decisions(now, std::time::Duration::ZERO).await.unwrap(), 0);
    let later = now + std::time::Duration::from_secs(1);
    assert_eq!(state.sweep_decisions(later, std::time::Duration::ZERO).await.unwrap(), 1);
}
