//! What every [`LogStore`] must do.

mod aging;
mod laws;
mod rollups;
mod stats;

use std::ops::ControlFlow;
use std::sync::Arc;

use ipwarden::decisions::Revision;
use ipwarden::record::{Batch, BatchHeader, Record, Verdict};
use jiff::Timestamp;

use super::Fixture;
use crate::geo::{Country, Spot};
use crate::model::StoredRecord;
use crate::store::view::stored_records;
use crate::store::{Appended, IncomingBatch, LogStore, RecordQuery};

/// Makes each behaviour a test for a [`Fixture`] of a [`LogStore`].
///
/// The second argument says whether the fixture's server is there; where it is not, nothing is
/// tested (and the fixture has said so).
///
/// What a store promises of changes to what is stored (hiding, deleting, erasing): when a call
/// returns without an error, whoever asks sees them, and a call that fails half-way may be made
/// again. How long parts of files as they were before stay on a disk is not promised here:
/// [`AgingLog::settle`](crate::store::aging::AgingLog::settle) says when they are gone.
macro_rules! log_contract {
    ($fixture:ty) => {
        $crate::store::contract::log::log_contract!($fixture, $crate::store::contract::always);
    };
    ($fixture:ty, $is_there:path) => {
        $crate::store::contract::log::log_contract!($fixture, $is_there;
            a_record_is_found_as_it_was_shipped,
            clients_bytes_are_shown_as_text,
            a_batch_is_stored_once_in_whatever_order_it_comes,
            batches_of_many_callers_are_stored_once,
            numbers_grow_across_reopening,
            totals_only_grow_and_the_last_message_counts,
            counts_are_sums_of_weights,
            pages_join_without_gap_or_overlap,
            a_scan_goes_forward_until_told_to_stop,
            every_query_finds_what_matches,
            every_stored_record_is_rolled_up_once,
            identities_are_counted_with_their_places,
            answers_count_what_matches,
            a_span_without_records_counts_nothing,
            who_opted_out_is_not_counted,
            a_pseudonym_is_counted_and_is_no_address,
            pseudonyms_within_a_64_are_counted_together,
            addresses_are_hidden_when_they_are_old_and_nothing_else_changes,
            a_wrong_clock_of_a_proxy_prolongs_nothing,
            each_class_is_kept_for_its_own_time,
            texts_go_with_the_last_record_that_used_them,
            rollups_grow_old_and_countries_stay,
            the_oldest_of_a_class_go_first,
            an_address_is_erased_under_all_its_names,
        );
    };
    ($fixture:ty, $is_there:path; $($behaviour:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $behaviour() {
                if !$is_there() {
                    return;
                }
                $crate::store::contract::log::$behaviour::<$fixture>().await;
            }
        )*
    };
}
pub(crate) use aging::{
    a_wrong_clock_of_a_proxy_prolongs_nothing,
    addresses_are_hidden_when_they_are_old_and_nothing_else_changes,
    an_address_is_erased_under_all_its_names, each_class_is_kept_for_its_own_time,
    rollups_grow_old_and_countries_stay, texts_go_with_the_last_record_that_used_them,
    the_oldest_of_a_class_go_first,
};
pub(crate) use laws::{
    a_batch_is_stored_once_in_whatever_order_it_comes, every_query_finds_what_matches,
};
pub(crate) use log_contract;
pub(crate) use rollups::{
    every_stored_record_is_rolled_up_once, identities_are_counted_with_their_places,
};
pub(crate) use stats::{
    a_pseudonym_is_counted_and_is_no_address, a_span_without_records_counts_nothing,
    answers_count_what_matches, pseudonyms_within_a_64_are_counted_together,
    who_opted_out_is_not_counted,
};

const TIME_US: u64 = 1_763_827_200_000_000;

fn received() -> Timestamp {
    Timestamp::from_microsecond(TIME_US as i64 + 2_000_000).unwrap()
}

