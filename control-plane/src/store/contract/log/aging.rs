//! Growing old and being forgotten, as every log must do it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipwarden::privacy::{AddressForm, KeyId, Pseudonymizer};
use ipwarden::record::{BatchHeader, Record, Verdict};
use jiff::Timestamp;

use super::{TIME_US, append_one, everything, header, incoming, record};
use crate::geo::{Country, Spot};
use crate::privacy::{Hiding, Kept, Veil};
use crate::store::aging::{AgingLog, Class, Cutoffs, Step};
use crate::store::contract::Fixture;
use crate::store::{IncomingBatch, LogStore, RecordQuery};

const HOUR: i64 = (TIME_US / 3_600_000_000) as i64;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key() -> Arc<Pseudonymizer> {
    let mut key = [3; 32];
    key[31] = 9;
    Arc::new(Pseudonymizer::new(&key).unwrap())
}

fn at(hours: i64) -> Timestamp {
    Timestamp::from_second((HOUR + hours) * 3_600).unwrap()
}

/// A batch whose records arrive `minutes` after the first hour began.
fn arriving(number: u64, minutes: i64, records: Vec<Record<'static>>) -> IncomingBatch<'static> {
    let received_at = at(0) + Duration::from_secs(60 * minutes.unsigned_abs());
    IncomingBatch { received_at, ..incoming(header(1, number), records) }
}

fn after_start(minutes: u64) -> u64 {
    at(0).as_microsecond().cast_unsigned() + minutes * 60_000_000
}

async fn to_the_end<F: Future<Output = Step>>(mut step: impl FnMut() -> F) -> u64 {
    let mut done = 0;
    for _ in 0..10_000 {
        let next = step().await;
        done += next.done;
        if !next.more {
            return done;
        }
    }
    panic!("the work has no end");
}

pub(crate) async fn addresses_are_hidden_when_they_are_old_and_nothing_else_changes<F>()
where
    F: Fixture<Store: LogStore + AgingLog>,
{
    let fixture = F::fresh().await;
    let mut store = fixture.open().await;
    let of = |address: &str, minute| Record {
        ip: Some(ip(address)),
        time_us: after_start(minute),
        ..record()
    };
    // Two hours, in both families; one without an address, one that the edge hid already.
    let edge = Record { form: AddressForm::Pseudonym, ..of("198.51.100.9", 5) };
    let cut = Record { form: AddressForm::Truncated, ..of("198.51.100.0", 6) };
    let none = Record { ip: None, ..of("192.0.2.1", 7) };
    let first = vec![of("203.0.113.7", 1), of("2001:db8::7", 2), edge, cut, none];
    let batch_key = KeyId([9, 9, 9, 9]);
    let first = IncomingBatch {
        batch: ipwarden::record::Batch {
            header: BatchHeader { key: Some(batch_key), ..header(1, 1) },
            records: first,
        },
        ..arriving(1, 10, vec![])
    };
    append_one(&store, &first).await;
    let second = (0..7).map(|n| of("203.0.113.7", 61 + 8 * n)).collect();
    append_one(&store, &arriving(2, 119, second)).await;
    let before = everything(&store).await;
    let key = key();
    let hiding = Hiding::Pseudonym(Arc::clone(&key));
    // Up to 01:30: of the second hour three are old enough (01:01, 01:09, 01:17, 01:25: four).
    let cutoff = at(1) + Duration::from_secs(1_800);
    let done = to_the_end(async || store.hide(cutoff, &hiding, 3).await.unwrap()).await;
    assert_eq!(done, 2 + 4);
    // Again: nothing is left to do, also after the store was opened anew.
    drop(store);
    store = fixture.open().await;
    assert_eq!(to_the_end(async || store.hide(cutoff, &hiding, 3).await.unwrap()).await, 0);
    let after = everything(&store).await;
    for (before, after) in before.iter().zip(&after) {
        let due = before.time < cutoff && before.form == AddressForm::Full;
        let mut expected = before.clone();
        if let Some(ip) = before.ip.filter(|_| due) {
            expected.ip = Some(key.pseudonym(ip));
            expected.form = AddressForm::Pseudonym;
            expected.key = Some(key.key_id().to_string());
        }
        assert_eq!(*after, expected);
    }
    // What comes late is hidden late, but it is.
    append_one(&store, &arriving(3, 119, vec![of("203.0.113.8", 3)])).await;
    assert_eq!(to_the_end(async || store.hide(cutoff, &hiding, 3).await.unwrap()).await, 1);
    // A pseudonym lies in no network, and is found as what it is.
    let found = async |net: IpAddr, form| {
        let query = RecordQuery {
            net: Some(ipwarden::address::host_net(net)),
            form,
            limit: 100,
            ..RecordQuery::default()
        };
        store.search(&query).await.unwrap().len()
    };
    let pseudonym = key.pseudonym(ip("203.0.113.7"));
    assert_eq!(found(pseudonym, None).await, 0);
    assert_eq!(found(pseudonym, Some(AddressForm::Pseudonym)).await, 1 + 4);
    assert_eq!(found(ip("203.0.113.7"), None).await, 3);
}

pub(crate) async fn a_wrong_clock_of_a_proxy_prolongs_nothing<F>()
where
    F: Fixture<Store: LogStore + AgingLog>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    // A year ahead, and a year behind.
    let year = 365 * 24 * 60;
    let ahead = Record { time_us: after_start(year), ..record() };
    let behind = Record { time_us: after_start(0) - year * 60_000_000, ..record() };
    let now = Record { time_us: after_start(1), ..record() };
    append_one(&store, &arriving(1, 2, vec![ahead, behind, now])).await;
    let young = Record { time_us: after_start(300), ..record() };
    append_one(&store, &arriving(2, 300, vec![young])).await;
    let hiding = Hiding::Truncate { v4_bits: 24, v6_bits: 48 };
    assert_eq!(to_the_end(async || store.hide(at(2), &hiding, 100).await.unwrap()).await, 3);
    let deleted = to_the_end(async || store.forget(Class::All, at(2), 2).await.unwrap()).await;
    assert_eq!(deleted, 3);
    let left = everything(&store).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].form, AddressForm::Full);
}

