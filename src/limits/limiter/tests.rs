use core::cell::Cell;

use super::*;
use crate::config;
use crate::limits::matching::testing::{Lines, Properties};
use crate::shared::testing::MemoryShared;

const SECOND: Nanos = 1_000_000_000;
const NOW: Nanos = 1_000 * SECOND;

struct World {
    shared: MemoryShared,
    workers: Vec<Limiter>,
    next: usize,
    now: Nanos,
}

/// A request of the tests: who asks for what, with which headers and properties.
#[derive(Clone)]
struct Asks<'a> {
    ip: &'a str,
    path: &'a str,
    lines: &'a [(&'a str, &'a [u8])],
    properties: &'a [(&'a [u8], &'a [u8])],
}

const LOGIN: Asks<'_> = Asks { ip: "203.0.113.7", path: "/login", lines: &[], properties: &[] };
const SUB: &[u8] = b"metadata\0filter_metadata\0envoy.filters.http.jwt_authn\0jwt_payload\0sub";
const PLAN: &[u8] = b"metadata\0filter_metadata\0envoy.filters.http.jwt_authn\0jwt_payload\0plan";
const ROUTE: &[u8] = b"xds\0route_metadata\0filter_metadata\0ipwarden\0limits";
const JWT: &str = r#""identity": [{"jwt": {"metadata_key": "jwt_payload", "claim": "sub"}}]"#;

impl World {
    fn new(json: &str) -> Self {
        let mut shared = MemoryShared::default();
        let workers = (0..2)
            .map(|n| {
                let config = config::check(json.as_bytes()).unwrap();
                let mut limiter = Limiter::new(
                    config.limits,
                    config.identity,
                    LimitsTable { keys: 1_000, ..config.limits_table },
                    "test",
                    [n; 16],
                );
                limiter.open(&mut shared);
                limiter
            })
            .collect();
        Self { shared, workers, next: 0, now: NOW }
    }

