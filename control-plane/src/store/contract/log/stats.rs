//! What dashboards are told agrees with the records, whatever was made of them before.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use ipwarden::privacy::{AddressForm, KeyId};
use ipwarden::record::{BatchHeader, Record, Verdict};
use proptest::prelude::*;

use super::TIME_US;
use super::laws::{any_query, any_record, place_of};
use super::{append_one, everything, header, incoming, record};
use crate::model::StoredRecord;
use crate::store::contract::{Fixture, law};
use crate::store::stats::{
    Dimension, Stats, StatsQuery, Totals, VERDICTS, countable, slot_of, slot_start,
};
use crate::store::{LogStore, RecordQuery};

fn verdict(record: &StoredRecord) -> Verdict {
    Verdict::from_word(&record.verdict).unwrap()
}

fn value(dimension: Dimension, record: &StoredRecord) -> Option<String> {
    let cut = |ip: IpAddr, v4: u8, v6: u8| {
        IpNet::new(ip, if ip.is_ipv4() { v4 } else { v6 }).unwrap().trunc().to_string()
    };
    let is_pseudonym = record.form == AddressForm::Pseudonym;
    let address = record.ip.filter(|_| !is_pseudonym);
    let pseudonym = record.ip.filter(|_| is_pseudonym);
    let with_key = |name: String| match &record.key {
        Some(key) => format!("{name}@{key}"),
        None => name,
    };
    match dimension {
        Dimension::Address => address.map(|ip| ip.to_string()),
        Dimension::Network => address.map(|ip| cut(ip, 24, 48)),
        Dimension::Pseudonym => pseudonym
            .map(|ip| with_key(if ip.is_ipv4() { ip.to_string() } else { cut(ip, 32, 64) })),
        Dimension::PseudonymNetwork => pseudonym.map(|ip| with_key(cut(ip, 24, 48))),
        Dimension::Asn => record.asn.map(|asn| asn.to_string()),
        Dimension::Country => Some(record.country.clone().unwrap_or_default()),
        Dimension::Path => Some(record.path.clone()),
        Dimension::Host => Some(record.host.clone()),
        Dimension::Method => Some(record.method.clone()),
        Dimension::Status => Some(record.status.to_string()),
        Dimension::UserAgent => Some(record.user_agent.clone()),
        Dimension::Rule => record.rule.clone(),
        Dimension::Verdict => Some(record.verdict.clone()),
        Dimension::Proxy => Some(record.proxy.clone()),
    }
}

fn totals<'r>(records: impl Iterator<Item = &'r StoredRecord>) -> Totals {
    let mut totals = Totals::default();
    records.for_each(|record| {
        totals.verdicts[verdict(record) as usize] += u64::from(record.weight);
    });
    totals
}

/// What matches between two slots.
fn within<'r>(
    all: &'r [StoredRecord],
    query: &RecordQuery,
    first: i64,
    end: i64,
) -> Vec<&'r StoredRecord> {
    let is_hidden = query.form == Some(AddressForm::Pseudonym);
    let query = RecordQuery {
        net: query.net.map(|net| if is_hidden { countable(net) } else { net }),
        since: Some(slot_start(first)),
        until: Some(slot_start(end)),
        ..query.clone()
    };
    all.iter().filter(|record| query.matches(record)).collect()
}