pub(crate) async fn each_class_is_kept_for_its_own_time<F>()
where
    F: Fixture<Store: LogStore + AgingLog>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let of =
        |verdict, path, minute| Record { verdict, path, time_us: after_start(minute), ..record() };
    let mut number = 0;
    for hour in 0..6 {
        number += 1;
        let minute = hour * 60 + 1;
        let records = vec![
            of(Verdict::Admitted, b"/a", minute),
            of(Verdict::Shadow, b"/a", minute),
            of(Verdict::Blocked, b"/a", minute),
            of(Verdict::Limited, b"/admin/x", minute),
            of(Verdict::Admitted, b"/admin", minute),
        ];
        append_one(&store, &arriving(number, minute.cast_signed() + 1, records)).await;
    }
    let cutoffs = Cutoffs { hide: at(5), admitted: at(4), refused: at(2), sensitive: at(1) };
    let due = store.due(cutoffs).await.unwrap();
    let sensitive_known = due.sensitive > 0;
    if sensitive_known {
        assert_eq!((due.admitted, due.refused, due.sensitive), (8, 2, 2));
        assert_eq!(due.hide, 25 - 12);
    }
    let classes = [(Class::All, at(1)), (Class::Admitted, at(4)), (Class::Refused, at(2))];
    for (class, cutoff) in classes {
        to_the_end(async || store.forget(class, cutoff, 4).await.unwrap()).await;
    }
    let left = everything(&store).await;
    let count = |verdict: &str, path: &str| {
        left.iter().filter(|found| found.verdict == verdict && found.path == path).count()
    };
    assert_eq!((count("admitted", "/a"), count("shadow", "/a")), (2, 2));
    assert_eq!(count("blocked", "/a"), 4);
    if sensitive_known {
        assert_eq!((count("admitted", "/admin"), count("limited", "/admin/x")), (5, 5));
    }
    let none = Cutoffs { hide: at(-9), admitted: at(4), refused: at(2), sensitive: at(1) };
    let due = store.due(none).await.unwrap();
    assert_eq!((due.admitted, due.refused, due.sensitive, due.hide), (0, 0, 0, 0));
}

