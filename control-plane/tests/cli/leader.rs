//! Two services on one PostgreSQL: the leading one is killed in the middle of the pass, and of
//! what follows from it.

use std::path::Path;

use ipwarden_control_plane::store::StateStore as _;
use ipwarden_control_plane::store::postgres::{Location, PostgresState};
use ipwarden_control_plane::suspects::SuspectFilter;
use jiff::Timestamp;

use crate::killed::{Served, done, each_was_found_and_blocked_once, fill, metric};
use crate::postgres::Server;

/// Addresses that visited /admin in the hour: each is flagged once and blocked once.
const ADDRESSES: u32 = 500;

fn settings(url: &str) -> String {
    format!("state = \"{url}\"\n[detect]\nlow = \"block\"\nblocks_an_hour = 1_000_000\n")
}

/// The state as the service of a directory sees it, which has this name.
async fn state(url: &str, name: &str) -> PostgresState {
    PostgresState::open(Location::parse(url).unwrap(), name).await.unwrap()
}

/// Gives a data directory the name by which its log's hours are told apart.
fn name(here: &Path, name: &str) {
    std::fs::create_dir_all(here.join(".ipwarden")).unwrap();
    std::fs::write(here.join(".ipwarden").join("instance"), name).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_killed_and_another_goes_on_without_doing_anything_twice() {
    let Some(server) = Server::start(false) else { return };
    // Killed in the middle of the pass over its log.
    let (a, url, hour) = loop {
        let (a, url) = (tempfile::tempdir().unwrap(), server.fresh_schema());
        name(a.path(), "a");
        let hour = fill(a.path(), ADDRESSES, &settings(&url)).await;
        let before = state(&url, "a").await;
        before.finish_pass(done(hour - 1), Vec::new(), Timestamp::now()).await.unwrap();
        before.close().await;
        drop(before);
        let served = Served::start(a.path());
        served
            .until(|text| {
                metric(text, "ipwarden_leads") == 1
                    && (metric(text, "ipwarden_detect_pass_running") == 1
                        || metric(text, "ipwarden_suspects_open") > 0)
            })
            .await;
        served.kill();
        let state = state(&url, "a").await;
        if state.pass(hour).await.unwrap().is_none() {
            let (_, suspects) = state.suspects(SuspectFilter::default()).await.unwrap();
            assert_eq!(suspects, 0, "a pass that is not done has left nothing");
            state.close().await;
            break (a, url, hour);
        }
        // It was done before the signal came: again.
    };

    // Another one takes the lead when the lease has run out; its own log holds nothing.
    let b = tempfile::tempdir().unwrap();
    name(b.path(), "b");
    std::fs::write(b.path().join("ipwarden.toml"), settings(&url)).unwrap();
    let leader = Served::start(b.path());
    leader.until(|text| metric(text, "ipwarden_leads") == 1).await;

    // The first one is back, does its hour, and leaves the judging to the leader. That one is
    // killed in the middle of it.
    let first = Served::start(a.path());
    let made = "ipwarden_automatic_blocks_total{kind=\"made\"}";
    leader.until(|text| metric(text, made) >= 3).await;
    leader.kill();
    first.until(|text| metric(text, "ipwarden_leads") == 1).await;
    first.until(|text| metric(text, "ipwarden_decisions") >= u64::from(ADDRESSES)).await;
    first.until(|text| metric(text, made) > 0).await;
    first.kill();

    let state = state(&url, "a").await;
    assert_eq!(state.pass(hour).await.unwrap().unwrap().flagged, u64::from(ADDRESSES));
    each_was_found_and_blocked_once(&state, ADDRESSES).await;
}