    /// With these limits and identities by token.
    fn with(limits: &str) -> Self {
        Self::new(&format!(r#"{{{JWT}, "limits": [{limits}]}}"#))
    }

    /// Every request goes to another worker than the one before.
    fn ruling(&mut self, asks: &Asks<'_>) -> Option<Box<Ruling>> {
        self.next += 1;
        let worker = self.next % self.workers.len();
        let ip = (!asks.ip.is_empty()).then(|| asks.ip.parse().unwrap());
        let (lines, properties) = (Lines(asks.lines), Properties::new(asks.properties));
        let request =
            Request::new(b"POST", b"site.example", asks.path.as_bytes(), &lines, &properties);
        let now = self.now;
        let client = Client { ip, peer: ip, opted_out: false };
        self.workers[worker].judge(&mut self.shared, client, &request, &mut || now)
    }

    fn admits(&mut self, asks: &Asks<'_>) -> bool {
        self.ruling(asks).is_none_or(|ruling| ruling.outcome != Outcome::Refused)
    }

    /// Requests admitted of so many at once.
    fn admitted(&mut self, asks: &Asks<'_>, of: u32) -> u32 {
        (0..of).map(|_| u32::from(self.admits(asks))).sum()
    }

    fn apply(&mut self, policy: &str) {
        let policy = config::check_policy(policy.as_bytes()).unwrap();
        for worker in &mut self.workers {
            worker.apply(&policy);
        }
    }

    fn counts(&mut self, name: &str) -> RuleCounts {
        let mut sum = RuleCounts::default();
        for worker in &mut self.workers {
            for (_, counts) in worker.take_counts().filter(|(found, _)| *found == name) {
                sum.admitted += counts.admitted;
                sum.refused += counts.refused;
                sum.shadow += counts.shadow;
            }
        }
        sum
    }
}

#[test]
fn the_default_limit_is_five_a_minute_for_strangers_and_ten_for_the_known() {
    let mut world = World::new(&format!("{{{JWT}}}"));
    assert_eq!(world.admitted(&LOGIN, 20), 5);
    let alice = Asks { properties: &[(SUB, b"alice")], ..LOGIN };
    assert_eq!(world.admitted(&alice, 20), 10, "a stranger's requests are not hers");
    assert_eq!(world.admitted(&Asks { path: "/", ..LOGIN }, 100), 100);
    assert_eq!(world.admitted(&Asks { ip: "203.0.113.8", ..LOGIN }, 20), 5);
    assert_eq!(world.counts("login"), RuleCounts { admitted: 20, refused: 40, shadow: 0 });
    world.now += 12 * SECOND - 1;
    assert!(!world.admits(&LOGIN));
    world.now += 1;
    assert_eq!(world.admitted(&LOGIN, 20), 1);
}

#[test]
fn an_unlimited_request_costs_no_host_call_and_a_flood_almost_none() {
    let mut world = World::new("{}");
    let clock = Cell::new(0);
    let (lines, properties) = (Lines(&[]), Properties::new(&[]));
    let before = (world.shared.gets, world.shared.sets);
    let request = Request::new(b"GET", b"", b"/", &lines, &properties);
    let client = Client { ip: None, peer: None, opted_out: false };
    let ruling = world.workers[0].judge(&mut world.shared, client, &request, &mut || {
        clock.set(clock.get() + 1);
        NOW
    });
    assert!(ruling.is_none());
    assert_eq!(clock.get(), 0);
    assert_eq!((world.shared.gets, world.shared.sets), before);
    world.admitted(&LOGIN, 5);
    let admitted = (world.shared.gets - before.0, world.shared.sets - before.1);
    assert_eq!(admitted, (5, 5), "one read and one write each");
    world.admitted(&LOGIN, 1_000);
    let flood = (world.shared.gets - before.0 - 5, world.shared.sets - before.1 - 5);
    assert_eq!(flood, (2, 0), "one read of each worker for a thousand refusals");
}

#[test]
fn a_refusal_says_when_and_keeps_to_it() {
    let mut world = World::new("{}");
    world.admitted(&LOGIN, 5);
    let ruling = world.ruling(&LOGIN).unwrap();
    assert_eq!(ruling.limit().unwrap().name, "login");
    let standing = ruling.standings().next().unwrap();
    assert_eq!((standing.name, standing.remaining, standing.reset_seconds), ("login", 0, 12));
    world.now += SECOND / 2;
    assert_eq!(world.ruling(&LOGIN).unwrap().standings().next().unwrap().reset_seconds, 12);
    world.now += SECOND / 2;
    assert_eq!(world.ruling(&LOGIN).unwrap().standings().next().unwrap().reset_seconds, 11);
}

#[test]
fn identities_are_counted_apart_and_their_address_has_a_ceiling() {
    let mut world = World::with(
        r#"{"name": "api", "key": "identity", "anonymous": {"requests": 2, "per": "1m"},
            "authenticated": {"requests": 3, "per": "1m"}, "ceiling": {"requests": 7, "per": "1m"}}"#,
    );
    let of = |name: &'static [u8]| -> &'static [(&'static [u8], &'static [u8])] {
        Box::leak(Box::new([(SUB, name)]))
    };
    let alice = Asks { properties: of(b"alice"), ..LOGIN };
    assert_eq!(world.admitted(&alice, 9), 3);
    assert_eq!(world.admitted(&Asks { properties: of(b"bob"), ..LOGIN }, 9), 3);
    assert_eq!(world.admitted(&Asks { properties: of(b"carol"), ..LOGIN }, 9), 1, "the ceiling");
    assert_eq!(world.admitted(&LOGIN, 9), 2, "strangers are counted by address");
    // Elsewhere the ceiling is another, but she is the same.
    assert_eq!(world.admitted(&Asks { ip: "192.0.2.1", ..alice }, 9), 0);
    let carol = Asks { ip: "192.0.2.1", properties: of(b"carol"), ..LOGIN };
    assert_eq!(world.admitted(&carol, 9), 2, "what the ceiling refused cost her nothing");
}

#[test]
fn a_header_as_the_key_mints_no_buckets_beyond_the_ceiling() {
    let mut world = World::with(
        r#"{"name": "api", "key": "header:x-api-key", "anonymous": {"requests": 2, "per": "1m"},
            "ceiling": {"requests": 5, "per": "1m"}}"#,
    );
    let mut admitted = 0;
    for n in 0..50 {
        let value = n.to_string();
        admitted += world.admitted(&Asks { lines: &[("x-api-key", value.as_bytes())], ..LOGIN }, 1);
    }
    assert_eq!(admitted, 5);
    assert_eq!(world.admitted(&LOGIN, 9), 2, "without the header the address counts");
}

#[test]
fn the_closest_match_applies_and_limits_for_all_beside_it() {
    let mut world = World::with(
        r#"{"name": "site", "apply": "all", "anonymous": {"requests": 6, "per": "1m"}},
           {"name": "wide", "match": {"path_prefix": "/"}, "anonymous": {"requests": 4, "per": "1m"}},
           {"name": "narrow", "match": {"path_prefix": "/login"}, "anonymous": {"requests": 2, "per": "1m"}}"#,
    );
    assert_eq!(world.admitted(&LOGIN, 9), 2);
    assert_eq!(world.admitted(&Asks { path: "/x", ..LOGIN }, 9), 4, "refused ones cost nothing");
    assert_eq!(world.admitted(&Asks { path: "/y", ..LOGIN }, 9), 0);
    assert_eq!(world.counts("narrow"), RuleCounts { admitted: 2, refused: 7, shadow: 0 });
}