pub(crate) async fn texts_go_with_the_last_record_that_used_them<F>()
where
    F: Fixture<Store: LogStore + AgingLog>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let of =
        |verdict, path, minute| Record { verdict, path, time_us: after_start(minute), ..record() };
    let first = vec![
        of(Verdict::Admitted, b"/gone", 1),
        of(Verdict::Blocked, b"/stays", 1),
        of(Verdict::Admitted, b"/stays", 1),
    ];
    append_one(&store, &arriving(1, 2, first)).await;
    append_one(&store, &arriving(2, 400, vec![of(Verdict::Admitted, b"/later", 400)])).await;
    to_the_end(async || store.forget(Class::Admitted, at(3), 10).await.unwrap()).await;
    let apart = u64::from(F::KEEPS_TEXTS_APART);
    assert_eq!(store.forget_texts(at(3)).await.unwrap(), apart);
    // What is gone comes back where it is used again.
    append_one(&store, &arriving(3, 401, vec![of(Verdict::Admitted, b"/gone", 2)])).await;
    let paths: Vec<String> = everything(&store).await.into_iter().map(|found| found.path).collect();
    assert_eq!(paths, ["/stays", "/later", "/gone"]);
    assert_eq!(everything(&store).await[0].user_agent, "curl/8");
}

pub(crate) async fn rollups_grow_old_and_countries_stay<F>()
where
    F: Fixture<Store: LogStore + AgingLog>,
{
    let fixture = F::fresh().await;
    let mut store = fixture.open().await;
    let of = |address: &str, minute| Record {
        ip: Some(ip(address)),
        time_us: after_start(minute),
        ..record()
    };
    let opted_out = Record { opted_out: true, ..of("203.0.113.0", 3) };
    let records = vec![of("203.0.113.7", 1), of("203.0.113.8", 2), of("2001:db8::7", 2), opted_out];
    let mut batch = arriving(1, 5, records);
    let france = Spot { country: Country::new("FR"), ..Spot::default() };
    batch.places = vec![france.clone(), Spot::default(), france.clone(), france];
    append_one(&store, &batch).await;
    append_one(&store, &arriving(2, 61, vec![of("203.0.113.7", 61)])).await;
    let key = key();
    let hiding = Hiding::Pseudonym(Arc::clone(&key));
    let hidden = to_the_end(async || store.hide_rollups(at(1), &hiding, 2).await.unwrap()).await;
    assert_eq!(hidden, 3);
    let of_hour = store.rollups(HOUR, 1).await.unwrap();
    assert!(of_hour.rollups.is_empty());
    let [(veil, list)] = of_hour.veiled.as_slice() else { panic!("{:?}", of_hour.veiled) };
    assert_eq!((*veil, list.len()), (Veil::pseudonym(key.key_id()), 3));
    // Who is compared is counted under all names.
    let names = vec![
        Kept { ip: ip("203.0.113.7"), veil: Veil::NONE },
        Kept { ip: key.pseudonym(ip("203.0.113.7")), veil: Veil::pseudonym(key.key_id()) },
    ];
    let past = store.past_hours(vec![HOUR, HOUR + 1], vec![names.clone()]).await.unwrap();
    assert_eq!(past.iter().map(|hour| hour.by_target[0]).collect::<Vec<_>>(), [1, 1]);
    let hours = store.subject_hours(names.clone(), 10).await.unwrap();
    assert_eq!(hours.iter().map(|hour| hour.requests).collect::<Vec<_>>(), [1, 1]);
    // Late, into an hour that was done.
    append_one(&store, &arriving(3, 62, vec![of("203.0.113.7", 5)])).await;
    drop(store);
    store = fixture.open().await;
    store.rollups(HOUR, 1).await.unwrap();
    assert_eq!(to_the_end(async || store.hide_rollups(at(1), &hiding, 9).await.unwrap()).await, 1);
    let cut = Hiding::Truncate { v4_bits: 24, v6_bits: 48 };
    assert_eq!(to_the_end(async || store.hide_rollups(at(2), &cut, 9).await.unwrap()).await, 1);
    to_the_end(async || store.forget_rollups(at(1), 2).await.unwrap()).await;
    assert!(store.rollups(HOUR, 1).await.unwrap().veiled.is_empty());
    assert!(store.past_hours(vec![HOUR], vec![names]).await.unwrap().is_empty());
    assert_eq!(store.rollups(HOUR, 1).await.unwrap().requests, 4, "counts stay");
    let countries = store.country_hours(HOUR, HOUR).await.unwrap();
    let told: Vec<_> = countries
        .iter()
        .map(|found| (found.country.as_deref(), found.requests, found.refused))
        .collect();
    // One opted out: it is in no statistic.
    assert_eq!(told, [(None, 2, 2), (Some("FR"), 2, 2)]);
}

