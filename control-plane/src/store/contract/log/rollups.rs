//! Rollups in a [`LogStore`]: every stored record counts, once.

use super::{TIME_US, header, incoming, record};
use crate::privacy::{Kept, Veil};
use crate::store::contract::Fixture;
use crate::store::{IdentitySeen, LogStore};
use ipwarden::record::Record;

const HOUR: i64 = (TIME_US / 3_600_000_000) as i64;

pub(crate) async fn every_stored_record_is_rolled_up_once<F>()
where
    F: Fixture<Store: LogStore>,
{
    let fixture = F::fresh().await;
    let mut store = fixture.open().await;
    let of = |ip: &str, weight| Record { ip: Some(ip.parse().unwrap()), weight, ..record() };
    for number in 1..=6 {
        let records =
            vec![of("203.0.113.7", 2), of("2001:db8::1", 1), of("2001:db8::2", 1), record()];
        let batch = incoming(header(1, number), records);
        store.append(std::slice::from_ref(&batch)).await.unwrap();
        // The same again, and a store that went away without a word.
        store.append(std::slice::from_ref(&batch)).await.unwrap();
        if number % 2 == 0 {
            drop(store);
            store = fixture.open().await;
        }
        if number == 3 {
            assert_eq!(store.rollups(HOUR, 1).await.unwrap().requests, 15);
        }
    }
    let found = store.rollups(HOUR, 1).await.unwrap();
    assert_eq!((found.addresses, found.requests), (2, 30));
    let counts: Vec<(String, u64)> = found
        .rollups
        .iter()
        .map(|(target, rollup)| (target.to_string(), rollup.requests))
        .collect();
    let expected = [("203.0.113.7/32".to_owned(), 18), ("2001:db8::/64".to_owned(), 12)];
    assert_eq!(counts, expected, "IPv6 by its /64");
    let rollup = &found.rollups[0].1;
    assert_eq!((rollup.client_errors, rollup.bytes, rollup.methods()), (18, 12 * 900, 1));
    // A second look changes nothing; only who asked enough is told.
    assert_eq!(store.rollups(HOUR, 13).await.unwrap().rollups.len(), 1);
    assert_eq!(store.rollups(HOUR + 1, 1).await.unwrap().requests, 0);
    let name = |ip| vec![Kept { ip, veil: Veil::NONE }];
    let targets = found.rollups.iter().map(|(target, _)| name(target.addr())).collect();
    let past = store.past_hours(vec![HOUR - 1, HOUR], targets).await.unwrap();
    assert_eq!(past.len(), 1, "hours without records are left out");
    assert_eq!((past[0].hour, past[0].requests), (HOUR, 30));
    assert_eq!(past[0].by_target, [18, 12]);
}

pub(crate) async fn identities_are_counted_with_their_places<F>()
where
    F: Fixture<Store: LogStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    for number in 1..=2 {
        let of = |ip: &str, second: u64| Record {
            ip: Some(ip.parse().unwrap()),
            time_us: TIME_US + second * 1_000_000,
            identity: b"alice",
            ..record()
        };
        let records = vec![of("203.0.113.7", number), of("198.51.100.1", 9 + number), record()];
        let batch = incoming(header(1, number), records);
        store.append(std::slice::from_ref(&batch)).await.unwrap();
        store.append(std::slice::from_ref(&batch)).await.unwrap();
    }
    drop(store);
    let found = fixture.open().await.rollups(HOUR, 1).await.unwrap();
    let [alice] = found.identities.as_slice() else { panic!("{found:?}") };
    assert_eq!((alice.identity.as_str(), alice.requests), ("alice", 4));
    let seen = |ip: &str, first: i64, last: i64| IdentitySeen {
        ip: ip.parse().unwrap(),
        first_us: TIME_US.cast_signed() + first * 1_000_000,
        last_us: TIME_US.cast_signed() + last * 1_000_000,
    };
    assert_eq!(alice.places, [seen("203.0.113.7", 1, 2), seen("198.51.100.1", 10, 11)]);
}
