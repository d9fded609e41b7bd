//! Suspects: from flags to people and proxies.

use std::time::Duration;

use ipwarden_control_plane::config::Config;
use ipwarden_control_plane::detect::{Evidence, Flag, FlagSink as _, Severity, Source};
use ipwarden_control_plane::metrics::Kind;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Polled, Running, START, faults, ok, problem};

fn flag(target: &str, rule: &str, severity: Severity) -> Flag {
    let time_us = START.parse::<jiff::Timestamp>().unwrap().as_microsecond().cast_unsigned();
    Flag {
        time_us,
        target: ipwarden::address::parse_target(target).unwrap(),
        veil: ipwarden_control_plane::privacy::Veil::NONE,
        rule: rule.to_owned(),
        severity,
        detail: "12 pages that are not there".to_owned(),
        count: 12,
        evidence: vec![Evidence {
            time_us,
            method: "GET".to_owned(),
            path: "/wp-login.php".to_owned(),
            status: 404,
            matched: String::new(),
        }],
        source: Source::Streaming,
        score: severity.weight(),
        features: Vec::new(),
    }
}

/// Raises flags and waits until they are noted and the policy has decided.
async fn raise(running: &Running, flags: Vec<Flag>) {
    let app = running.service.app();
    let taken = || {
        let of = |kind| app.metrics.flags.get_or_create(&Kind(kind)).get();
        of("noted") + of("dismissed")
    };
    let expected = taken() + flags.len() as u64;
    app.suspects.flag(flags);
    let wait = async {
        while taken() < expected || !app.state.unjudged(1).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("they were never noted");
}

/// Waits for so many suspects of which the policy has decided.
async fn suspects(running: &Running, count: usize) -> Vec<Value> {
    let wait = async {
        loop {
            let page = running.get("/v1/suspects").await;
            let unjudged = running.service.app().state.unjudged(1).await.unwrap();
            if page["total"] == count && unjudged.is_empty() {
                return page["suspects"].as_array().unwrap().clone();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("they never came")
}

async fn decisions(running: &Running) -> Vec<Value> {
    running.get("/v1/decisions").await["decisions"].as_array().unwrap().clone()
}

fn braked(config: &mut Config) {
    config.detect.policy.blocks_an_hour = 3;
}

#[tokio::test]
async fn flags_become_one_suspect_and_a_clear_attack_is_blocked_on_every_proxy() {
    let running = Running::start().await;
    let at = running.poll(None, "0s").await.revision();
    raise(&running, vec![flag("203.0.113.7", "probing", Severity::High)]).await;
    raise(&running, vec![flag("203.0.113.7", "odd", Severity::Low)]).await;
    let suspect = suspects(&running, 1).await.remove(0);
    assert_eq!(
        (&suspect["target"], &suspect["status"], &suspect["severity"], &suspect["decision"]),
        (&json!("203.0.113.7"), &json!("open"), &json!("high"), &json!(null))
    );
    assert_eq!(suspect["reasons"][0]["rule"], "probing");
    assert_eq!(suspect["reasons"][0]["evidence"][0]["path"], "/wp-login.php");
    assert!(decisions(&running).await.is_empty());

    raise(&running, vec![flag("203.0.113.7", "exploit", Severity::Critical)]).await;
    let Polled::Delta(..) = running.poll(Some(at), "10s").await else { panic!("nothing came") };
    let suspect = suspects(&running, 1).await.remove(0);
    let decision = decisions(&running).await.remove(0);
    assert_eq!(suspect["decision"], decision["id"]);
    assert_eq!(decision["origin"], "detector:exploit");
    assert_eq!(decision["expires_at"], "2026-11-22T20:00:00Z");
    assert_eq!(
        decision["reason"],
        "exploit: 12 pages that are not there; probing: 12 pages that are not there; odd: 12 pages that are not there"
    );
    let line = &running.get("/v1/audit?limit=1").await["entries"][0];
    assert_eq!((&line["actor"], &line["subject"]), (&json!("policy"), &json!("203.0.113.7")));
    // More of the same is no second block.
    raise(&running, vec![flag("203.0.113.7", "exploit", Severity::Critical)]).await;
    suspects(&running, 1).await;
    assert_eq!(decisions(&running).await.len(), 1);
}

#[tokio::test]
async fn each_further_block_of_an_address_lasts_twice_as_long() {
    let running = Running::start().await;
    for (n, hours) in [4, 8, 16].into_iter().enumerate() {
        raise(&running, vec![flag("203.0.113.7", "exploit", Severity::Critical)]).await;
        suspects(&running, 1).await;
        let mut decision = decisions(&running).await;
        while decision.is_empty() {
            decision = decisions(&running).await;
        }
        let made: jiff::Timestamp = decision[0]["created_at"].as_str().unwrap().parse().unwrap();
        let ends: jiff::Timestamp = decision[0]["expires_at"].as_str().unwrap().parse().unwrap();
        assert_eq!(ends.duration_since(made).as_hours(), hours, "block {n}");
        running.clock.advance(Duration::from_secs(hours.cast_unsigned() * 3_600));
        assert!(decisions(&running).await.is_empty());
    }
}

#[tokio::test]
async fn the_brake_withholds_blocks_and_says_so() {
    let running = Running::start_with(braked).await;
    let attack = |n: u8| flag(&format!("203.0.113.{n}"), "exploit", Severity::Critical);
    raise(&running, (1..=8).map(attack).collect()).await;
    suspects(&running, 8).await;
    assert_eq!(decisions(&running).await.len(), 3);
    let status = running.get("/v1/status").await;
    assert_eq!((&status["blocks_withheld"], &status["suspects_open"]), (&json!(5), &json!(8)));
    let metrics = running.anonymous(Method::GET, "/metrics").send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    for line in [
        "ipwarden_automatic_blocks_total{kind=\"made\"} 3",
        "ipwarden_automatic_blocks_total{kind=\"withheld\"} 5",
        "ipwarden_automatic_blocks_braked 1",
        "ipwarden_suspects_opened_total 8",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} not in\n{metrics}");
    }
    // An hour later it is past.
    running.clock.advance(Duration::from_secs(3_601));
    assert_eq!(running.get("/v1/status").await["blocks_withheld"], json!(null));
    raise(&running, vec![attack(8)]).await;
    suspects(&running, 8).await;
    assert_eq!(decisions(&running).await.len(), 4);
}

#[tokio::test]
async fn whom_an_allow_covers_and_private_networks_are_never_blocked() {
    let running = Running::start().await;
    let allow = json!({"targets": ["203.0.113.0/24"], "action": "allow"});
    running.post("/v1/decisions", allow).await;
    let targets = ["203.0.113.7", "10.1.2.3", "198.51.100.0/24", "2001:db8::/63"];
    let attack = |target: &str| flag(target, "exploit", Severity::Critical);
    raise(&running, targets.into_iter().map(attack).collect()).await;
    suspects(&running, 4).await;
    assert_eq!(decisions(&running).await.len(), 1);
}

#[tokio::test]
async fn a_forest_alone_never_blocks() {
    let running = Running::start().await;
    let forest = Flag {
        source: Source::Hourly,
        ..flag("203.0.113.7", "isolation-forest", Severity::Critical)
    };
    raise(&running, vec![forest]).await;
    suspects(&running, 1).await;
    assert!(decisions(&running).await.is_empty());
}

#[tokio::test]
async fn a_suspect_is_confirmed() {
    let running = Running::start().await;
    raise(&running, vec![flag("203.0.113.7", "probing", Severity::High)]).await;
    suspects(&running, 1).await;
    let judged = running.post("/v1/suspects/1/confirm", json!({})).await;
    assert_eq!(judged["suspect"]["status"], "confirmed");
    assert_eq!(judged["suspect"]["closed_by"], "admin");
    assert_eq!(judged["decision"]["origin"], "detector:probing");
    assert_eq!(judged["decision"]["expires_at"], "2026-11-22T20:00:00Z");
    assert_eq!(judged["warnings"], json!([]));
    let judged = running.post("/v1/suspects/1/confirm", json!({"for": "1d"})).await;
    assert_eq!(judged["decision"]["expires_at"], "2026-11-23T16:00:00Z");
    assert_eq!(decisions(&running).await.len(), 1);
    assert_eq!(running.get("/v1/suspects?status=open").await["total"], 0);
    let audit = running.get("/v1/audit?limit=1").await;
    assert_eq!(audit["entries"][0]["action"], "suspects.confirm");
    assert_eq!(audit["entries"][0]["subject"], "suspect 1 (203.0.113.7)");
}

#[tokio::test]
async fn a_dismissal_unblocks_allows_and_is_remembered() {
    let running = Running::start().await;
    raise(&running, vec![flag("203.0.113.7", "exploit", Severity::Critical)]).await;
    suspects(&running, 1).await;
    let judged = running.post("/v1/suspects/1/dismiss", json!({"allow": "7d"})).await;
    assert_eq!(judged["suspect"]["status"], "dismissed");
    assert_eq!(judged["unblocked"][0]["origin"], "detector:exploit");
    assert_eq!(judged["decision"]["action"], "allow");
    let left = decisions(&running).await;
    assert_eq!((left.len(), &left[0]["action"]), (1, &json!("allow")));
    // Remembered, also by the next service.
    let running = running.restart().await;
    raise(&running, vec![flag("203.0.113.7", "exploit", Severity::Critical)]).await;
    raise(&running, vec![flag("203.0.113.8", "exploit", Severity::Critical)]).await;
    suspects(&running, 2).await;
    assert_eq!(running.get("/v1/suspects?status=open").await["total"], 1);
}

#[tokio::test]
async fn what_was_noted_before_a_crash_is_decided_at_the_next_start() {
    let running = Running::start().await;
    let app = running.service.app();
    let sighting = ipwarden_control_plane::suspects::Sighting {
        flag: flag("203.0.113.7", "exploit", Severity::Critical),
        place: Default::default(),
    };
    // Behind the policy's back, as if it had died here.
    app.state.note_flags(vec![sighting], app.clock.now()).await.unwrap();
    let running = running.restart().await;
    suspects(&running, 1).await;
    assert_eq!(decisions(&running).await.len(), 1);
    let running = running.restart().await;
    suspects(&running, 1).await;
    assert_eq!(decisions(&running).await.len(), 1);
}

#[tokio::test]
async fn what_is_not_right_is_refused_with_its_place() {
    let running = Running::start().await;
    let refused = problem(running.admin(Method::GET, "/v1/suspects?status=odd&target=x"), 400);
    let refused = refused.await;
    assert_eq!(faults(&refused)[0], "status: expected open, confirmed or dismissed, found 'odd'");
    problem(running.admin(Method::GET, "/v1/suspects/12"), 404).await;
    problem(running.admin(Method::POST, "/v1/suspects/12/confirm"), 404).await;
    problem(running.admin(Method::GET, "/v1/suspects/x"), 400).await;
    let request =
        running.admin(Method::POST, "/v1/suspects/12/confirm").json(&json!({"for": "0s"}));
    let refused = problem(request, 422).await;
    assert_eq!(
        faults(&refused),
        ["for: expected at least one second; leave it out for a decision without an end"]
    );
    // Reading needs no admin, judging does.
    problem(running.proxy(Method::GET, "/v1/suspects"), 403).await;
    problem(running.proxy(Method::POST, "/v1/suspects/1/dismiss"), 403).await;
    ok(running.admin(Method::GET, "/v1/suspects")).await;
}
