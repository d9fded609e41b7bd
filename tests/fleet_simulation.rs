//! Limits over a fleet: several Envoys of several workers, one control plane, seeded.
//!
//! The engines are real, so is the arithmetic of the control plane; the network between them is
//! slow, loses calls and answers, and is at times away. Who asks through which proxy is
//! drawn: evenly, all through one, one after the other, in bursts.
//!
//! What is held: in no span of time does the fleet admit more than what `limits::fleet` states;
//! through one proxy exactly what one bucket would; and with demand enough, and a rate that the
//! proxies get to share, the rate is also reached.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test may fail loudly")]

mod support;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ipwarden::config;
use ipwarden::decisions::{Revision, wire as decision_wire};
use ipwarden::engine::{CallId, Engine, Turn, Worker};
use ipwarden::limits::Rate;
use ipwarden::limits::fleet::account::Account;
use ipwarden::limits::fleet::reporter::INTERVAL_MS;
use ipwarden::limits::fleet::wire::{Answer, Report};
use ipwarden::limits::fleet::{BucketId, beyond, exact_up_to, excess};
use ipwarden::limits::limiter::Client;
use ipwarden::limits::matching::{Attributes, HeaderSource, Request};
use ipwarden::record::Verdict;
use ipwarden::shared::testing::MemoryShared;
use support::Random;

const START_US: u64 = 1_767_225_600_000_000;
const TICK_US: u64 = 100_000;
const STEP_US: u64 = 10_000;
const SECRET: [u8; 16] = [42; 16];

struct Nothing;

impl HeaderSource for Nothing {
    fn each(&self, _: &[u8], _: &mut dyn FnMut(&[u8])) {}
}

impl Attributes for Nothing {
    fn attribute(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// Sums what proxies report, as the control plane does.
#[derive(Default)]
struct Counter {
    accounts: HashMap<BucketId, Account>,
    seen: HashSet<(u64, u64)>,
}

impl Counter {
    fn count(&mut self, body: &[u8], now_us: u64) -> Vec<u8> {
        let report = Report::decode(body).expect("the filter's own encoding");
        let is_new = self.seen.insert((report.worker, report.number));
        let mut owes_us = Vec::new();
        for taken in &report.taken {
            let mut taken = *taken;
            if !is_new {
                taken.cost_us = 0;
            }
            let known = self.accounts.get(&taken.id).copied();
            let (account, owes) = Account::count(known, report.origin, &taken, now_us);
            self.accounts.insert(taken.id, account);
            owes_us.push(owes);
        }
        Answer { number: report.number, secret: SECRET, owes_us }.encode()
    }
}

/// An answer on its way.
struct Travels {
    at_us: u64,
    proxy: usize,
    worker: usize,
    id: CallId,
    status: u16,
    body: Vec<u8>,
}

struct Proxy {
    shared: MemoryShared,
    workers: Vec<Engine>,
    next_tick_us: Vec<u64>,
}

impl Proxy {
    fn start(number: usize, workers: usize, limit: &str) -> Self {
        let json = format!(
            r#"{{"control_plane": {{"cluster": "ipwarden", "token": "t"}}, "limits": [{limit}],
                "limits_table": {{"keys": 1000}}}}"#
        );
        let mut shared = MemoryShared::default();
        let workers: Vec<Engine> = (0..workers)
            .map(|worker| {
                let config = config::check(json.as_bytes()).expect("a configuration");
                let id = (number * 100 + worker + 1) as u64;
                let secret = [id as u8; 16];
                let proxy = format!("edge-{number}");
                let mut engine =
                    Engine::new(config, Worker { id, started_us: START_US, proxy, secret });
                engine.start(&mut shared);
                engine
            })
            .collect();
        let next_tick_us = (0..workers.len()).map(|n| START_US + n as u64 * 17_000).collect();
        Self { shared, workers, next_tick_us }
    }

    fn admits(&mut self, worker: usize, now_us: u64) -> bool {
        let client = Client { ip: "203.0.113.7".parse().ok(), peer: None, opted_out: false };
        let request = Request::new(b"GET", b"site.example", b"/", &Nothing, &Nothing);
        let now_s = u32::try_from(now_us / 1_000_000).expect("seconds");
        let judgement = self.workers[worker].judge(
            &mut self.shared,
            client,
            &request,
            now_s,
            &mut || now_us * 1_000,
            Turn::First,
        );
        judgement.verdict() == Verdict::Admitted
    }
}

/// How requests spread over proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spread {
    Even,
    AllOnOne,
    /// A few seconds each, one after the other: each has forgotten what it was told.
    Rotating,
}

#[derive(Debug, Clone, Copy)]
struct World {
    proxies: usize,
    workers: usize,
    rate: Rate,
    spread: Spread,
    /// Requests a second of all proxies together; in bursts of a whole second where it says so.
    demand: u64,
    bursts: bool,
    /// Longest time of a call, and how many of a hundred fail on the way there or back.
    call_us: u64,
    lossy: u64,
    seconds: u64,
}

/// Times of what was admitted, in microseconds, and how many requests each proxy got in any
/// window of the bound at most.
struct Outcome {
    admitted: Vec<u64>,
    load: u64,
}

