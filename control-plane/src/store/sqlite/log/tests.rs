use super::*;
use crate::store::view::stored_records;
use ipwarden::decisions::Revision;
use ipwarden::record::{Batch, BatchHeader, Record, Verdict};

fn header(stream: u64, number: u64) -> BatchHeader<'static> {
    BatchHeader {
        stream,
        number,
        started_us: 1_700_000_000_000_000,
        sent_us: 1_700_000_100_000_000,
        proxy: b"edge-1",
        version: b"0.1.0",
        applied: Revision { epoch: 42, number: 99 },
        seen: 10,
        lost: 1,
        skipped: 2,
    }
}

fn record() -> Record<'static> {
    Record {
        time_us: 1_700_000_000_500_000,
        ip: Some("203.0.113.7".parse().unwrap()),
        verdict: Verdict::Blocked,
        weight: 3,
        decision: 17,
        rule: b"",
        method: b"GET",
        host: b"shop.example",
        path: b"/a\xff",
        query: b"q=1",
        status: 403,
        flags: 1 << 1,
        duration_us: 250,
        bytes_in: 300,
        bytes_out: 900,
        user_agent: b"curl/8",
        request_id: b"5c3a1f0e-9b2d-4c11-8a7f-0123456789ab",
    }
}

#[tokio::test]
async fn what_is_appended_is_found_as_the_live_stream_shows_it() {
    let directory = tempfile::tempdir().unwrap();
    let log = SqliteLog::open(&directory.path().join("log.db")).unwrap();
    let batch = IncomingBatch {
        batch: Batch { header: header(7, 1), records: vec![record(), record()] },
        received_at: "2023-11-14T22:15:00Z".parse().unwrap(),
        store_query: true,
    };
    let outcome = log.append(std::slice::from_ref(&batch)).await.unwrap();
    assert_eq!(outcome, [Appended::Stored { first_id: 1 }]);
    let mut found = log
        .search(&RecordQuery {
            net: Some("203.0.113.0/24".parse().unwrap()),
            path_prefix: Some("/a".to_owned()),
            limit: 10,
            ..RecordQuery::default()
        })
        .await
        .unwrap();
    found.reverse();
    assert_eq!(found, stored_records(&batch, 1).collect::<Vec<_>>());
}
