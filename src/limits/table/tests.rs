use core::time::Duration;

use super::*;
use crate::limits::Rate;
use crate::shared::testing::MemoryShared;

const SECOND: Nanos = 1_000_000_000;
const NOW: Nanos = 1_000 * SECOND;
const SECRET: [u8; 16] = [7; 16];

fn opened(bits: u32) -> (MemoryShared, Table) {
    let mut shared = MemoryShared::default();
    let mut table = Table::new(bits);
    table.open(&mut shared, SECRET).unwrap();
    (shared, table)
}

fn minute(requests: u32) -> Bucket {
    Bucket::new(&Rate::new(requests, Duration::from_secs(60)))
}

fn place(table: &Table, name: &[u8]) -> Place {
    let mut hasher = table.hasher().unwrap();
    hasher.part(name);
    hasher.finish()
}

fn take(table: &mut Table, shared: &mut MemoryShared, place: Place, now: Nanos) -> Done {
    table.run(shared, Attempt::new(place, minute(5), Operation::Take(1), now))
}

#[test]
fn a_bucket_is_counted_across_workers_and_costs_one_read_and_one_write() {
    let (mut shared, mut first) = opened(7);
    let mut second = Table::new(7);
    second.open(&mut shared, [9; 16]).unwrap();
    let at = place(&first, b"192.0.2.1");
    assert_eq!(at, place(&second, b"192.0.2.1"), "the first secret counts for all");
    let (gets, sets) = (shared.gets, shared.sets);
    for n in 0..5 {
        let table = if n % 2 == 0 { &mut first } else { &mut second };
        assert!(matches!(take(table, &mut shared, at, NOW), Done::Stored(_)));
    }
    assert_eq!((shared.gets - gets, shared.sets - sets), (5, 5));
    assert_eq!(take(&mut second, &mut shared, at, NOW), Done::Refused(NOW + 12 * SECOND));
    assert_eq!((shared.gets - gets, shared.sets - sets), (6, 5), "a refusal writes nothing");
    let other = place(&first, b"192.0.2.2");
    assert!(matches!(take(&mut first, &mut shared, other, NOW), Done::Stored(_)));
}

#[test]
fn opening_again_reads_one_key_and_a_larger_table_keeps_the_secret() {
    let (mut shared, first) = opened(7);
    let gets = shared.gets;
    Table::new(7).open(&mut shared, [1; 16]).unwrap();
    assert_eq!(shared.gets - gets, 1);
    let mut larger = Table::new(8);
    larger.open(&mut shared, [1; 16]).unwrap();
    assert_eq!(place(&first, b"x"), place(&larger, b"x"));
    assert_eq!(shared.keys().count(), 256 + 1);
}

#[test]
fn memory_is_bounded_and_a_client_in_heavy_debt_outlives_any_spray() {
    let (mut shared, mut table) = opened(5);
    let attacker = place(&table, b"attacker");
    for _ in 0..5 {
        take(&mut table, &mut shared, attacker, NOW);
    }
    let mut admitted = 0;
    for n in 0..100_000u32 {
        // A hundred thousand addresses in ten seconds, in a table for two thousand.
        let now = NOW + u64::from(n) * SECOND / 10_000;
        let fresh = place(&table, &n.to_le_bytes());
        assert!(matches!(take(&mut table, &mut shared, fresh, now), Done::Stored(_)));
        if n % 100 == 0 {
            admitted +=
                u32::from(matches!(take(&mut table, &mut shared, attacker, now), Done::Stored(_)));
        }
    }
    assert_eq!(admitted, 0, "ten seconds are less than it has to wait");
    assert!(shared.bytes() <= (1 << 5) * WAYS * ENTRY_BYTES + 64);
    assert!(table.take_counts().evicted_in_debt > 0, "this table was truly full");
}