fn run(seed: u64, world: World) -> Outcome {
    let mut random = Random(seed);
    let Rate { requests, per, burst } = world.rate;
    let limit = format!(
        r#"{{"name": "all", "scope": "fleet", "anonymous": {{"requests": {requests}, "per": "{}s", "burst": {burst}}}}}"#,
        per.as_secs()
    );
    let mut proxies: Vec<Proxy> =
        (0..world.proxies).map(|n| Proxy::start(n, world.workers, &limit)).collect();
    let mut counter = Counter::default();
    let mut network: Vec<Travels> = Vec::new();
    let mut admitted = Vec::new();
    let mut asked: Vec<Vec<u64>> = vec![Vec::new(); world.proxies];
    // Until everybody knows the secret nobody asks: that is a start like any other.
    let begin_us = START_US + 5_000_000;
    let end_us = begin_us + world.seconds * 1_000_000;
    let mut now_us = START_US;
    let mut owed = 0;
    while now_us < end_us {
        for (number, proxy) in proxies.iter_mut().enumerate() {
            for worker in 0..proxy.workers.len() {
                if now_us < proxy.next_tick_us[worker] {
                    continue;
                }
                proxy.next_tick_us[worker] = now_us + TICK_US;
                let engine = &mut proxy.workers[worker];
                engine.tick(&mut proxy.shared, now_us, &mut || now_us * 1_000);
                while let Some(call) = engine.next_call(&mut proxy.shared, now_us) {
                    let there = now_us + 1 + random.below(world.call_us);
                    let back = there + random.below(world.call_us);
                    let lost_there = random.chance(world.lossy);
                    let (status, body) = match call.id {
                        CallId::Consumption(_) if lost_there => (0, Vec::new()),
                        CallId::Consumption(_) => {
                            let (_, body) = call.body.expect("a report");
                            (200, counter.count(&body, there))
                        }
                        CallId::Poll(1) => {
                            let revision = Revision { epoch: 1, number: 1 };
                            (200, decision_wire::encode_snapshot(revision, 0, &[]))
                        }
                        // The answer takes its time: nothing new.
                        CallId::Poll(_) => continue,
                        _ => (204, Vec::new()),
                    };
                    let lost_back = random.chance(world.lossy);
                    let status = if lost_back && world.lossy > 0 { 503 } else { status };
                    network.push(Travels {
                        at_us: back,
                        proxy: number,
                        worker,
                        id: call.id,
                        status,
                        body,
                    });
                }
            }
        }
        for at in (0..network.len()).rev() {
            if network[at].at_us <= now_us {
                let Travels { proxy, worker, id, status, body, .. } = network.swap_remove(at);
                let proxy = &mut proxies[proxy];
                proxy.workers[worker].answered(id, status, &body, &mut proxy.shared, now_us);
            }
        }
        if now_us >= begin_us {
            let second = (now_us - begin_us) / 1_000_000;
            let due = if world.bursts {
                let first = (now_us - begin_us) % 1_000_000 < STEP_US;
                if first { world.demand } else { 0 }
            } else {
                owed += world.demand * STEP_US;
                let due = owed / 1_000_000;
                owed %= 1_000_000;
                due
            };
            for _ in 0..due {
                let number = match world.spread {
                    Spread::AllOnOne => 0,
                    Spread::Even => random.below(world.proxies as u64) as usize,
                    Spread::Rotating => (second / 2) as usize % world.proxies,
                };
                asked[number].push(now_us);
                let worker = random.below(world.workers as u64) as usize;
                if proxies[number].admits(worker, now_us) {
                    admitted.push(now_us);
                }
            }
        }
        now_us += STEP_US;
    }
    let window = window(&world).as_micros() as u64;
    let load = asked.iter().map(|times| most_within(times, window)).max().unwrap_or(0);
    Outcome { admitted, load }
}

/// Twice the time from a token that is taken to the answer to its report: a report a second,
/// ticks of the worker, of the leader and of what it does with the answer, the call; and where
/// calls are lost the pauses before they come again.
fn window(world: &World) -> Duration {
    let lost = if world.lossy > 0 { 9_000_000 } else { 0 };
    Duration::from_micros(2 * (INTERVAL_MS * 1_000 + 3 * TICK_US + 2 * world.call_us + lost))
}

/// Most times within any span of this length.
fn most_within(times: &[u64], span: u64) -> u64 {
    let mut first = 0;
    let mut most = 0;
    for (at, time) in times.iter().enumerate() {
        while times[first] + span < *time {
            first += 1;
        }
        most = most.max(at - first + 1);
    }
    most as u64
}

/// By how many tokens the worst span of time exceeds what one bucket would have admitted.
fn worst(rate: &Rate, admitted: &[u64]) -> u64 {
    let times: Vec<u64> = admitted.iter().map(|at| at * 1_000).collect();
    beyond(rate, &times)
}

fn rate(requests: u32, seconds: u64, burst: u32) -> Rate {
    Rate { burst, ..Rate::new(requests, Duration::from_secs(seconds)) }
}

