//! The long poll: it wakes at once, sends what is cheaper, and survives restarts.

use std::time::Duration;

use ipwarden::decisions::{Change, NEVER, Revision, Tier};
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{Polled, Running, problem, until};

async fn block(running: &Running, target: &str) {
    running.post("/v1/decisions", json!({"targets": [target], "action": "block"})).await;
}

#[tokio::test]
async fn the_first_poll_gets_a_snapshot_and_later_ones_get_deltas() {
    let running = Running::start().await;
    block(&running, "203.0.113.7").await;
    let first = running.poll(None, "1s").await;
    let Polled::Snapshot(at, entries) = &first else { panic!("{first:?}") };
    assert_eq!((at.number, entries.len()), (1, 1));
    assert_eq!((entries[0].tier, entries[0].expires_at), (Tier::Manual, NEVER));

    let end = json!({"targets": ["203.0.113.7"], "action": "block"});
    running.delete("/v1/decisions", end).await;
    block(&running, "2001:db8::/32").await;
    let second = running.poll(Some(*at), "1s").await;
    let Polled::Delta(base, now, changes) = &second else { panic!("{second:?}") };
    assert_eq!((*base, now.number), (1, 3));
    assert!(
        matches!(changes[..], [Change::Remove { id, .. }, Change::Add(_)] if id == entries[0].id),
        "{changes:?}"
    );
    assert_eq!(running.poll(Some(*now), "0s").await, Polled::Nothing);
}

#[tokio::test]
async fn a_change_wakes_a_waiting_poll_at_once() {
    let running = Running::start().await;
    let at = running.poll(None, "1s").await.revision();
    let waiting = async {
        let polled = running.poll(Some(at), "30s").await;
        (polled, Instant::now())
    };
    let changing = async {
        until(|| running.service.app().hub.waiting() == 1).await;
        block(&running, "203.0.113.7").await;
        Instant::now()
    };
    let ((polled, woken), changed) = tokio::join!(waiting, changing);
    assert_eq!(polled.revision().number, 1);
    // The answer to the change and the answer to the poll leave together.
    let between = woken.saturating_duration_since(changed);
    assert!(between < Duration::from_millis(100), "{between:?}");
}

#[tokio::test]
async fn a_foreign_epoch_or_a_future_number_gets_a_snapshot() {
    let running = Running::start().await;
    block(&running, "203.0.113.7").await;
    let at = running.poll(None, "1s").await.revision();
    for after in [
        Revision { epoch: at.epoch.wrapping_add(1), ..at },
        Revision { number: at.number + 1, ..at },
    ] {
        let polled = running.poll(Some(after), "30s").await;
        assert!(matches!(polled, Polled::Snapshot(..)), "{polled:?}");
    }
}

#[tokio::test]
async fn a_large_import_arrives_as_a_snapshot() {
    let running = Running::start().await;
    let at = running.poll(None, "1s").await.revision();
    let list: String = (0..100_000u32)
        .map(|n| format!("{}\n", std::net::Ipv4Addr::from(0x0b00_0000 + n * 3)))
        .collect();
    let import = running.admin(Method::POST, "/v1/decisions/import?action=block").body(list);
    let (polled, imported) =
        tokio::join!(running.poll(Some(at), "55s"), crate::support::ok(import));
    assert_eq!(imported["added"], 100_000);
    let Polled::Snapshot(revision, entries) = polled else { panic!("expected a snapshot") };
    assert_eq!((revision.number, entries.len()), (1, 100_000));
}

#[tokio::test]
async fn a_restart_keeps_the_epoch_the_revision_and_the_set() {
    let running = Running::start().await;
    block(&running, "203.0.113.7").await;
    let before = running.poll(None, "1s").await;
    let running = running.restart().await;
    assert_eq!(running.poll(Some(before.revision()), "0s").await, Polled::Nothing);
    assert_eq!(running.poll(None, "0s").await, before);
    block(&running, "203.0.113.8").await;
    let Polled::Delta(base, _, _) = running.poll(Some(before.revision()), "0s").await else {
        panic!("expected a delta")
    };
    assert_eq!(base, before.revision().number);
}

#[tokio::test]
async fn polls_beyond_the_limit_are_told_to_come_back() {
    let running = Running::start_with(|config| config.limits.polls = 1).await;
    let at = running.poll(None, "1s").await.revision();
    let path = format!("/v1/decisions/stream?epoch={}&after={}", at.epoch, at.number);
    let second = async {
        until(|| running.service.app().hub.waiting() == 1).await;
        let response = running.proxy(Method::GET, &path).send().await.unwrap();
        assert_eq!(response.headers()["retry-after"], "5");
        let refused = crate::support::problem_of(response, 503).await;
        assert_eq!(refused["detail"], "too many proxies wait for decisions: raise limits.polls");
        block(&running, "203.0.113.7").await;
    };
    let (first, ()) = tokio::join!(running.poll(Some(at), "30s"), second);
    assert_eq!(first.revision().number, 1);
    assert_eq!(running.service.app().hub.waiting(), 0, "the place is free again");
}

#[tokio::test]
async fn a_client_that_goes_away_frees_its_place() {
    let running = Running::start().await;
    let at = running.poll(None, "1s").await.revision();
    {
        let poll = running.poll(Some(at), "55s");
        tokio::pin!(poll);
        tokio::select! {
            _ = &mut poll => panic!("nothing changed"),
            () = until(|| running.service.app().hub.waiting() == 1) => {}
        }
    }
    until(|| running.service.app().hub.waiting() == 0).await;
}

#[tokio::test]
async fn stopping_answers_waiting_polls_at_once() {
    let running = Running::start().await;
    let at = running.poll(None, "1s").await.revision();
    let app = std::sync::Arc::clone(running.service.app());
    let path = format!("/v1/decisions/stream?wait=55s&epoch={}&after={}", at.epoch, at.number);
    let poll = tokio::spawn(running.proxy(Method::GET, &path).send());
    until(|| app.hub.waiting() == 1).await;
    let started = Instant::now();
    running.service.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(poll.await.unwrap().unwrap().status(), 204);
}

#[tokio::test]
async fn a_bad_poll_is_explained() {
    let running = Running::start().await;
    let request = running.proxy(Method::GET, "/v1/decisions/stream?wait=2m&after=-1&since=3");
    assert_eq!(
        crate::support::faults(&problem(request, 400).await),
        [
            "after: expected a number from 0 to 18446744073709551615, found '-1'",
            "wait: expected a duration up to 55s such as 30s, found '2m'",
            "since: not a parameter here: expected epoch, after, limits, wait",
        ]
    );
}