#[test]
fn nobody_in_debt_is_evicted_while_a_full_bucket_can_make_room() {
    let (mut shared, mut table) = opened(5);
    // 2048 entries; 1020 clients at any time in debt for twelve seconds each.
    for n in 0..60_000u32 {
        let now = NOW + u64::from(n) * SECOND / 85;
        let fresh = place(&table, &n.to_le_bytes());
        take(&mut table, &mut shared, fresh, now);
    }
    assert_eq!(table.take_counts(), Counts::default());
    let now = NOW + 60_000 * SECOND / 85;
    let fill = table.sample(&mut shared, 32, now);
    assert_eq!(fill.slots, 2_048);
    assert!((1_010..=1_030).contains(&fill.live), "{fill:?}");
}

#[test]
fn charges_refunds_and_resets_change_what_is_left() {
    let (mut shared, mut table) = opened(7);
    let at = place(&table, b"a");
    let bucket = minute(5);
    let mut run = |operation| table.run(&mut shared, Attempt::new(at, bucket, operation, NOW));
    assert!(matches!(run(Operation::Take(1)), Done::Stored(_)));
    assert!(matches!(run(Operation::Charge(4)), Done::Stored(_)));
    assert!(matches!(run(Operation::Take(1)), Done::Refused(_)));
    assert!(matches!(run(Operation::Refund(2)), Done::Stored(_)));
    assert!(matches!(run(Operation::Take(2)), Done::Stored(_)));
    assert!(matches!(run(Operation::Take(1)), Done::Refused(_)));
    assert_eq!(run(Operation::Reset), Done::Stored(NOW));
    assert!(matches!(run(Operation::Take(5)), Done::Stored(_)));
}

#[test]
fn a_lost_race_is_run_again_and_given_up_after_a_bounded_number_of_tries() {
    let (mut shared, mut table) = opened(7);
    let at = place(&table, b"a");
    take(&mut table, &mut shared, at, NOW);
    shared.fail_every = 2;
    take(&mut table, &mut shared, at, NOW);
    take(&mut table, &mut shared, at, NOW);
    assert!(table.take_counts().retries > 0);
    shared.fail_every = 1;
    assert_eq!(take(&mut table, &mut shared, at, NOW), Done::Contended);
    let counts = table.take_counts();
    assert_eq!((counts.retries, counts.contended), (u64::from(MAX_TRIES) - 1, 1));
}

#[test]
fn damaged_sets_start_over_and_are_counted() {
    let (mut shared, mut table) = opened(7);
    let at = place(&table, b"a");
    let attempt = Attempt::new(at, minute(5), Operation::Take(1), NOW);
    let key = table.set_key(&attempt);
    for damage in [vec![1; 15], vec![1; (WAYS + 1) * ENTRY_BYTES]] {
        assert!(shared.corrupt(&key, |value| *value = damage));
        assert!(matches!(table.run(&mut shared, attempt), Done::Stored(_)));
    }
    assert_eq!(table.take_counts().damaged, 2);
}

#[test]
fn five_hundred_thousand_keys_fit_in_the_promised_memory() {
    let bits = bits_for(500_000);
    assert_eq!(bits, 14);
    // libc++: node 16 + two strings 48 + number 8, key in place up to 22 bytes, value on the
    // heap in a size class of the allocator.
    let a_set = 16 + 48 + 8 + (WAYS * ENTRY_BYTES).next_multiple_of(64) + 64;
    assert!(KeyName::default().of((1 << bits) - 1).len() <= 22);
    assert!((1 << bits) * a_set <= 32 * 1024 * 1024);
}

#[test]
fn parts_of_a_place_are_told_apart() {
    let (_, table) = opened(7);
    let two = |a: &[u8], b: &[u8]| {
        let mut hasher = table.hasher().unwrap();
        hasher.part(a);
        hasher.part(b);
        hasher.finish()
    };
    assert_ne!(two(b"ab", b"c"), two(b"a", b"bc"));
    assert_eq!(two(b"ab", b"c"), two(b"ab", b"c"));
}