fn check(all: &[StoredRecord], query: &StatsQuery, found: &Stats) -> Result<(), TestCaseError> {
    let (first, end) = query.slots().unwrap();
    prop_assert_eq!((found.first_slot, found.end_slot), (first, end));
    let now = within(all, &query.filter, first, end);
    let past = within(all, &query.filter, first - (end - first), first);
    prop_assert_eq!(found.total, totals(now.iter().copied()));
    prop_assert_eq!(found.before, query.compare.then(|| totals(past.iter().copied())));
    let mut sum = Totals::default();
    for (at, bucket) in (0i64..).zip(&found.series) {
        let from = first + at * query.step_slots;
        let inside = |record: &&&StoredRecord| {
            let slot = slot_of(record.time.as_microsecond());
            (from..from + query.step_slots).contains(&slot)
        };
        prop_assert_eq!(*bucket, totals(now.iter().filter(inside).copied()));
        (0..VERDICTS).for_each(|verdict| sum.verdicts[verdict] += bucket.verdicts[verdict]);
    }
    if query.step_slots > 0 {
        prop_assert_eq!(sum, found.total);
    }
    for ((dimension, most), top) in query.tops.iter().zip(&found.tops) {
        let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for record in &now {
            let Some(value) = value(*dimension, record) else { continue };
            let (all, refused) = counts.entry(value).or_default();
            *all += u64::from(record.weight);
            if verdict(record).is_refusal() {
                *refused += u64::from(record.weight);
            }
        }
        prop_assert_eq!(top.distinct, counts.len() as u64, "{:?}", dimension);
        prop_assert_eq!(top.rows.len(), counts.len().min(*most));
        prop_assert!(!top.approximate);
        prop_assert!(top.rows.windows(2).all(|pair| pair[0].requests >= pair[1].requests));
        let mut heaviest: Vec<u64> = counts.values().map(|(requests, _)| *requests).collect();
        heaviest.sort_unstable_by(|a, b| b.cmp(a));
        for (row, requests) in top.rows.iter().zip(heaviest) {
            prop_assert_eq!(row.requests, requests, "the heaviest come first");
            prop_assert_eq!((row.requests, row.refused), counts[&row.key]);
            let before = past
                .iter()
                .filter(|record| value(*dimension, record).as_deref() == Some(&row.key))
                .map(|record| u64::from(record.weight))
                .sum();
            prop_assert_eq!(row.before, query.compare.then_some(before));
        }
    }
    Ok(())
}

fn any_form() -> impl Strategy<Value = Option<AddressForm>> {
    use AddressForm::{Full, Pseudonym, Truncated};
    proptest::option::weighted(0.6, proptest::sample::select(vec![Full, Truncated, Pseudonym]))
}

fn any_key() -> impl Strategy<Value = Option<KeyId>> {
    proptest::option::of(proptest::sample::select(vec![KeyId([0, 0, 0, 7]), KeyId([0xff; 4])]))
}

pub(crate) async fn answers_count_what_matches<F>()
where
    F: Fixture<Store: LogStore>,
{
    let base = slot_of(TIME_US as i64);
    let query = (
        (any_query(), any_form()),
        (-3i64..2_200, 1i64..2_000),
        (0i64..400, any::<bool>()),
        proptest::sample::subsequence(Dimension::ALL.to_vec(), 0..=14),
        1usize..40,
    )
        .prop_map(move |((filter, form), (first, span), (step_slots, compare), tops, most)| {
            StatsQuery {
                filter: RecordQuery {
                    since: Some(slot_start(base + first)),
                    until: Some(slot_start(base + first + span)),
                    form,
                    ..filter
                },
                step_slots,
                compare,
                tops: tops.into_iter().map(|dimension| (dimension, most)).collect(),
            }
        });
    let strategy = (
        proptest::collection::vec(
            (proptest::collection::vec((any_record(), any_form()), 0..15), any_key()),
            1..4,
        ),
        proptest::collection::vec(query, 40),
        0usize..3,
    );
    law::<F, _, _>(16, &strategy, async |(batches, queries, tidied)| {
        let fixture = F::fresh().await;
        let store = fixture.open().await;
        for (number, (records, key)) in (1..).zip(batches) {
            let records = records
                .into_iter()
                .map(|(record, form)| Record { form: form.unwrap_or_default(), ..record })
                .collect();
            let mut batch = incoming(BatchHeader { key, ..header(1, number) }, records);
            batch.places = batch.batch.records.iter().map(place_of).collect();
            append_one(&store, &batch).await;
            if number as usize == tidied {
                while store.tidy().await.unwrap() {}
            }
        }
        let all = everything(&store).await;
        for query in queries {
            check(&all, &query, &store.stats(&query).await.unwrap())?;
        }
        Ok(())
    });
}

pub(crate) async fn a_span_without_records_counts_nothing<F>()
where
    F: Fixture<Store: LogStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let at = Some(slot_start(slot_of(TIME_US as i64)));
    let filter = RecordQuery { since: at, until: at, ..RecordQuery::default() };
    let query = StatsQuery { filter, step_slots: 1, ..StatsQuery::default() };
    let empty = store.stats(&query).await.unwrap();
    assert_eq!((empty.total, empty.series.len(), empty.before), (Totals::default(), 0, None));
    assert!(!store.tidy().await.unwrap());
}

