//! Places under load and under failure, with an injected clock: how often a provider is asked.
//!
//! Every run is named by its seed. What must hold in all of them:
//!
//! - a network is asked about once until its answer expires, however many requests it makes;
//! - never more look-ups are on their way than the bound, never more are sent in a day than the
//!   quota, all workers together;
//! - a breaker that opened closes again once the provider answers;
//! - a place that is told is the right one.

#![expect(clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

mod support;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use ipwarden::config;
use ipwarden::geo::{Geo, Located, Lookup, MAX_IN_FLIGHT, Outcome};
use ipwarden::shared::testing::MemoryShared;
use support::Random;

const DAY_MS: u64 = 86_400_000;
/// The start of a day (UTC).
const START_MS: u64 = 20_000 * DAY_MS;

fn worker(more: &str, id: u64) -> Geo {
    let json = format!(r#"{{"geo": {{"cluster": "geo", "provider": "ipwarden" {more}}}}}"#);
    Geo::new(config::check(json.as_bytes()).expect("valid").geo.expect("given"), id)
}

/// The network of number `n`: a /24 for each, except that every tenth is a /20.
fn network(n: u32) -> String {
    let first = Ipv4Addr::from(0x0800_0000 + n * 4_096);
    let length = if n.is_multiple_of(10) { 20 } else { 24 };
    format!("{first}/{length}")
}

/// An address in the network of number `n`.
fn address(n: u32, random: &mut Random) -> IpAddr {
    let size = if n.is_multiple_of(10) { 4_096 } else { 256 };
    Ipv4Addr::from(0x0800_0000 + n * 4_096 + random.below(size) as u32).into()
}

fn number_of(ip: IpAddr) -> u32 {
    let IpAddr::V4(ip) = ip else { panic!("an IPv4 address") };
    (u32::from(ip) - 0x0800_0000) / 4_096
}

fn answer(lookup: &Lookup) -> String {
    let ip: IpAddr = lookup.path.trim_start_matches("/v1/geo/").parse().expect("an address");
    let n = number_of(ip);
    format!(r#"{{"country": "GB", "asn": {}, "network": "{}"}}"#, n + 1, network(n))
}

/// Asks and answers until nothing is left to ask; how many look-ups that took.
fn settle(geo: &mut Geo, shared: &mut MemoryShared, now_ms: u64) -> usize {
    let mut sent = 0;
    while let Some(lookup) = geo.next_lookup(shared, now_ms) {
        sent += 1;
        let body = answer(&lookup);
        let outcome = geo.answered(shared, lookup.id, 200, body.as_bytes(), now_ms);
        assert_eq!(outcome, Outcome::Found);
    }
    sent
}

#[test]
fn ten_thousand_requests_from_a_thousand_networks_are_a_thousand_look_ups_a_day() {
    let mut shared = MemoryShared::default();
    let mut workers = [1, 2, 3, 4].map(|id| worker("", id));
    for geo in &mut workers {
        geo.open(&mut shared);
    }
    let mut random = Random(7);
    for day in 0..3 {
        let mut sent = 0;
        let mut told = 0;
        for request in 0..10_000u32 {
            let now_ms = START_MS + day * (DAY_MS + 120_000) + u64::from(request) * 10;
            let geo = &mut workers[random.below(4) as usize];
            let n = request % 1_000;
            let ip = address(n, &mut random);
            if let Located::Known(place) = geo.locate(&mut shared, ip, now_ms) {
                assert_eq!(place.asn(), Some(n + 1));
                told += 1;
            }
            sent += settle(geo, &mut shared, now_ms);
        }
        assert_eq!((sent, told), (1_000, 9_000), "day {day}");
    }
    let (gets, sets) = (shared.gets, shared.sets);
    let ip = address(5, &mut random);
    let last = START_MS + 2 * (DAY_MS + 120_000) + 100_000;
    let geo = &mut workers[0];
    geo.locate(&mut shared, ip, last);
    let after_first = shared.gets;
    assert!(after_first - gets <= 3, "a look into shared data reads three sets at most");
    for _ in 0..1_000 {
        assert!(matches!(geo.locate(&mut shared, ip, last), Located::Known(_)));
    }
    assert_eq!((shared.gets, shared.sets), (after_first, sets), "a hit costs no host call");
}

#[test]
fn failures_of_every_kind_at_any_moment() {
    let (mut opened, mut closed, mut over_quota) = (0, 0, 0);
    for seed in 0..200 {
        let mut random = Random(seed);
        let quota = 50 + random.below(200) as usize;
        let mut shared = MemoryShared::default();
        let mut workers: Vec<Geo> = (0..3)
            .map(|id| worker(&format!(r#", "quota_per_day": {quota}"#), seed * 3 + id + 1))
            .collect();
        for geo in &mut workers {
            geo.open(&mut shared);
        }
        shared.fail_every = random.below(7) as u32;
        let mut flying: Vec<(usize, Lookup)> = Vec::new();
        let mut sent_today = 0;
        let mut now_ms = START_MS + random.below(DAY_MS);
        let mut day = now_ms / DAY_MS;
        let mut fails = 0;
        for step in 0..3_000 {
            let longest = if random.chance(1) { 3_600_000 } else { 400 };
            now_ms += random.below(longest);
            if now_ms / DAY_MS != day {
                (day, sent_today) = (now_ms / DAY_MS, 0);
            }
            if step % 300 == 0 {
                fails = random.below(101);
            }
            let w = random.below(3) as usize;
            let n = random.below(2_000) as u32;
            let ip = address(n, &mut random);
            if let Located::Known(place) = workers[w].locate(&mut shared, ip, now_ms) {
                assert_eq!(place.asn(), Some(n + 1), "seed {seed} step {step}");
            }
            while let Some(lookup) = workers[w].next_lookup(&mut shared, now_ms) {
                sent_today += 1;
                flying.push((w, lookup));
            }
            assert!(sent_today <= quota, "seed {seed} step {step}: {sent_today} of {quota}");
            for (w, geo) in workers.iter().enumerate() {
                let own = flying.iter().filter(|(of, _)| *of == w).count();
                assert!(own <= MAX_IN_FLIGHT, "seed {seed} step {step}");
                assert_eq!(geo.gauges().in_flight, own as u64, "seed {seed} step {step}");
            }
            let ids: HashSet<_> =
                flying.iter().map(|(w, lookup)| (*w, lookup.path.clone())).collect();
            assert_eq!(ids.len(), flying.len(), "seed {seed}: asked twice at one time");
            // Answers in any order; some never come, and are given up by the tick.
            while !flying.is_empty() && random.chance(60) {
                let at = random.below(flying.len() as u64) as usize;
                let (w, lookup) = flying.swap_remove(at);
                let right = answer(&lookup);
                let (status, body): (u16, &[u8]) = match random.below(100) {
                    chance if chance >= fails => (200, right.as_bytes()),
                    chance => match chance % 5 {
                        0 => (0, b""),
                        1 => (504, b"upstream request timeout"),
                        2 => (200, b"<html>"),
                        3 => (302, b"{}"),
                        _ => (429, b"{}"),
                    },
                };
                workers[w].answered(&mut shared, lookup.id, status, body, now_ms);
            }
            if random.chance(20) {
                let before = workers[w].gauges().in_flight;
                let lost = workers[w].tick(now_ms);
                assert_eq!(workers[w].gauges().in_flight, before - lost);
                if lost > 0 {
                    // Whoever was given up is no longer waited for: a late answer is nobody's.
                    let gone: Vec<Lookup> = flying
                        .extract_if(.., |(of, _)| *of == w)
                        .map(|(_, lookup)| lookup)
                        .collect();
                    for lookup in gone {
                        workers[w].answered(&mut shared, lookup.id, 0, b"", now_ms);
                    }
                }
            }
        }
        // The provider answers again: whatever was open closes, the next day at the latest.
        for (w, lookup) in flying.drain(..) {
            workers[w].answered(&mut shared, lookup.id, 0, b"", now_ms);
        }
        shared.fail_every = 0;
        now_ms += 2 * DAY_MS;
        for (w, geo) in (0..).zip(&mut workers) {
            geo.tick(now_ms);
            // Networks that no other worker has learnt of.
            for n in 3_000 + w * 10..3_003 + w * 10 {
                geo.locate(&mut shared, address(n, &mut random), now_ms);
            }
            while let Some(lookup) = geo.next_lookup(&mut shared, now_ms) {
                let body = answer(&lookup);
                geo.answered(&mut shared, lookup.id, 200, body.as_bytes(), now_ms);
            }
            assert_eq!(geo.gauges().breaker, 0, "seed {seed}");
            let (counts, _, changes) = geo.take_counts();
            assert_eq!(changes.0, changes.1, "seed {seed}");
            (opened, closed) = (opened + changes.0, closed + changes.1);
            over_quota += counts.over_quota;
        }
    }
    // The runs were about something.
    assert!(opened > 200 && closed > 200 && over_quota > 1_000, "{opened} {closed} {over_quota}");
}