pub(crate) fn header(stream: u64, number: u64) -> BatchHeader<'static> {
    BatchHeader {
        stream,
        number,
        started_us: TIME_US - 60_000_000,
        sent_us: TIME_US + 1_500_000,
        proxy: b"edge-1",
        version: b"0.1.0",
        key: None,
        applied: Revision { epoch: u64::MAX, number: 99 },
        seen: 10,
        lost: 1,
        skipped: 2,
    }
}

pub(crate) fn record() -> Record<'static> {
    Record {
        time_us: TIME_US,
        ip: Some("203.0.113.7".parse().unwrap()),
        form: ipwarden::privacy::AddressForm::Full,
        opted_out: false,
        verdict: Verdict::Blocked,
        weight: 1,
        decision: 17,
        rule: b"",
        method: b"GET",
        host: b"shop.example",
        path: b"/item/7",
        query: b"page=1",
        status: 403,
        flags: 1 << 1 | 1 << 5,
        duration_us: 1_250,
        bytes_in: 300,
        bytes_out: 900,
        user_agent: b"curl/8",
        request_id: b"5c3a1f0e-9b2d-4c11-8a7f-0123456789ab",
        country: None,
        city: b"",
        asn: None,
        identity: b"",
    }
}

pub(crate) fn incoming<'a>(header: BatchHeader<'a>, records: Vec<Record<'a>>) -> IncomingBatch<'a> {
    IncomingBatch {
        batch: Batch { header, records },
        received_at: received(),
        store_query: false,
        places: Vec::new(),
    }
}

async fn append_one(store: &impl LogStore, batch: &IncomingBatch<'_>) -> Appended {
    let outcomes = store.append(std::slice::from_ref(batch)).await.unwrap();
    assert_eq!(outcomes.len(), 1);
    outcomes[0]
}

/// Everything, oldest first.
async fn everything(store: &impl LogStore) -> Vec<StoredRecord> {
    let query = RecordQuery { limit: usize::MAX, ..RecordQuery::default() };
    let mut found = store.search(&query).await.unwrap();
    found.reverse();
    found
}

pub(crate) async fn a_record_is_found_as_it_was_shipped<F>()
where
    F: Fixture<Store: LogStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let full = record();
    let bare = Record {
        time_us: 0,
        ip: None,
        form: ipwarden::privacy::AddressForm::Full,
        opted_out: false,
        verdict: Verdict::Unseen,
        decision: 0,
        method: b"",
        host: b"",
        path: b"",
        query: b"",
        status: 0,
        flags: 0,
        user_agent: b"",
        request_id: b"",
        country: None,
        city: b"",
        asn: None,
        identity: b"",
        ..full
    };
    let large = Record {
        time_us: u64::MAX,
        ip: Some("2001:db8::1".parse().unwrap()),
        form: ipwarden::privacy::AddressForm::Full,
        opted_out: false,
        verdict: Verdict::Limited,
        weight: u32::MAX,
        decision: u32::MAX,
        rule: b"login",
        status: u16::MAX,
        flags: u64::MAX,
        duration_us: u64::MAX,
        bytes_in: u64::MAX,
        bytes_out: u64::MAX,
        request_id: b"not a uuid",
        country: None,
        city: b"",
        asn: None,
        identity: b"",
        ..full
    };
    let without = incoming(header(1, 1), vec![full, bare, large]);
    let places = vec![
        Spot {
            country: Country::new("FR"),
            city: Some("Saint-Étienne".into()),
            asn: Some(u32::MAX),
        },
        Spot { asn: Some(1), ..Spot::default() },
    ];
    let without = IncomingBatch { places, ..without };
    let with = IncomingBatch { store_query: true, ..incoming(header(1, 2), vec![full, bare]) };
    let outcomes = store.append(&[without.clone(), with.clone()]).await.unwrap();
    let [Appended::Stored { first_id }, Appended::Stored { first_id: second_id }] = outcomes[..]
    else {
        panic!("{outcomes:?}");
    };
    assert!(second_id >= first_id + 3);
    let expected: Vec<_> =
        stored_records(&without, first_id).chain(stored_records(&with, second_id)).collect();
    assert_eq!(expected[0].query, None);
    assert_eq!(
        (expected[0].country.as_deref(), expected[0].city.as_deref(), expected[0].asn),
        (Some("FR"), Some("Saint-Étienne"), Some(u32::MAX))
    );
    assert_eq!((&expected[1].country, &expected[1].city, expected[1].asn), (&None, &None, Some(1)));
    assert_eq!((&expected[2].country, &expected[2].city, expected[2].asn), (&None, &None, None));
    assert_eq!(expected[3].query.as_deref(), Some("page=1"));
    assert_eq!(everything(&store).await, expected);
    drop(store);
    assert_eq!(everything(&fixture.open().await).await, expected);
}