#[track_caller]
fn holds(seed: u64, world: World) -> (u64, u64) {
    let outcome = run(seed, world);
    let worst = worst(&world.rate, &outcome.admitted);
    let bound = excess(&world.rate, world.proxies as u64, window(&world), outcome.load);
    assert!(worst <= bound, "seed {seed}: {worst} more than one bucket, {bound} stated: {world:?}");
    (worst, bound)
}

fn any_world(random: &mut Random) -> World {
    let spread =
        [Spread::Even, Spread::Even, Spread::AllOnOne, Spread::Rotating][random.below(4) as usize];
    World {
        proxies: 1 + random.below(6) as usize,
        workers: 1 + random.below(3) as usize,
        rate: rate(
            1 + random.below(200) as u32,
            1 + random.below(60),
            1 + random.below(150) as u32,
        ),
        spread,
        demand: 1 + random.below(120),
        bursts: random.chance(30),
        call_us: [1_000, 50_000, 400_000][random.below(3) as usize],
        lossy: [0, 0, 20][random.below(3) as usize],
        seconds: 40,
    }
}

#[test]
fn no_span_of_time_holds_more_than_is_stated() {
    let (mut beyond, mut closest) = (0, 0.0f64);
    let mut fleets = 0;
    for seed in 0..90 {
        let mut random = Random(seed);
        let world = any_world(&mut random);
        if world.proxies as u64 > exact_up_to(&world.rate, window(&world)) {
            continue;
        }
        fleets += 1;
        let (worst, bound) = holds(seed, world);
        beyond += u32::from(worst > 0);
        if bound > 0 {
            closest = closest.max(worst as f64 / bound as f64);
        }
    }
    println!(
        "{beyond} of {fleets} fleets admitted more than one bucket; at most {closest:.2} of the bound"
    );
    // A bound that nothing comes near would say nothing.
    assert!(fleets > 60 && beyond > 10 && closest > 0.5, "{fleets} {beyond} {closest}");
}

#[test]
fn through_one_proxy_a_fleet_admits_what_one_bucket_would() {
    for seed in 0..8 {
        let spread = Spread::AllOnOne;
        let world = World { spread, lossy: 0, ..any_world(&mut Random(seed)) };
        let outcome = run(seed, world);
        let alone = World { proxies: 1, ..world };
        assert_eq!(worst(&world.rate, &outcome.admitted), 0, "seed {seed}");
        assert_eq!(outcome.admitted.len(), run(seed, alone).admitted.len(), "seed {seed}");
    }
}

const FOUR: World = World {
    proxies: 4,
    workers: 2,
    rate: Rate { requests: 100, per: Duration::from_secs(60), burst: 100 },
    spread: Spread::Even,
    demand: 20,
    bursts: false,
    call_us: 5_000,
    lossy: 0,
    seconds: 300,
};

#[test]
fn four_proxies_share_100_a_minute_in_the_long_run() {
    let (worst_of, bound) = holds(1, FOUR);
    let outcome = run(1, FOUR);
    let exact = 100 + 100 * FOUR.seconds / 60;
    let admitted = outcome.admitted.len() as u64;
    println!(
        "even: {admitted} admitted in {} s, one bucket {exact}; {worst_of} beyond at worst, {bound} stated",
        FOUR.seconds
    );
    assert!(admitted <= exact + bound, "{admitted}");
    // The rate is reached, too: nobody is held back for what nobody took.
    assert!(admitted + 25 >= exact, "{admitted} of {exact}");
    // With a control plane that counts nothing each has the whole rate.
    let alone = World { lossy: 100, ..FOUR };
    let admitted = run(1, alone).admitted.len() as u64;
    assert!(admitted > 3 * exact, "{admitted}");
}

#[test]
fn what_a_burst_through_all_proxies_took_is_paid_back() {
    // 400 at once, 25 a second afterwards: all four buckets are emptied before anybody knows.
    let world = World { bursts: true, demand: 400, seconds: 600, ..FOUR };
    let (worst_of, bound) = holds(2, world);
    let admitted = run(2, world).admitted;
    println!("burst: {worst_of} beyond at worst, {bound} stated; {} in all", admitted.len());
    assert!(worst_of > 200, "the burst is not one: {worst_of}");
    let late = admitted.iter().filter(|at| **at > START_US + 305_000_000).count() as u64;
    assert!(late <= 100 * 5 + bound, "{late} in the last five minutes");
    let all = admitted.len() as u64;
    assert!(all <= 100 + 100 * 10 + bound, "{all}");
}

#[test]
fn a_report_that_comes_twice_is_counted_once() {
    let mut counter = Counter::default();
    let taken = ipwarden::limits::fleet::account::Taken {
        id: BucketId(1),
        cost_us: 1_000,
        horizon_us: 1_000_000,
    };
    let report = |origin| Report { origin, worker: origin, number: 1, taken: vec![taken] }.encode();
    counter.count(&report(1), 500);
    let owes = |answer: &[u8]| Answer::decode(answer).expect("an answer").owes_us[0];
    assert_eq!(owes(&counter.count(&report(2), 500)), 2_000);
    assert_eq!(owes(&counter.count(&report(2), 500)), 2_000);
}