#[test]
fn a_path_in_disguise_falls_under_the_limits_of_both_its_spellings() {
    let mut world = World::with(
        r#"{"name": "static", "match": {"path_prefix": "/static"}, "anonymous": {"requests": 7, "per": "1m"}},
           {"name": "login", "match": {"path_prefix": "/login"}, "anonymous": {"requests": 2, "per": "1m"}}"#,
    );
    assert_eq!(world.admitted(&Asks { path: "/static/../login", ..LOGIN }, 9), 2);
    assert_eq!(world.admitted(&Asks { path: "/%6cogin", ..LOGIN }, 9), 0);
    assert_eq!(world.admitted(&Asks { path: "/login/../static", ip: "192.0.2.1", ..LOGIN }, 9), 2);
    assert_eq!(world.counts("static").admitted, 4);
}

#[test]
fn a_route_names_its_limits_or_none() {
    let mut world = World::with(
        r#"{"name": "usual", "anonymous": {"requests": 2, "per": "1m"}},
           {"name": "strict", "apply": "route", "anonymous": {"requests": 1, "per": "1m"}}"#,
    );
    assert_eq!(world.admitted(&LOGIN, 9), 2);
    let on = |names: &'static [u8]| -> &'static [(&'static [u8], &'static [u8])] {
        Box::leak(Box::new([(ROUTE, names)]))
    };
    assert_eq!(world.admitted(&Asks { properties: on(b"strict"), ..LOGIN }, 9), 1);
    assert_eq!(world.admitted(&Asks { properties: on(b"none"), ..LOGIN }, 9), 9);
    let other = Asks { ip: "192.0.2.1", properties: on(b"usual, strict"), ..LOGIN };
    assert_eq!(world.admitted(&other, 9), 1);
    let slip = Asks { ip: "192.0.2.2", properties: on(b"stirct"), ..LOGIN };
    assert_eq!(world.admitted(&slip, 9), 2, "a slip does not open the gate");
}

#[test]
fn a_route_goes_without_limits_also_where_none_applies_by_route() {
    let mut world = World::new("{}");
    assert_eq!(world.admitted(&LOGIN, 9), 5);
    assert_eq!(world.admitted(&Asks { properties: &[(ROUTE, b"none")], ..LOGIN }, 9), 9);
    assert_eq!(world.admitted(&Asks { properties: &[(ROUTE, b"login")], ..LOGIN }, 9), 0);
}

#[test]
fn tiers_go_by_the_verified_claim() {
    let mut world = World::with(
        r#"{"name": "api", "key": "identity", "anonymous": {"requests": 1, "per": "1m"},
            "authenticated": {"requests": 2, "per": "1m"}, "ceiling": "unlimited",
            "tiers": {"claim": "plan", "pro": {"requests": 4, "per": "1m"}, "staff": "unlimited"}}"#,
    );
    let mut admitted = |plan: &[u8], name: &[u8]| {
        world.admitted(&Asks { properties: &[(SUB, name), (PLAN, plan)], ..LOGIN }, 9)
    };
    assert_eq!(admitted(b"free", b"a"), 2, "an unknown tier counts as authenticated");
    assert_eq!(admitted(b"pro", b"b"), 4);
    assert_eq!(admitted(b"staff", b"c"), 9);
    assert_eq!(world.admitted(&Asks { properties: &[(PLAN, b"pro")], ..LOGIN }, 9), 1);
}

#[test]
fn the_status_of_the_response_charges_more_or_gives_back() {
    let mut world = World::with(
        r#"{"name": "login", "anonymous": {"requests": 10, "per": "1m"},
            "cost": {"default": 1, "status": {"401": 5, "2xx": 0}}}"#,
    );
    for _ in 0..20 {
        let mut ruling = world.ruling(&LOGIN).unwrap();
        assert_eq!(ruling.outcome, Outcome::Admitted);
        assert!(ruling.awaits_status());
        let now = world.now;
        world.workers[0].answered(&mut world.shared, &mut ruling, 200, now);
        assert!(!ruling.awaits_status(), "once");
    }
    for _ in 0..2 {
        let mut ruling = world.ruling(&LOGIN).unwrap();
        let now = world.now;
        world.workers[1].answered(&mut world.shared, &mut ruling, 401, now);
    }
    assert!(!world.admits(&LOGIN), "two failures are worth ten requests");
}

