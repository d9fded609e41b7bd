//! What the pure parts of the filter take natively: `cargo bench -p ipwarden --bench micro`.
//! The same inside Envoy's V8: `make bench-vm`. Each asserts its result before it is timed.

#![expect(clippy::unwrap_used, reason = "a benchmark may fail loudly")]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ipwarden::client_ip::{self, Source};
use ipwarden::config;
use ipwarden::decisions::table::{Builder, Table};
use ipwarden::decisions::{Change, Entry, NEVER, Revision, Tier, wire};
use ipwarden::limits::gcra::{Bucket, Outcome};
use ipwarden::privacy::AddressForm;
use ipwarden::record::{BatchHeader, Record, Verdict, wire as records};

const SIZES: [u32; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// Odd: even addresses are never on the list.
fn listed(n: u32) -> u32 {
    n.wrapping_mul(2_654_435_761) | 1
}

fn ip(address: u32) -> IpAddr {
    Ipv4Addr::from(address).into()
}

fn entries(count: u32) -> Vec<Entry> {
    let mut all: Vec<Entry> = (0..count)
        .map(|n| Entry {
            target: ip(listed(n)).into(),
            tier: Tier::Manual,
            id: n + 1,
            expires_at: NEVER,
        })
        .collect();
    all.sort_unstable_by_key(Entry::sort_key);
    all.dedup_by_key(|entry| entry.target);
    all
}

fn table(entries: &[Entry]) -> Table {
    let mut builder = Builder::new(entries.len());
    for entry in entries {
        builder.push(entry).unwrap();
    }
    builder.finish()
}

fn decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("look-up");
    for size in SIZES {
        let table = table(&entries(size));
        assert!(table.lookup(ip(listed(7)), 1).is_some());
        assert!(table.lookup(ip(listed(7) & !1), 1).is_none());
        let mut n = 0u32;
        group.bench_function(format!("{size} listed"), |b| {
            b.iter(|| {
                n = if n + 1 == size { 0 } else { n + 1 };
                black_box(table.lookup(ip(listed(n)), 1))
            });
        });
        group.bench_function(format!("{size} not listed"), |b| {
            b.iter(|| {
                n = n.wrapping_add(1);
                black_box(table.lookup(ip(listed(n) & !1), 1))
            });
        });
    }
    group.finish();

    let all = entries(1_000_000);
    let revision = Revision { epoch: 1, number: 1 };
    let body = wire::encode_snapshot(revision, 0, &all);
    let message = wire::decode(&body).unwrap();
    assert_eq!(message.header.entries as usize, all.len());
    let mut group = c.benchmark_group("set");
    group.sample_size(10);
    group.bench_function("a million decoded and loaded", |b| {
        b.iter(|| {
            let message = wire::decode(&body).unwrap();
            let mut builder = Builder::new(all.len());
            for frame in &message.frames {
                frame.entries(|entry| builder.push(&entry).unwrap()).unwrap();
            }
            builder.finish().len()
        });
    });
    let mut table = table(&all);
    let mut n = 0;
    group.bench_function("one more in a million", |b| {
        b.iter_batched(
            || {
                n += 1;
                Change::Add(Entry {
                    target: ip(listed(n) & !1).into(),
                    tier: Tier::Manual,
                    id: 1_000_000 + n,
                    expires_at: NEVER,
                })
            },
            |change| table.apply(&[change]),
            BatchSize::SmallInput,
        );
    });
    assert!(table.lookup(ip(listed(1) & !1), 1).is_some());
    group.finish();
}

fn requests(c: &mut Criterion) {
    let bucket = Bucket { interval: 200_000_000, capacity: 1_000_000_000, horizon: 1_000_000_000 };
    let mut now = 1_000_000_000_000;
    let mut arrival = 0;
    assert!(matches!(bucket.take(arrival, now, 1), Outcome::Admitted { .. }));
    c.bench_function("gcra: take", |b| {
        b.iter(|| {
            now += 200_000_000;
            if let Outcome::Admitted { arrival: next } = bucket.take(black_box(arrival), now, 1) {
                arrival = next;
            }
        });
    });

    let walk = r#"{"client_ip": {"source": "trusted_proxies", "proxies": ["10.0.0.0/8"]}}"#;
    let walk = config::check(walk.as_bytes()).unwrap().client_ip;
    let peer = Some("10.0.0.1".parse().unwrap());
    let lines: [&[u8]; 1] = [b"203.0.113.7, 10.1.2.3, 10.1.2.4"];
    assert_eq!(client_ip::resolve(&walk, peer, &lines), "203.0.113.7".parse().ok());
    c.bench_function("client address: Envoy's", |b| {
        b.iter(|| client_ip::resolve(&Source::Envoy, black_box(peer), &[]));
    });
    c.bench_function("client address: three hops", |b| {
        b.iter(|| client_ip::resolve(&walk, black_box(peer), &lines));
    });
}

fn record() -> Record<'static> {
    Record {
        time_us: 1_767_225_600_000_000,
        ip: "203.0.113.7".parse().ok(),
        form: AddressForm::Full,
        opted_out: false,
        verdict: Verdict::Admitted,
        weight: 1,
        decision: 0,
        rule: b"",
        method: b"GET",
        host: b"site.example",
        path: b"/articles/2026/11/how-to-read-a-map",
        query: b"page=2",
        status: 200,
        flags: 0,
        duration_us: 1_234,
        bytes_in: 321,
        bytes_out: 12_345,
        user_agent: b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        request_id: b"9f6b1c1e-6f3a-4c0e-8a5e-0d6f6f0f6f6f",
        country: Some(*b"GB"),
        city: b"London",
        asn: Some(64_512),
        identity: b"",
    }
}

fn batches(c: &mut Criterion) {
    const RECORDS: u32 = 500;
    let record = record();
    let mut encoded = Vec::new();
    for _ in 0..RECORDS {
        records::put_record(&mut encoded, record.time_us, &record);
    }
    let header = BatchHeader {
        stream: 1,
        number: 1,
        started_us: record.time_us,
        sent_us: record.time_us,
        proxy: b"edge-1",
        version: b"bench",
        key: None,
        applied: Revision { epoch: 1, number: 1 },
        seen: u64::from(RECORDS),
        lost: 0,
        skipped: 0,
    };
    let body = records::encode(&header, record.time_us, RECORDS, &encoded);
    assert_eq!(records::decode(&body).unwrap().records.len(), RECORDS as usize);
    let mut out = Vec::with_capacity(1 << 20);
    c.bench_function("record: encode", |b| {
        b.iter(|| {
            out.clear();
            records::put_record(&mut out, record.time_us, black_box(&record));
            out.len()
        });
    });
    c.bench_function("batch of 500: decode", |b| {
        b.iter(|| records::decode(black_box(&body)).unwrap().records.len());
    });
}

criterion_group!(benches, decisions, requests, batches);
criterion_main!(benches);
