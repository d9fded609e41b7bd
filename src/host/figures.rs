//! How long the pure parts take inside the VM of a real Envoy: `make bench-vm`.
//!
//! In the module only with the feature `figures`, which no build for users has. Runs once,
//! when a plugin is configured in the first VM, and logs a line for each figure. What is
//! timed is checked first.

use core::hint::black_box;
use core::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::abi;
use crate::client_ip::{self, Source};
use crate::decisions::table::{Builder, Table};
use crate::decisions::wire::{self, Steps};
use crate::decisions::{Change, Entry, NEVER, Revision, Tier};
use crate::limits::gcra::Bucket;
use crate::privacy::AddressForm;
use crate::record::{Record, Verdict};

const MILLION: u32 = 1_000_000;

fn listed(n: u32) -> u32 {
    // Odd: even addresses are never on the list.
    n.wrapping_mul(2_654_435_761) | 1
}

fn entry(address: u32, id: u32) -> Option<Entry> {
    let target = IpNet::V4(Ipv4Net::new(Ipv4Addr::from(address), 32).ok()?);
    Some(Entry { target, tier: Tier::Manual, id, expires_at: NEVER })
}

/// Nanoseconds that `work` takes, per call of `calls`.
fn time(calls: u64, work: impl FnOnce()) -> f64 {
    let start = abi::monotonic_ns();
    work();
    (abi::monotonic_ns() - start) as f64 / calls as f64
}

/// Logs all figures; `None` where something is not as it must be.
pub(super) fn report() -> Option<()> {
    for entries in [1_000, 100_000, MILLION] {
        let table = table(entries)?;
        let mut found = 0u32;
        let hits = time(u64::from(entries), || {
            for n in 0..entries {
                let ip = IpAddr::V4(Ipv4Addr::from(listed(black_box(n))));
                found += u32::from(table.lookup(ip, 1).is_some());
            }
        });
        if found != entries {
            return None;
        }
        let misses = time(u64::from(MILLION), || {
            for n in 0..MILLION {
                let ip = IpAddr::V4(Ipv4Addr::from(listed(black_box(n)) & !1));
                found += u32::from(table.lookup(ip, 1).is_some());
            }
        });
        if found != entries {
            return None;
        }
        let bytes = table.base_bytes() as f64 / f64::from(entries);
        log::info!(
            "figure: look-up in {entries} decisions: listed {hits:.1} ns, not listed {misses:.1} ns; {bytes:.2} bytes an entry"
        );
    }
    one_change()?;
    small()
}

/// A table as a worker loads it, from the encoded snapshot.
fn table(entries: u32) -> Option<Table> {
    let mut all: Vec<Entry> =
        (0..entries).map(|n| entry(listed(n), n + 1)).collect::<Option<_>>()?;
    all.sort_unstable_by_key(Entry::sort_key);
    all.dedup_by_key(|entry| entry.target);
    let body = wire::encode_snapshot(Revision { epoch: 1, number: 1 }, 0, &all);
    let count = all.len();
    drop(all);
    let start = abi::monotonic_ns();
    let mut builder = Builder::new(count);
    let mut steps = Steps::begin(&body).ok()?;
    let (mut slowest, mut since) = (0, start);
    while let Some(frame) = steps.next(&body).ok()? {
        let mut built = Ok(());
        frame.entries(|entry| built = built.and_then(|()| builder.push(&entry))).ok()?;
        built.ok()?;
        let now = abi::monotonic_ns();
        slowest = slowest.max(now - since);
        since = now;
    }
    let table = builder.finish();
    let now = abi::monotonic_ns();
    slowest = slowest.max(now - since);
    if table.len() != count {
        return None;
    }
    let took = (now - start) as f64 / 1e6;
    log::info!(
        "figure: {count} decisions loaded in {took:.1} ms, at most {:.1} ms at a time; {} bytes on the wire",
        slowest as f64 / 1e6,
        body.len()
    );
    Some(table)
}

/// One entry added to a million.
fn one_change() -> Option<()> {
    const CHANGES: u32 = 500;
    let mut table = table(MILLION)?;
    let mut slowest = 0;
    let mut sum = 0;
    for n in 0..CHANGES {
        let added = entry(listed(n) & !1, MILLION + n)?;
        let revision = Revision { epoch: 1, number: u64::from(n) + 2 };
        let body = wire::encode_delta(revision.number - 1, revision, 0, &[Change::Add(added)]);
        let start = abi::monotonic_ns();
        let message = wire::decode(&body).ok()?;
        let mut changes = Vec::new();
        for frame in &message.frames {
            frame.changes(|change| changes.push(change)).ok()?;
        }
        table.apply(&changes);
        let took = abi::monotonic_ns() - start;
        (sum, slowest) = (sum + took, slowest.max(took));
        table.lookup(IpAddr::V4(Ipv4Addr::from(listed(n) & !1)), 1)?;
    }
    log::info!(
        "figure: one more decision in a million: mean {:.1} µs, at most {:.1} µs",
        sum as f64 / f64::from(CHANGES) / 1e3,
        slowest as f64 / 1e3
    );
    Some(())
}

/// What a request costs beside its look-up.
fn small() -> Option<()> {
    const CALLS: u64 = 200_000;
    let bucket = Bucket { interval: 200_000_000, capacity: 1_000_000_000, horizon: 1_000_000_000 };
    let mut arrival = 0;
    let took = time(CALLS, || {
        for n in 0..CALLS {
            let now = 1_000_000_000_000 + black_box(n) * 200_000_000;
            if let crate::limits::gcra::Outcome::Admitted { arrival: next } =
                bucket.take(arrival, now, 1)
            {
                arrival = next;
            }
        }
    });
    if arrival == 0 {
        return None;
    }
    log::info!("figure: a token taken: {took:.1} ns");
    let took = time(CALLS, || {
        for _ in 0..CALLS {
            black_box(crate::address::parse_peer(black_box(b"203.0.113.77:41234")));
        }
    });
    crate::address::parse_peer(b"203.0.113.77:41234")?;
    log::info!("figure: Envoy's address of a client read: {took:.1} ns");
    let source = Source::Envoy;
    let peer = Some(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 77)));
    let took = time(CALLS, || {
        for _ in 0..CALLS {
            black_box(client_ip::resolve(&source, black_box(peer), &[]));
        }
    });
    client_ip::resolve(&source, peer, &[])?;
    log::info!("figure: a client's address, resolved: {took:.1} ns");
    let record = Record {
        time_us: 1,
        ip: peer,
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
        country: None,
        city: b"London",
        asn: Some(64_512),
        identity: b"",
    };
    let mut out = Vec::new();
    let took = time(CALLS, || {
        for n in 0..CALLS {
            if n % 500 == 0 {
                out.clear();
            }
            wire_record(&mut out, &record);
        }
    });
    if out.is_empty() {
        return None;
    }
    log::info!("figure: a record encoded: {took:.1} ns");
    Some(())
}

fn wire_record(out: &mut Vec<u8>, record: &Record<'_>) {
    crate::record::wire::put_record(out, 0, black_box(record));
}