#[test]
fn shadow_refuses_nobody_and_says_whom_it_would_have_refused() {
    let mut world = World::with(
        r#"{"name": "trial", "mode": "shadow", "headers": true, "anonymous": {"requests": 2, "per": "1m"}}"#,
    );
    assert_eq!(world.ruling(&LOGIN).unwrap().standings().count(), 0, "no headers");
    assert_eq!(world.ruling(&LOGIN).unwrap().outcome, Outcome::Admitted);
    let ruling = world.ruling(&LOGIN).unwrap();
    assert_eq!((ruling.outcome, ruling.limit().unwrap().name.as_str()), (Outcome::Shadow, "trial"));
    assert_eq!(world.counts("trial"), RuleCounts { admitted: 2, refused: 0, shadow: 1 });
}

#[test]
fn exempt_addresses_and_identities_are_not_counted() {
    let mut world = World::with(
        r#"{"name": "api", "anonymous": {"requests": 1, "per": "1m"},
            "exempt": {"addresses": ["192.0.2.0/24"], "identities": ["monitor"]}}"#,
    );
    assert_eq!(world.admitted(&Asks { ip: "192.0.2.9", ..LOGIN }, 9), 9);
    assert_eq!(world.admitted(&Asks { properties: &[(SUB, b"monitor")], ..LOGIN }, 9), 9);
    assert_eq!(world.admitted(&LOGIN, 9), 1);
    assert_eq!(world.admitted(&Asks { ip: "", ..LOGIN }, 9), 9, "no address to count by");
}

#[test]
fn ipv6_is_counted_by_network_and_ipv4_by_address() {
    let mut world = World::new("{}");
    let mut admitted = |ip| world.admitted(&Asks { ip, ..LOGIN }, 9);
    assert_eq!(admitted("2001:db8:1:2::1"), 5);
    assert_eq!(admitted("2001:db8:1:2:ffff::9"), 0);
    assert_eq!(admitted("2001:db8:1:3::1"), 5);
    assert_eq!(admitted("192.0.2.1"), 5);
    assert_eq!(admitted("192.0.2.2"), 5);
}

#[test]
fn a_policy_changes_limits_without_touching_buckets() {
    let mut world = World::new("{}");
    assert_eq!(world.admitted(&LOGIN, 9), 5);
    world.apply(r#"{"limits": [{"name": "login", "mode": "shadow"}], "resets": []}"#);
    let counts = RuleCounts { admitted: 5, refused: 4, shadow: 0 };
    assert_eq!(world.counts("login"), counts, "what was counted before stays counted");
    assert_eq!(world.admitted(&LOGIN, 9), 9);
    world.apply(
        r#"{"limits": [{"name": "login", "match": {"path_prefix": "/login"},
            "anonymous": {"requests": 10, "per": "1m", "burst": 15}}], "resets": []}"#,
    );
    // It owes a minute of the ninety seconds that it may owe now.
    assert_eq!(world.admitted(&LOGIN, 9), 5);
    world.apply(r#"{"limits": [], "resets": []}"#);
    assert_eq!(world.admitted(&LOGIN, 9), 0, "its own limit is in force again, and it owes");
    world.apply(
        r#"{"limits": [{"name": "more", "apply": "all", "anonymous": {"requests": 1, "per": "1m"}}], "resets": []}"#,
    );
    assert_eq!(world.admitted(&Asks { ip: "192.0.2.1", ..LOGIN }, 9), 1);
}

#[test]
fn a_reset_fills_the_buckets_of_a_key_once() {
    let mut world = World::new(&format!("{{{JWT}}}"));
    let alice = Asks { properties: &[(SUB, b"alice")], ..LOGIN };
    assert_eq!((world.admitted(&LOGIN, 9), world.admitted(&alice, 20)), (5, 10));
    let reset = |id, key: &str, limit: Option<&str>| Reset {
        id,
        key: key.to_owned(),
        limit: limit.map(str::to_owned),
    };
    let resets = [reset(7, "203.0.113.7", None)];
    let World { workers, shared, .. } = &mut world;
    assert_eq!(workers[0].reset(shared, &resets, 6), 7);
    workers[1].apply(&Policy::default());
    assert_eq!((world.admitted(&LOGIN, 9), world.admitted(&alice, 20)), (5, 10));
    let World { workers, shared, .. } = &mut world;
    assert_eq!(workers[0].reset(shared, &resets, 7), 7, "done already");
    let elsewhere = [reset(8, "203.0.113.7", Some("other")), reset(9, "identity:bob", None)];
    assert_eq!(workers[0].reset(shared, &elsewhere, 7), 9);
    assert_eq!(world.admitted(&LOGIN, 9), 0);
}

