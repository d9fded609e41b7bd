//! Laws of a [`LogStore`]: each batch counts once, each query finds what matches.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::ControlFlow;

use ipnet::IpNet;
use ipwarden::record::{BatchHeader, Record, Verdict};
use jiff::Timestamp;
use proptest::prelude::*;

use super::{TIME_US, append_one, everything, header, incoming, record};
use crate::geo::{Country, Spot};
use crate::store::contract::{Fixture, law};
use crate::store::view::stored_records;
use crate::store::{Appended, LogStore, RecordQuery, StatusFilter};

/// Deliveries of a few workers: (worker, number), many of them again and again.
fn any_deliveries() -> impl Strategy<Value = Vec<Vec<(u64, u64)>>> {
    let delivery = (0u64..3, 0u64..12);
    proptest::collection::vec(proptest::collection::vec(delivery, 0..6), 1..14)
}

pub(crate) async fn a_batch_is_stored_once_in_whatever_order_it_comes<F>()
where
    F: Fixture<Store: LogStore>,
{
    law::<F, _, _>(24, &any_deliveries(), async |calls| {
        let fixture = F::fresh().await;
        let mut store = fixture.open().await;
        let mut arrived = BTreeSet::new();
        let mut expected = Vec::new();
        for (call, deliveries) in calls.into_iter().enumerate() {
            if call % 5 == 4 {
                drop(store);
                store = fixture.open().await;
            }
            let batches: Vec<_> = deliveries
                .iter()
                // Large numbers are no different; 0 is a report without records.
                .map(|&(worker, number)| {
                    let mut carried = record();
                    carried.bytes_in = 100 * worker + number;
                    let records = vec![carried; (number % 3) as usize];
                    incoming(header(u64::MAX - worker, number), records)
                })
                .collect();
            let outcomes = store.append(&batches).await.unwrap();
            prop_assert_eq!(outcomes.len(), batches.len());
            for ((delivery, batch), outcome) in deliveries.iter().zip(&batches).zip(outcomes) {
                let is_new = delivery.1 == 0 || arrived.insert(*delivery);
                match outcome {
                    Appended::Duplicate => prop_assert!(!is_new),
                    Appended::Noted => prop_assert!(is_new && batch.batch.records.is_empty()),
                    Appended::Stored { first_id } => {
                        prop_assert!(is_new && !batch.batch.records.is_empty());
                        expected.extend(stored_records(batch, first_id));
                    }
                    Appended::Spooled => prop_assert!(false, "nothing waits here"),
                }
            }
            prop_assert_eq!(&everything(&store).await, &expected);
        }
        let streams = store.streams().await.unwrap();
        let stored: u64 = streams.iter().map(|stream| stream.stored).sum();
        prop_assert_eq!(stored, expected.len() as u64);
        Ok(())
    });
}

/// Addresses of both families; some of IPv6 lie, as bytes, among those of IPv4.
fn any_address() -> impl Strategy<Value = Option<IpAddr>> {
    let v4 = (0u32..4, 0u32..4)
        .prop_map(|(a, b)| IpAddr::from(Ipv4Addr::from(0x2001_0db8 + (a << 8) + b)));
    let v6 = (0u128..4, 0u128..4)
        .prop_map(|(a, b)| IpAddr::from(Ipv6Addr::from(((0x2001_0db8 + a) << 96) + b)));
    prop_oneof![Just(None), v4.prop_map(Some), v6.prop_map(Some)]
}

pub(super) fn any_net() -> impl Strategy<Value = IpNet> {
    (any_address(), 0u8..=128, any::<bool>()).prop_map(|(ip, len, whole)| {
        let ip = ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let max = if ip.is_ipv4() { 32 } else { 128 };
        IpNet::new(ip, if whole { max } else { len % (max + 1) }).unwrap().trunc()
    })
}

pub(super) fn any_verdict() -> impl Strategy<Value = Verdict> {
    proptest::sample::select(Verdict::ALL.to_vec())
}

fn any_time() -> impl Strategy<Value = u64> {
    // Hours apart, with both sides of a full hour.
    (0u64..6, 0u64..3).prop_map(|(hour, us)| TIME_US + hour * 3_600_000_000 + us - 1)
}

pub(super) fn any_record() -> impl Strategy<Value = Record<'static>> {
    let paths: [&[u8]; 7] = [b"/", b"/a", b"/a%", b"/ab", b"/a\xff", "/aü".as_bytes(), b""];
    let hosts: [&[u8]; 3] = [b"a.example", b"b.example", b""];
    (
        any_address(),
        any_time(),
        any_verdict(),
        1u32..5,
        proptest::sample::select(paths.to_vec()),
        proptest::sample::select(hosts.to_vec()),
        proptest::sample::select([b"GET".as_slice(), b"POST"].to_vec()),
        (
            proptest::sample::select([0, 200, 399, 400, 404, 499, 500].to_vec()),
            proptest::sample::select([b"".as_slice(), b"login"].to_vec()),
        ),
    )
        .prop_map(|(ip, time_us, verdict, weight, path, host, method, (status, rule))| {
            Record { rule, ip, time_us, verdict, weight, path, host, method, status, ..record() }
        })
}

