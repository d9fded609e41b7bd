//! `ipwarden suspects` and `ipwarden detect` against a running service.

use crate::bench::{Bench, record};

/// A service that was shipped a visit of /admin, and passed over the hour.
fn with_a_suspect() -> (Bench, String) {
    let bench = Bench::start();
    let visit = record(b"/admin");
    bench.ship(1, &[visit]);
    let time = jiff::Timestamp::from_microsecond(visit.time_us.cast_signed()).unwrap();
    let hour = time.strftime("%Y-%m-%dT%H").to_string();
    bench.run(&["detect", "--hour", &hour]).expect(0);
    (bench, hour)
}

#[test]
fn what_the_pass_finds_is_told_and_noted_only_when_asked() {
    let bench = Bench::start();
    let visit = record(b"/admin");
    bench.ship(1, &[visit]);
    let time = jiff::Timestamp::from_microsecond(visit.time_us.cast_signed()).unwrap();
    let hour = time.strftime("%Y-%m-%dT%H").to_string();
    let dry = bench.run(&["detect", "--hour", &hour, "--dry-run", "-o", "raw"]).expect(0);
    assert_eq!(
        dry.stdout,
        "203.0.113.7\tsensitive-path\tlow\t1\t0.200\tvisited the sensitive path /admin\n"
    );
    assert_eq!(
        bench.run(&["suspects"]).expect(0).stdout,
        "No open suspects: nobody was flagged that is not judged.\n"
    );
    let found = bench.json(&["detect", "--hour", &hour]);
    assert_eq!(found["flags"][0]["rule"], "sensitive-path");
    assert_eq!(bench.json(&["suspects"])["total"], 1);
    let error = bench.run(&["detect", "--hour", "16"]).expect(2).stderr;
    assert_eq!(
        error,
        "error: --hour: '16' is no hour: expected one in UTC such as 2026-11-22T16\n"
    );
}

#[test]
fn a_suspect_is_shown_confirmed_and_dismissed() {
    let (bench, _) = with_a_suspect();
    let listed = bench.run(&["suspects"]).expect(0).stdout;
    assert!(listed.contains("sensitive-path: visited the sensitive path /admin"), "{listed}");
    let shown = bench.run(&["suspects", "show", "1"]).expect(0).stdout;
    assert!(
        shown.starts_with("Suspect 1: 203.0.113.7, open, severity low, score 0.20\n"),
        "{shown}"
    );
    let confirmed = bench.run(&["suspects", "confirm", "1", "--for", "1h"]).expect(0).stdout;
    assert!(
        confirmed.starts_with("Confirmed suspect 1: 203.0.113.7 is blocked until "),
        "{confirmed}"
    );
    let check = bench.json(&["check", "203.0.113.7"]);
    assert_eq!(check["decision"]["origin"], "detector:sensitive-path");
    let dismissed = bench.run(&["suspects", "dismiss", "1", "--allow", "7d"]).expect(0).stdout;
    assert!(
        dismissed
            .starts_with("Dismissed suspect 1 (203.0.113.7), 1 block taken back, allowed until "),
        "{dismissed}"
    );
    assert_eq!(bench.json(&["check", "203.0.113.7"])["verdict"], "allowed");
    assert_eq!(bench.json(&["suspects", "--status", "dismissed"])["total"], 1);
    let missing = bench.run(&["suspects", "show", "99", "-o", "json"]).expect(1).error();
    assert_eq!(missing["kind"], "not_found");
    let bad = bench.run(&["suspects", "confirm", "1", "--for", "soon"]).expect(2).stderr;
    assert!(bad.starts_with("error: --for: 'soon' is "), "{bad}");
}
