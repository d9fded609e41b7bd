//! Search and live stream against the real service.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use crate::bench::{Bench, record};

#[test]
fn records_are_listed_in_every_format() {
    let bench = Bench::start();
    bench.ship(1, &[record(b"/first"), record(b"/second")]);
    let records = bench.json(&["requests", "--ip", "203.0.113.7"]);
    let records = records.as_array().unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0]["path"], "/second");
    for field in
        ["time", "ip", "method", "host", "path", "status", "verdict", "country", "city", "proxy"]
    {
        assert!(records[0].get(field).is_some(), "{field}");
    }
    let human = bench.run(&["requests"]).expect(0);
    assert!(human.stdout.starts_with("time (UTC) "), "{human:?}");
    assert!(
        human
            .stdout
            .lines()
            .nth(1)
            .unwrap()
            .contains("203.0.113.7  blocked  #12     403  GET     shop.example  /second"),
        "{human:?}"
    );
    let raw = bench.run(&["requests", "--limit", "1", "-o", "raw"]).expect(0);
    let values: Vec<&str> = raw.stdout.trim_end_matches('\n').split('\t').collect();
    assert_eq!(values.len(), 12);
    assert_eq!(&values[1..7], ["203.0.113.7", "GET", "shop.example", "/second", "403", "blocked"]);
}

#[test]
fn conditions_reach_the_service() {
    let bench = Bench::start();
    bench.ship(1, &[record(b"/a/1"), record(b"/b/1")]);
    let count = |arguments: &[&str]| {
        let arguments: Vec<&str> = ["requests"].iter().chain(arguments).copied().collect();
        bench.json(&arguments).as_array().unwrap().len()
    };
    assert_eq!(count(&["--path", "/a"]), 1);
    assert_eq!(count(&["--status", "4xx", "--verdict", "blocked,limited", "--since", "1h"]), 2);
    assert_eq!(count(&["--status", "404"]), 0);
    assert_eq!(count(&["--proxy", "edge-1", "--host", "shop.example", "--method", "GET"]), 2);
    assert_eq!(count(&["--until", "2020-01-01 00:00"]), 0);
    let none = bench.run(&["requests", "--ip", "192.0.2.0/24"]).expect(0);
    assert!(none.stdout.starts_with("No request matches."), "{none:?}");
}

#[test]
fn what_clients_send_never_reaches_the_terminal_as_it_is() {
    let bench = Bench::start();
    bench.ship(1, &[record("/\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}\n".as_bytes())]);
    for format in ["human", "json", "raw"] {
        let ended = bench.run(&["requests", "-o", format]).expect(0);
        let bad = ended
            .stdout
            .chars()
            .find(|c| (c.is_control() && !"\n\t".contains(*c)) || *c == '\u{202e}');
        assert_eq!(bad, None, "{format}: {:?}", ended.stdout);
    }
}

#[test]
fn new_records_are_followed_until_interrupted() {
    let bench = Bench::start();
    bench.ship(1, &[record(b"/before")]);
    let mut child = bench
        .command(&["requests", "--follow", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next =
        || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["path"], "/before");
    // The stream was opened before the past was read: nothing can be missed from here on.
    bench.ship(2, &[record(b"/after")]);
    assert_eq!(next()["path"], "/after");
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}