/// Countries of clients; of the last there is none.
const COUNTRIES: [&str; 3] = ["GB", "FR", "DE"];

/// A place for each address, unknown for some.
pub(super) fn place_of(record: &Record<'_>) -> Spot {
    match record.ip {
        Some(IpAddr::V4(ip)) if u32::from(ip).is_multiple_of(2) => {
            Spot { country: Country::new("GB"), city: Some("London".into()), asn: Some(u32::MAX) }
        }
        Some(IpAddr::V6(_)) => Spot { country: Country::new("FR"), ..Spot::default() },
        _ => Spot::default(),
    }
}

pub(super) fn any_query() -> impl Strategy<Value = RecordQuery> {
    use proptest::option::weighted;
    use proptest::sample::select;
    let text = |of: &[&str]| {
        weighted(0.2, select(of.iter().map(|&text| text.to_owned()).collect::<Vec<_>>()))
    };
    let status = select(vec![
        StatusFilter::Code(404),
        StatusFilter::Class(4),
        StatusFilter::Class(0),
        StatusFilter::Class(9),
    ]);
    let time =
        || weighted(0.2, any_time().prop_map(|us| Timestamp::from_microsecond(us as i64).unwrap()));
    (
        weighted(0.5, any_net()),
        text(&["", "/", "/a", "/a\\xff", "/b"]),
        text(&["a.example", "", "none.example"]),
        text(&["GET", "PUT"]),
        weighted(0.2, status),
        proptest::collection::vec(any_verdict(), 0..3),
        (
            text(&["edge-1", "edge-2", "edge-3"]),
            weighted(0.2, select(COUNTRIES.to_vec())),
            weighted(0.1, select(vec![u32::MAX, 1])),
            text(&["curl/8", "curl/9"]),
            text(&["login", "other"]),
        ),
        (time(), time()),
        (weighted(0.3, -3i64..40), 0usize..30),
    )
        .prop_map(|(net, path_prefix, host, method, status, verdicts, more, span, page)| {
            let (proxy, country, asn, user_agent, rule) = more;
            RecordQuery {
                net,
                form: None,
                path_prefix,
                host,
                method,
                status,
                verdicts,
                country: country.and_then(Country::new),
                asn,
                user_agent,
                rule,
                proxy,
                since: span.0,
                until: span.1,
                before: page.0,
                limit: page.1,
            }
        })
}

pub(crate) async fn every_query_finds_what_matches<F>()
where
    F: Fixture<Store: LogStore>,
{
    let strategy = (
        proptest::collection::vec(proptest::collection::vec(any_record(), 0..15), 1..4),
        proptest::collection::vec(any_query(), 60),
    );
    law::<F, _, _>(16, &strategy, async |(batches, queries)| {
        let fixture = F::fresh().await;
        let store = fixture.open().await;
        for (number, records) in (1..).zip(batches) {
            let proxy: &[u8] = if number % 2 == 0 { b"edge-2" } else { b"edge-1" };
            let mut batch = incoming(BatchHeader { proxy, ..header(1, number) }, records);
            batch.places = batch.batch.records.iter().map(place_of).collect();
            append_one(&store, &batch).await;
        }
        let all = everything(&store).await;
        let first = all.first().map_or(0, |record| record.id);
        for mut query in queries {
            // Numbers begin where a store likes.
            query.before = query.before.map(|before| first + before);
            let matching: Vec<_> =
                all.iter().filter(|record| query.matches(record)).cloned().collect();
            let mut newest = matching.clone();
            newest.reverse();
            newest.retain(|record| query.before.is_none_or(|before| record.id < before));
            newest.truncate(query.limit);
            prop_assert_eq!(store.search(&query).await.unwrap(), newest, "{:?}", query);
            let weights: u64 = matching.iter().map(|record| u64::from(record.weight)).sum();
            prop_assert_eq!(store.count(&query).await.unwrap(), weights, "{:?}", query);
            let mut scanned = Vec::new();
            let mut visit = |record| {
                scanned.push(record);
                ControlFlow::Continue(())
            };
            store.scan(&query, &mut visit).await.unwrap();
            prop_assert_eq!(scanned, matching, "{:?}", query);
        }
        let held: BTreeSet<IpAddr> = all.iter().filter_map(|record| record.ip).collect();
        for last in 0..4 {
            for ip in [
                IpAddr::from(Ipv4Addr::from(0x2001_0db8 + last)),
                IpAddr::from(Ipv6Addr::from((0x2001_0db8 << 96) + u128::from(last))),
            ] {
                prop_assert_eq!(store.holds(ip).await.unwrap(), held.contains(&ip));
                if let IpAddr::V4(v4) = ip {
                    let mapped = v4.to_ipv6_mapped().into();
                    prop_assert_eq!(store.holds(mapped).await.unwrap(), held.contains(&ip));
                }
            }
        }
        Ok(())
    });
}