pub(crate) async fn who_opted_out_is_not_counted<F>()
where
    F: Fixture<Store: LogStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let counted = Record { path: b"/counted", ..record() };
    let opted_out = Record { path: b"/quiet", opted_out: true, ..record() };
    append_one(&store, &incoming(header(1, 1), vec![counted, opted_out])).await;
    let from = slot_of(TIME_US as i64);
    let query = StatsQuery {
        filter: RecordQuery {
            since: Some(slot_start(from)),
            until: Some(slot_start(from + 1)),
            ..RecordQuery::default()
        },
        step_slots: 1,
        tops: vec![(Dimension::Path, 10)],
        ..StatsQuery::default()
    };
    let quiet = RecordQuery { path_prefix: Some("/quiet".to_owned()), ..query.filter.clone() };
    // Before and after what makes it fast.
    for _ in 0..2 {
        let found = store.stats(&query).await.unwrap();
        assert_eq!(found.total.verdicts.iter().sum::<u64>(), 1);
        let paths: Vec<&str> = found.tops[0].rows.iter().map(|row| row.key.as_str()).collect();
        assert_eq!((paths, found.tops[0].distinct), (vec!["/counted"], 1));
        let alone = StatsQuery { filter: quiet.clone(), ..query.clone() };
        assert_eq!(store.stats(&alone).await.unwrap().total, Totals::default());
        while store.tidy().await.unwrap() {}
    }
}

pub(crate) async fn a_pseudonym_is_counted_and_is_no_address<F>()
where
    F: Fixture<Store: LogStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let hidden = Record { form: AddressForm::Pseudonym, ..record() };
    let header = BatchHeader { key: Some(KeyId([0x5a, 0xb1, 0xc0, 0xde])), ..header(1, 1) };
    append_one(&store, &incoming(header, vec![hidden])).await;
    let from = slot_of(TIME_US as i64);
    let all = RecordQuery {
        since: Some(slot_start(from)),
        until: Some(slot_start(from + 1)),
        ..RecordQuery::default()
    };
    let tops = vec![
        (Dimension::Address, 10),
        (Dimension::Network, 10),
        (Dimension::Pseudonym, 10),
        (Dimension::PseudonymNetwork, 10),
    ];
    let count = |filter| StatsQuery { filter, tops: tops.clone(), ..StatsQuery::default() };
    let net = record().ip.map(IpNet::from);
    for _ in 0..2 {
        let found = store.stats(&count(all.clone())).await.unwrap();
        assert_eq!(found.total.verdicts.iter().sum::<u64>(), 1);
        let keys: Vec<Vec<&str>> = found
            .tops
            .iter()
            .map(|top| top.rows.iter().map(|row| row.key.as_str()).collect())
            .collect();
        let expected =
            [vec![], vec![], vec!["203.0.113.7@5ab1c0de"], vec!["203.0.113.0/24@5ab1c0de"]];
        assert_eq!(keys, expected);
        let pseudonyms = RecordQuery { net, form: Some(AddressForm::Pseudonym), ..all.clone() };
        let found = store.stats(&count(pseudonyms)).await.unwrap();
        assert_eq!(found.total.verdicts.iter().sum::<u64>(), 1);
        let full = RecordQuery { form: Some(AddressForm::Full), ..all.clone() };
        assert_eq!(store.stats(&count(full)).await.unwrap().total, Totals::default());
        let of = RecordQuery { net, ..all.clone() };
        assert_eq!(store.stats(&count(of)).await.unwrap().total, Totals::default());
        while store.tidy().await.unwrap() {}
    }
}

pub(crate) async fn pseudonyms_within_a_64_are_counted_together<F>()
where
    F: Fixture<Store: LogStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let of = |ip: &str, form| Record { ip: Some(ip.parse().unwrap()), form, ..record() };
    let records = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
        .into_iter()
        .flat_map(|ip| [of(ip, AddressForm::Pseudonym), of(ip, AddressForm::Full)])
        .collect();
    append_one(&store, &incoming(header(1, 1), records)).await;
    let from = slot_of(TIME_US as i64);
    let count = |form| StatsQuery {
        filter: RecordQuery {
            net: Some("2001:db8::1/128".parse().unwrap()),
            form,
            since: Some(slot_start(from)),
            until: Some(slot_start(from + 1)),
            ..RecordQuery::default()
        },
        ..StatsQuery::default()
    };
    for _ in 0..2 {
        for (form, expected) in [(Some(AddressForm::Pseudonym), 2), (None, 1)] {
            let found = store.stats(&count(form)).await.unwrap();
            assert_eq!(found.total.verdicts.iter().sum::<u64>(), expected, "{form:?}");
        }
        while store.tidy().await.unwrap() {}
    }
}
