//! Several control planes on one PostgreSQL, each with proxies of its own.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipwarden_e2e::{Load, Options, System, eventually, now};
use serde_json::json;

#[expect(dead_code, reason = "other tests use schemas, too")]
#[path = "../../../../control-plane/tests/fixtures/postgres.rs"]
mod postgres;

use postgres::Server;

async fn server(durable: bool) -> Option<Arc<Server>> {
    let started = tokio::task::spawn_blocking(move || Server::start(durable));
    started.await.expect("a server").map(Arc::new)
}

fn options(server: &Server) -> Options {
    Options { settings: format!("state = \"{}\"\n", server.url()), ..Options::default() }
}

/// Blocks through one of two control planes with two Envoys each; how long it took each time
/// until all four refused.
async fn blocks_through_one(tries: u32) -> Option<Vec<Duration>> {
    let server = server(false).await?;
    let (a, b) = (System::start(options(&server)).await, System::start(options(&server)).await);
    let (a2, b2) = (a.another_edge().await, b.another_edge().await);
    let mut took = Vec::new();
    for n in 0..tries {
        let client = format!("100.64.{}.{}", n / 250, n % 250);
        // Each is told by turns.
        let told = if n % 2 == 0 { &a } else { &b };
        let start = now();
        told.decide("block", &[&client], json!({})).await;
        let accepted = start.elapsed();
        let (one, two, three, four) = tokio::join!(
            a.settles(&client, 403),
            a2.settles(&client, 403),
            b.settles(&client, 403),
            b2.settles(&client, 403)
        );
        took.push(accepted + one.max(two).max(three).max(four));
    }
    took.sort();
    Some(took)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_through_one_control_plane_is_refused_by_the_proxies_of_both() {
    let Some(took) = blocks_through_one(6).await else { return };
    // Were it found by comparing revisions only, it would take seconds.
    assert!(took[took.len() / 2] < Duration::from_millis(1_500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes and prints figures: make bench-fleet-block"]
async fn from_a_block_to_its_refusal_by_all_of_four_envoys() {
    const TRIES: u32 = 200;
    let Some(took) = blocks_through_one(TRIES).await else { return };
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    println!(
        "block through one of two control planes → refused by four Envoys, {TRIES} tries: p50 {:?}, p90 {:?}, p99 {:?}, max {:?}",
        at(50),
        at(90),
        at(99),
        at(100)
    );
    assert!(at(99) < Duration::from_millis(500), "p99 {:?}", at(99));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_works_at_the_other_control_plane_until_it_is_revoked() {
    let Some(server) = server(false).await else { return };
    let (a, b) = (System::start(options(&server)).await, System::start(options(&server)).await);
    let body = json!({"name": "auditor", "role": "viewer"});
    let made = a.api("POST", "/v1/tokens", Some(body)).await;
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let status = async || {
        let request = http.get(b.api_url("/v1/decisions")).bearer_auth(&secret);
        request.send().await.expect("an answer").status().as_u16()
    };
    let works = eventually("it works at the other", async || status().await == 200).await;
    a.api("DELETE", "/v1/tokens/auditor", None).await;
    let ended = eventually("it is refused at the other", async || status().await == 401).await;
    assert!(works.max(ended) < Duration::from_secs(4), "{works:?} {ended:?}");
}

/// Kills PostgreSQL for a while under load and changes: the site stays up, and afterwards
/// everything that was acknowledged is there once, on both sides.
async fn postgres_is_away(down: Duration) {
    let Some(server) = server(true).await else { return };
    let (a, b) = (System::start(options(&server)).await, System::start(options(&server)).await);
    let loads = [&a, &b].map(|system| Load::start(system.site_port, 2, 100));
    a.decide("block", &["203.0.113.7"], json!({})).await;
    b.settles("203.0.113.7", 403).await;

    let mut told = Told::default();
    for _ in 0..20 {
        told.block(&a).await;
        told.block(&b).await;
    }
    assert_eq!(told.refused, 0, "while the server is there nothing is refused");
    // While changes are under way.
    let at = Arc::clone(&server);
    let killed = tokio::task::spawn_blocking(move || at.kill());
    let start = now();
    while start.elapsed() < down {
        told.block(&a).await;
        told.block(&b).await;
        for system in [&a, &b] {
            assert_eq!(system.status("203.0.113.7").await, 403);
            assert_eq!(system.status("203.0.113.8").await, 200);
        }
    }
    killed.await.expect("killed");
    assert!(told.refused > 0, "changes are refused while the server is away");
    let acknowledged = told.acknowledged.len();
    for system in [&a, &b] {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let ready = http.get(system.api_url("/readyz")).send().await.expect("an answer");
        assert_eq!(ready.status().as_u16(), 200);
        let text = ready.text().await.expect("a text");
        assert_eq!(text, "ready, read-only: the state store can't be reached\n");
        let metrics = system.service_metrics().await;
        assert!(metrics.contains("\nipwarden_state_store_up 0\n"), "{metrics}");
        let status = system.api("GET", "/v1/status", None).await;
        assert!(status["state_problem"].is_string(), "{status}");
    }

    let at = Arc::clone(&server);
    tokio::task::spawn_blocking(move || at.restart()).await.expect("started again");
    let back = now();
    let mut last = String::new();
    for system in [&a, &b] {
        eventually("changes are taken again", async || {
            let (client, taken) = told.block(system).await;
            last = client;
            taken
        })
        .await;
    }
    let back = back.elapsed();
    // What the last one was told, all proxies know: also those of the other control plane.
    a.settles(&last, 403).await;
    b.settles(&last, 403).await;
    eventually("both have the same revision", async || {
        let of =
            async |system: &System| system.api("GET", "/v1/status", None).await["revision"].clone();
        of(&a).await == of(&b).await
    })
    .await;
    for system in [&a, &b] {
        let listed = targets(system).await;
        let there: BTreeSet<&String> = listed.iter().collect();
        assert_eq!(there.len(), listed.len(), "nothing is there twice");
        for client in &told.acknowledged {
            assert!(there.contains(client), "{client} was acknowledged and is missing");
        }
    }
    let revisions: BTreeSet<u64> = told.revisions.iter().copied().collect();
    assert_eq!(revisions.len(), told.revisions.len(), "no revision was given twice");
    println!(
        "PostgreSQL away for {down:?}: {acknowledged} changes acknowledged before, {} refused (slowest answer {:?}), changes taken again {back:?} after the restart",
        told.refused, told.slowest_refusal
    );
    for load in loads {
        let sent = load.stop().await;
        println!("site: {sent:?}");
        assert_eq!((sent.other, sent.broken), (0, 0), "{sent:?}");
    }
}

/// The targets of all decisions.
async fn targets(system: &System) -> Vec<String> {
    let (mut targets, mut before) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/decisions?limit=1000{before}");
        let page = system.api("GET", &path, None).await["decisions"].clone();
        let page = page.as_array().expect("decisions");
        targets.extend(page.iter().map(|one| one["target"].as_str().expect("a target").to_owned()));
        match page.last() {
            Some(last) if page.len() == 1_000 => before = format!("&before={}", last["id"]),
            _ => return targets,
        }
    }
}

/// What was asked for and answered.
#[derive(Default)]
struct Told {
    asked: u32,
    acknowledged: Vec<String>,
    revisions: Vec<u64>,
    refused: u64,
    slowest_refusal: Duration,
}

impl Told {
    /// Blocks one more client; which, and whether it was acknowledged.
    async fn block(&mut self, system: &System) -> (String, bool) {
        self.asked += 1;
        let client = format!("100.64.{}.{}", self.asked / 250, self.asked % 250);
        let body = json!({"targets": [client], "action": "block", "reason": "test"});
        let start = now();
        let (status, answer) = system.api_raw("POST", "/v1/decisions", Some(body)).await;
        match status {
            200..300 => {
                self.revisions.push(answer["revision"].as_u64().expect("a revision"));
                self.acknowledged.push(client.clone());
            }
            503 => {
                self.refused += 1;
                self.slowest_refusal = self.slowest_refusal.max(start.elapsed());
            }
            _ => panic!("{status} {answer}"),
        }
        (client, (200..300).contains(&status))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_site_stays_up_while_postgres_is_away_and_nothing_acknowledged_is_lost() {
    postgres_is_away(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes half a minute and prints figures: make bench-fleet-block"]
async fn postgres_killed_for_twenty_seconds() {
    postgres_is_away(Duration::from_secs(20)).await;
}