pub(crate) async fn the_oldest_of_a_class_go_first<F>()
where
    F: Fixture<Store: LogStore + AgingLog>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let of = |verdict| Record { verdict, ..record() };
    let pair = [of(Verdict::Blocked), of(Verdict::Admitted)];
    append_one(&store, &incoming(header(1, 1), pair.repeat(5))).await;
    let (step, next) = store.forget_oldest(Class::Admitted, 0, 6).await.unwrap();
    assert_eq!((step.done, step.more), (3, true));
    let (step, _) = store.forget_oldest(Class::Admitted, next, 6).await.unwrap();
    assert_eq!((step.done, step.more), (2, false));
    assert!(everything(&store).await.iter().all(|found| found.verdict == "blocked"));
}

pub(crate) async fn an_address_is_erased_under_all_its_names<F>()
where
    F: Fixture<Store: LogStore + AgingLog>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let subject = ip("203.0.113.7");
    let key = key();
    let of = |address: &str, path: &'static [u8], minute| Record {
        ip: Some(ip(address)),
        path,
        time_us: after_start(minute),
        identity: b"alice",
        ..record()
    };
    append_one(&store, &arriving(1, 5, vec![of("203.0.113.7", b"/only-hers", 1)])).await;
    to_the_end(async || store.hide(at(1), &Hiding::Pseudonym(Arc::clone(&key)), 10).await.unwrap())
        .await;
    to_the_end(async || {
        store.hide_rollups(at(1), &Hiding::Pseudonym(Arc::clone(&key)), 10).await.unwrap()
    })
    .await;
    let neighbour =
        Record { request_id: b"for-203.0.113.7", ..of("203.0.113.8", b"/whois/203.0.113.7", 130) };
    let young =
        vec![of("203.0.113.7", b"/shared", 130), of("203.0.113.8", b"/shared", 130), neighbour];
    append_one(&store, &arriving(2, 131, young)).await;
    let names = vec![
        Kept { ip: subject, veil: Veil::NONE },
        Kept { ip: key.pseudonym(subject), veil: Veil::pseudonym(key.key_id()) },
    ];
    let held = store.held(names.clone()).await.unwrap();
    assert_eq!(held, [(Veil::NONE, 1), (Veil::pseudonym(key.key_id()), 1)]);
    let erased = store.erase(names.clone(), "erased:1".to_owned()).await.unwrap();
    assert_eq!((erased.records, erased.texts), (2, u64::from(F::KEEPS_TEXTS_APART)));
    assert!(erased.redacted >= 2, "{erased:?}");
    assert!(store.held(names.clone()).await.unwrap().is_empty());
    assert!(store.subject_hours(names.clone(), 10).await.unwrap().is_empty());
    let left = everything(&store).await;
    let told: Vec<_> =
        left.iter().map(|found| (found.path.as_str(), found.request_id.as_str())).collect();
    assert_eq!(
        told,
        [("/shared", "5c3a1f0e-9b2d-4c11-8a7f-0123456789ab"), ("/whois/erased:1", "for-erased:1")]
    );
    let places = &store.rollups(HOUR + 2, 1).await.unwrap().identities[0].places;
    assert_eq!(places.iter().map(|place| place.ip).collect::<Vec<_>>(), [ip("203.0.113.8")]);
    // Again: nothing more, and what comes later is stored as ever.
    let again = store.erase(names, "erased:1".to_owned()).await.unwrap();
    assert_eq!((again.records, again.redacted), (0, 0));
    append_one(&store, &arriving(3, 140, vec![of("203.0.113.7", b"/only-hers", 139)])).await;
    assert_eq!(everything(&store).await.len(), 3);
}
