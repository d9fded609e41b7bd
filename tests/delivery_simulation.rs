//! One worker's records against a control plane that is slow, down, forgetful of answers,
//! and a network that repeats and reorders; seeded.
//!
//! The law: at the end `seen = stored + lost + skipped`, every stored request stored once,
//! and memory within its bound all along.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test may fail loudly")]

mod support;

use std::collections::{HashMap, HashSet};

use ipwarden::decisions::Revision;
use ipwarden::privacy::AddressForm;
use ipwarden::privacy::disguise::Disguise;
use ipwarden::record::buffer::{Buffer, Cause, Policy, Requester};
use ipwarden::record::delivery::{Answer, Delivery, Identity, Shipment};
use ipwarden::record::{Record, Verdict, wire};
use support::Random;

/// Stores each number once, as the real one does.
#[derive(Default)]
struct Store {
    batches: HashMap<u64, u64>,
    reported_lost: u64,
    reported_seen: u64,
    /// What is bad stays bad, however often it is sent.
    rejected: HashSet<u64>,
}

impl Store {
    fn take(&mut self, body: &[u8], reject: bool) -> Answer {
        let batch = wire::decode(body).expect("the filter's own encoding");
        self.reported_lost = self.reported_lost.max(batch.header.lost);
        self.reported_seen = self.reported_seen.max(batch.header.seen);
        if batch.header.number == 0 {
            return Answer::Stored;
        }
        let weight = batch.records.iter().map(|record| u64::from(record.weight)).sum();
        let number = batch.header.number;
        if self.rejected.contains(&number) || (reject && !self.batches.contains_key(&number)) {
            self.rejected.insert(number);
            return Answer::Rejected;
        }
        let known = *self.batches.entry(number).or_insert(weight);
        assert_eq!(known, weight, "one number, two contents");
        Answer::Stored
    }
}

fn run(seed: u64) -> (u64, u64, u64) {
    let mut random = Random(seed);
    let buffer_bytes = (64 * 1024) << random.below(3);
    let policy = Policy {
        max_batch: 1 + random.below(100) as usize,
        max_age_us: 200_000,
        buffer_bytes,
        sample: [1, 1, 7][random.below(3) as usize],
        sensitive_paths: vec![b"/admin".to_vec()],
        skip_paths: vec![b"/skip".to_vec()],
    };
    let mut buffer = Buffer::new(policy, Disguise::default());
    let mut delivery =
        Delivery::new(Identity { stream: seed, started_us: 1, proxy: "p".to_owned(), key: None });
    let mut store = Store::default();
    let mut network: Vec<Shipment> = Vec::new();
    let mut now_us = 1_000_000_000;
    let mut down = false;
    let applied = Revision::default();
    let steps = 3_000;
    for step in 0.. {
        let closing = step >= steps;
        let told = store.reported_lost == buffer.totals().lost;
        let shipped = delivery.is_idle() && !buffer.has_sealed() && network.is_empty();
        if step > steps && shipped && told {
            break;
        }
        assert!(step < steps * 20, "seed {seed}: does not end");
        now_us += random.below(40_000);
        if !closing {
            if random.chance(2) {
                down = !down;
            }
            for _ in 0..random.below(30) {
                let refused = random.chance(40);
                let ip = std::net::IpAddr::V4((random.below(5) as u32).into());
                let verdict = if refused { Verdict::Blocked } else { Verdict::Admitted };
                let decision = if refused { 7 } else { 0 };
                let from = Requester { ip, opted_out: false };
                if refused && buffer.absorb(from, verdict, Cause::new(decision, b""), now_us) {
                    continue;
                }
                let path: &[u8] = [&b"/"[..], b"/admin", b"/skip", b"/a/long/path/to/somewhere"]
                    [random.below(4) as usize];
                let record = Record {
                    time_us: now_us,
                    ip: Some(ip),
                    form: AddressForm::Full,
                    opted_out: false,
                    verdict,
                    weight: 1,
                    decision,
                    rule: b"",
                    method: b"GET",
                    host: b"h",
                    path,
                    query: b"",
                    status: 200,
                    flags: 0,
                    duration_us: 1,
                    bytes_in: 1,
                    bytes_out: 1,
                    user_agent: b"ua",
                    request_id: b"id",
                    country: None,
                    city: b"",
                    asn: None,
                    identity: b"",
                };
                buffer.push(&record, now_us);
                buffer.shed(delivery.outgoing_bytes());
            }
        } else {
            down = false;
            if step == steps {
                buffer.close(now_us);
            }
        }
        buffer.tick(now_us);
        while let Some(shipment) =
            delivery.next(now_us, &mut buffer, applied, closing && random.chance(5))
        {
            network.push(shipment);
        }
        // Messages arrive in any order, once, twice or never; so do their answers.
        for _ in 0..random.below(6) {
            if network.is_empty() {
                break;
            }
            let index = random.below(network.len() as u64) as usize;
            let shipment = network.swap_remove(index);
            if !closing && random.chance(5) {
                continue; // Lost on the way there: no answer at all.
            }
            let answer =
                if down { Answer::Failed } else { store.take(&shipment.body, random.chance(1)) };
            if !closing && random.chance(5) {
                network.push(shipment.clone()); // Repeated.
            }
            let answer = match (closing, random.below(100)) {
                (false, 0..5) => continue,        // The answer is lost.
                (false, 5..10) => Answer::Failed, // A proxy in between made a 503 of it.
                _ => answer,
            };
            delivery.answered(shipment.ticket, answer, now_us, &mut buffer);
        }
        let held = buffer.held_bytes() + delivery.outgoing_bytes();
        assert!(
            held <= buffer_bytes + buffer_bytes / 8 + 8_192 || closing,
            "seed {seed}: {held} of {buffer_bytes}"
        );
    }
    let totals = buffer.totals();
    let stored: u64 = store.batches.values().sum();
    assert_eq!(
        totals.seen,
        stored + totals.lost + totals.skipped,
        "seed {seed}: {totals:?}, stored {stored}"
    );
    assert_eq!(store.reported_seen, totals.seen, "seed {seed}");
    (stored, totals.lost, store.rejected.len() as u64)
}

#[test]
fn every_request_is_stored_once_or_counted_as_lost() {
    let (mut stored, mut lost, mut rejected) = (0, 0, 0);
    for seed in 0..200 {
        let (s, l, r) = run(seed);
        stored += s;
        lost += l;
        rejected += r;
    }
    assert!(stored > 100_000 && lost > 1_000 && rejected > 100, "{stored} {lost} {rejected}");
}