pub(crate) async fn clients_bytes_are_shown_as_text<F>()
where
    F: Fixture<Store: LogStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let wild =
        Record { path: b"/a\xff\x00%_'\\xff", user_agent: "ü\u{1b}[31m".as_bytes(), ..record() };
    let odd = Record { path: b"/a\xfe", ..record() };
    append_one(&store, &incoming(header(1, 1), vec![wild, odd])).await;
    let found = async |prefix: &str| {
        let query = RecordQuery {
            path_prefix: Some(prefix.to_owned()),
            limit: 10,
            ..RecordQuery::default()
        };
        let found = store.search(&query).await.unwrap();
        found.into_iter().map(|record| record.path).collect::<Vec<_>>()
    };
    let shown = r"/a\xff\x00%_'\x5cxff";
    assert_eq!(everything(&store).await[0].user_agent, r"ü\x1b[31m");
    assert_eq!(found("/a").await, [r"/a\xfe", shown]);
    assert_eq!(found(r"/a\xff").await, [shown]);
    assert_eq!(found(r"/a\xff\x00%_'").await, [shown]);
    assert!(found("%").await.is_empty());
    assert!(found("/_").await.is_empty());
    assert!(found("/A").await.is_empty());
}

pub(crate) async fn batches_of_many_callers_are_stored_once<F>()
where
    F: Fixture<Store: LogStore + 'static>,
{
    let fixture = F::fresh().await;
    let store = Arc::new(fixture.open().await);
    // Each number is delivered by three callers at about the same time.
    let callers: Vec<_> = (0..3u64)
        .map(|caller| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut stored = 0;
                for number in 0..20 {
                    let number = (number + caller) % 20 + 1;
                    let outcome =
                        append_one(&*store, &incoming(header(7, number), vec![record()])).await;
                    stored += u32::from(outcome != Appended::Duplicate);
                }
                stored
            })
        })
        .collect();
    let mut stored = 0;
    for caller in callers {
        stored += caller.await.unwrap();
    }
    assert_eq!(stored, 20);
    assert_eq!(everything(&*store).await.len(), 20);
}

pub(crate) async fn numbers_grow_across_reopening<F>()
where
    F: Fixture<Store: LogStore>,
{
    let fixture = F::fresh().await;
    let mut last = 0;
    for number in 1..4 {
        let store = fixture.open().await;
        let outcome = append_one(&store, &incoming(header(7, number), vec![record(); 3])).await;
        let Appended::Stored { first_id } = outcome else { panic!("{outcome:?}") };
        assert!(first_id > last);
        last = first_id + 2;
    }
}