#[test]
fn contention_refuses_or_admits_as_configured_and_a_refusing_host_admits() {
    for (word, admitted) in [("refuse", 0), ("admit", 9)] {
        let mut world =
            World::new(&format!(r#"{{"limits_table": {{"on_contention": "{word}"}}}}"#));
        world.shared.fail_every = 1;
        assert_eq!(world.admitted(&LOGIN, 9), admitted, "{word}");
        let contended: u64 =
            world.workers.iter_mut().map(|worker| worker.take_table_counts().contended).sum();
        assert_eq!(contended, 9);
    }
}

#[test]
fn the_memory_of_refused_keys_is_bounded() {
    let mut world = World::with(r#"{"name": "api", "anonymous": {"requests": 1, "per": "1h"}}"#);
    for n in 0..20_000u32 {
        let ip = core::net::Ipv4Addr::from(0x0b00_0000 + n).to_string();
        world.admitted(&Asks { ip: &ip, ..LOGIN }, 2);
    }
    for worker in &world.workers {
        assert!(worker.remembered.len() <= MAX_REMEMBERED);
    }
}

#[test]
fn a_clock_set_back_by_an_hour_locks_nobody_out_for_longer_than_a_bucket_takes_to_fill() {
    let mut world = World::new("{}");
    world.now += 3_600 * SECOND;
    assert_eq!(world.admitted(&LOGIN, 9), 5);
    let other = Asks { ip: "192.0.2.1", ..LOGIN };
    assert_eq!(world.admitted(&other, 2), 2);
    world.now -= 3_600 * SECOND;
    assert_eq!(world.admitted(&LOGIN, 9), 0, "the gate does not open");
    let wait = world.ruling(&LOGIN).unwrap().standings().next().unwrap().reset_seconds;
    assert_eq!(wait, 12);
    world.now += 12 * SECOND;
    assert_eq!(world.admitted(&LOGIN, 9), 1, "as after any refusal");
    world.now += 48 * SECOND;
    assert_eq!(world.admitted(&other, 9), 0, "noticed with its first request");
    world.now += 60 * SECOND;
    assert_eq!(world.admitted(&other, 9), 5);
}

#[test]
fn a_clock_set_forward_by_an_hour_fills_buckets_once() {
    let mut world = World::new("{}");
    assert_eq!(world.admitted(&LOGIN, 9), 5);
    world.now += 3_600 * SECOND;
    assert_eq!(world.admitted(&LOGIN, 99), 5);
}

#[test]
fn a_refusal_gives_back_only_what_was_taken() {
    let mut world = World::new(
        r#"{"limits_table": {"on_contention": "admit"}, "limits": [
            {"name": "wide", "apply": "all", "anonymous": {"requests": 6, "per": "1m"}},
            {"name": "narrow", "anonymous": {"requests": 3, "per": "1m"}}]}"#,
    );
    assert_eq!(world.admitted(&LOGIN, 3), 3);
    // Nothing could be taken from the wide one, and the narrow one refuses.
    world.shared.fail_next = table::MAX_TRIES;
    assert!(!world.admits(&LOGIN));
    world.apply(r#"{"limits": [{"name": "narrow", "mode": "shadow"}], "resets": []}"#);
    assert_eq!(world.admitted(&LOGIN, 9), 3, "six in all");
}

#[test]
fn each_limit_in_shadow_counts_a_request_once_and_is_charged_only_for_what_it_would_admit() {
    let limits = r#"
        {"name": "api", "mode": "shadow", "apply": "all", "key": "identity",
         "anonymous": {"requests": 9, "per": "1m"}, "authenticated": {"requests": 2, "per": "1m"},
         "ceiling": {"requests": 4, "per": "1m"}},
        {"name": "other", "mode": "shadow", "apply": "all", "anonymous": {"requests": 1, "per": "1m"}}"#;
    let counts = |name| {
        let mut world = World::with(limits);
        let alice = Asks { properties: &[(SUB, b"alice")], ..LOGIN };
        assert_eq!(world.admitted(&alice, 5), 5);
        assert_eq!(world.admitted(&Asks { properties: &[(SUB, b"bob")], ..LOGIN }, 2), 2);
        world.counts(name)
    };
    // Three of hers would have been refused, and left the address its ceiling of four.
    assert_eq!(counts("api"), RuleCounts { admitted: 4, refused: 0, shadow: 3 });
    assert_eq!(counts("other"), RuleCounts { admitted: 1, refused: 0, shadow: 6 });
}