pub(crate) async fn totals_only_grow_and_the_last_message_counts<F>()
where
    F: Fixture<Store: LogStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let second = 1_000_000;
    let at = |us: u64| Timestamp::from_microsecond(us as i64).unwrap();
    let send = async |header, records, received_us| {
        let batch = IncomingBatch { received_at: at(received_us), ..incoming(header, records) };
        append_one(&store, &batch).await
    };
    let first = BatchHeader { sent_us: TIME_US, ..header(1, 1) };
    let weighted = Record { weight: 40, ..record() };
    send(first, vec![weighted, record()], TIME_US + second).await;
    let later = BatchHeader {
        sent_us: TIME_US + 5 * second,
        version: b"0.2.0",
        key: None,
        applied: Revision { epoch: 5, number: 100 },
        seen: 60,
        skipped: 3,
        ..header(1, 0)
    };
    assert_eq!(send(later, vec![], TIME_US + 4 * second).await, Appended::Noted);
    // Overtaken: only its records and what grew count.
    let overtaken = BatchHeader { sent_us: TIME_US + second, lost: 7, ..header(1, 2) };
    send(overtaken, vec![record()], TIME_US + 6 * second).await;
    send(overtaken, vec![record()], TIME_US + 6 * second).await;
    send(BatchHeader { proxy: b"edge-2", ..header(2, 0) }, vec![], TIME_US + 5 * second).await;
    let streams = store.streams().await.unwrap();
    assert_eq!(streams.iter().map(|found| found.stream).collect::<Vec<_>>(), [1, 2]);
    let found = &streams[0];
    assert_eq!((found.proxy.as_str(), found.version.as_str()), ("edge-1", "0.2.0"));
    assert_eq!(found.started_at, at(TIME_US - 60 * second));
    assert_eq!(found.last_seen, at(TIME_US + 6 * second));
    assert_eq!(found.clock_offset_ms, 1_000);
    assert_eq!(found.applied, Revision { epoch: 5, number: 100 });
    assert_eq!((found.seen, found.lost, found.skipped, found.stored), (60, 7, 3, 42));
    assert_eq!((streams[1].proxy.as_str(), streams[1].stored), ("edge-2", 0));
    assert_eq!(streams[1].applied.epoch, u64::MAX);
}

pub(crate) async fn counts_are_sums_of_weights<F>()
where
    F: Fixture<Store: LogStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    let all = RecordQuery::default();
    assert_eq!(store.count(&all).await.unwrap(), 0);
    let admitted = Record { verdict: Verdict::Admitted, weight: 10, ..record() };
    let flood = Record { weight: u32::MAX, ..record() };
    append_one(&store, &incoming(header(1, 1), vec![admitted, flood, flood, record()])).await;
    assert_eq!(store.count(&all).await.unwrap(), 2 * u64::from(u32::MAX) + 11);
    let admitted = RecordQuery { verdicts: vec![Verdict::Admitted], before: Some(1), ..all };
    assert_eq!(store.count(&admitted).await.unwrap(), 10);
}

pub(crate) async fn pages_join_without_gap_or_overlap<F>()
where
    F: Fixture<Store: LogStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    for number in 1..=5 {
        append_one(&store, &incoming(header(1, number), vec![record(); 7])).await;
    }
    for net in [None, Some("203.0.113.0/24".parse().unwrap())] {
        let mut ids = Vec::new();
        let mut before = None;
        loop {
            let query = RecordQuery { net, before, limit: 4, ..RecordQuery::default() };
            let page = store.search(&query).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some(last.id);
            ids.extend(page.iter().map(|record| record.id));
        }
        assert_eq!(ids.len(), 35);
        assert!(ids.is_sorted_by(|a, b| a > b));
    }
    let query = RecordQuery { limit: 0, ..RecordQuery::default() };
    assert!(store.search(&query).await.unwrap().is_empty());
}

pub(crate) async fn a_scan_goes_forward_until_told_to_stop<F>()
where
    F: Fixture<Store: LogStore>,
{
    let fixture = F::fresh().await;
    let store = fixture.open().await;
    append_one(&store, &incoming(header(1, 1), vec![record(); 2_500])).await;
    let query = RecordQuery { limit: 1, before: Some(1), ..RecordQuery::default() };
    let mut ids = Vec::new();
    let mut visit = |record: StoredRecord| {
        ids.push(record.id);
        ControlFlow::Continue(())
    };
    store.scan(&query, &mut visit).await.unwrap();
    assert_eq!(ids.len(), 2_500);
    assert!(ids.is_sorted_by(|a, b| a < b));
    let mut seen = 0;
    let mut visit = |_| {
        seen += 1;
        if seen < 1_200 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    store.scan(&query, &mut visit).await.unwrap();
    assert_eq!(seen, 1_200);
}
