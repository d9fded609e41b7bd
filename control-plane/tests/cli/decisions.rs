//! Blocks, allows and lists against the real service.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use crate::bench::Bench;

#[test]
fn a_block_is_made_explained_and_taken_back() {
    let bench = Bench::start();
    let blocked = bench.run(&["block", "203.0.113.0/24", "--for", "1h", "--reason", "scraping"]);
    let blocked = blocked.expect(0);
    assert!(blocked.stdout.starts_with("Blocked 203.0.113.0/24 until 20"), "{blocked:?}");
    assert!(blocked.stdout.contains(" UTC (1h): decision 1, revision "), "{blocked:?}");
    assert_eq!(blocked.stderr, "");

    let checked = bench.run(&["check", "203.0.113.7"]).expect(0);
    assert!(
        checked
            .stdout
            .starts_with("203.0.113.7 is blocked by decision 1: block 203.0.113.0/24 (revision "),
        "{checked:?}"
    );
    assert!(checked.stdout.contains("\n  reason  scraping\n  origin  manual\n"), "{checked:?}");
    let document = bench.json(&["check", "203.0.113.7"]);
    assert_eq!(document["verdict"], "blocked");
    assert_eq!(document["decision"]["target"], "203.0.113.0/24");

    let again = bench.run(&["block", "203.0.113.0/24"]).expect(0);
    assert!(
        again.stdout.starts_with("Blocked 203.0.113.0/24 without an end: decision 2"),
        "{again:?}"
    );
    assert!(again.stdout.ends_with(" It replaces decision 1.\n"), "{again:?}");

    let gone = bench.run(&["unblock", "203.0.113.0/24"]).expect(0);
    assert!(
        gone.stdout.starts_with("Unblocked 203.0.113.0/24: decision 2 (manual) is gone, revision "),
        "{gone:?}"
    );
    let free = bench.run(&["check", "203.0.113.7"]).expect(0);
    assert!(
        free.stdout.starts_with("203.0.113.7 is not blocked: no decision covers it"),
        "{free:?}"
    );
}

#[test]
fn a_bad_target_changes_nothing() {
    let bench = Bench::start();
    let before = bench.revision();
    bench.run(&["block", "192.0.2.1", "10.0.0.0/33"]).expect(2);
    assert_eq!(bench.revision(), before);
}

#[test]
fn a_block_that_an_allow_covers_is_warned_about_with_the_allow_named() {
    let bench = Bench::start();
    bench.run(&["allow", "203.0.113.0/24", "--reason", "office"]).expect(0);
    let blocked = bench.run(&["block", "203.0.113.7"]).expect(0);
    assert!(blocked.stderr.starts_with("warning: "), "{blocked:?}");
    assert!(blocked.stderr.contains("decision 1 allows 203.0.113.0/24"), "{blocked:?}");
    let document = bench.json(&["block", "203.0.113.8"]);
    assert_eq!(document["warnings"][0]["decision"]["id"], 1);
    let checked = bench.run(&["check", "203.0.113.7"]).expect(0);
    assert!(checked.stdout.contains("is allowed by decision 1"), "{checked:?}");
    assert!(
        checked.stdout.contains("It hides 1 other decision:\n  decision 2: block 203.0.113.7"),
        "{checked:?}"
    );
    // One call unbans and allows; the other way round works too.
    bench.run(&["unallow", "203.0.113.0/24"]).expect(0);
    assert_eq!(bench.json(&["check", "203.0.113.7"])["verdict"], "blocked");
}

#[test]
fn what_is_not_blocked_by_itself_is_explained_by_what_covers_it() {
    let bench = Bench::start();
    bench.run(&["block", "203.0.113.0/24"]).expect(0);
    let missing = bench.run(&["unblock", "203.0.113.7"]).expect(1);
    assert_eq!(
        missing.stderr,
        "error: 203.0.113.7 has no block of its own; 203.0.113.0/24 (decision 1) covers it: unblock that, or allow 203.0.113.7\n"
    );
    let missing = bench.run(&["unblock", "203.0.0.0/16"]).expect(1);
    assert!(
        missing.stderr.contains("1 block lies inside it, such as 203.0.113.0/24 (decision 1)"),
        "{missing:?}"
    );
    let ended = bench.run(&["unblock", "203.0.113.0/24", "192.0.2.1", "-o", "json"]).expect(1);
    assert_eq!(ended.json()["removed"][0]["id"], 1);
    assert_eq!(ended.json()["missing"], serde_json::json!(["192.0.2.1"]));
    let error = ended.error();
    assert_eq!(error["kind"], "not_found");
    assert_eq!(error["message"], "1 of 2 targets does not have a block of their own");
    assert_eq!(error["errors"][0]["place"], "192.0.2.1");
}

#[test]
fn a_list_is_taken_as_a_whole_or_not_at_all() {
    let bench = Bench::start();
    let before = bench.revision();
    let bad = bench.file("bad.txt", "192.0.2.1\n10.0.0.0/33\n# fine\n10.0.0.1/8\n");
    let refused = bench.run(&["block", "--from", &bad]).expect(2);
    assert_eq!(
        refused.stderr,
        "error: 2 lines of bad.txt are no targets; nothing was sent\n  \
         line 2: prefix length '/33' is out of range: expected /0 to /32\n  \
         line 4: '10.0.0.1/8' has bits set beyond its prefix: write 10.0.0.0/8 for the network or 10.0.0.1 for the single address\n"
    );
    assert_eq!(bench.revision(), before);
    let good = bench.file("good.txt", "# list\n192.0.2.1\n\n2001:db8::/32 # net\n192.0.2.1\n");
    let taken = bench.run(&["block", "--from", &good, "--for", "2h", "--reason", "list"]).expect(0);
    assert_eq!(
        taken.stdout,
        format!(
            "Blocked 2 targets for 2h: revision {}; 1 duplicate folded, 0 earlier decisions replaced.\n",
            before + 1
        )
    );
    let listed = bench.json(&["decisions"]);
    assert_eq!(listed["total"], 2);
    assert_eq!(listed["decisions"][0]["reason"], "list");
    let again = bench.run_with(&["block", "--from", "-", "-o", "json"], b"192.0.2.1\n").expect(0);
    assert_eq!(again.json()["replaced"], 1);
    // Nobody can be asked here: it goes on.
    let gone = bench.run(&["unblock", "--from", &good, "-o", "json"]).expect(0);
    assert_eq!(gone.json()["removed"].as_array().unwrap().len(), 2);
}

#[test]
fn a_long_list_goes_in_and_out_page_by_page() {
    let bench = Bench::start();
    let list: String =
        (0..20_000u32).map(|n| format!("10.{}.{}.{}\n", n >> 16, n >> 8 & 255, n & 255)).collect();
    bench.run_with(&["block", "--from", "-"], list.as_bytes()).expect(0);
    let listed = bench.run(&["decisions", "--limit", "1500", "-o", "json"]).expect(0).json();
    assert_eq!(listed["decisions"].as_array().unwrap().len(), 1_500);
    assert_eq!(listed["total"], 20_000);
    let human = bench.run(&["decisions"]).expect(0);
    assert_eq!(human.stdout.lines().count(), 101);
    assert!(human.stderr.starts_with("100 of 20 000 decisions"), "{}", human.stderr);
    let exported = bench.run(&["decisions", "export"]).expect(0);
    assert_eq!(exported.stdout.lines().count(), 20_001);
    // What was exported can be imported again.
    let again = bench.run_with(&["block", "--from", "-", "-o", "json"], exported.stdout.as_bytes());
    assert_eq!(again.expect(0).json()["replaced"], 20_000);
    let raw = bench.run(&["decisions", "--limit", "1", "-o", "raw"]).expect(0);
    assert_eq!(raw.stdout.split('\t').count(), 7);
    let gone = bench.run_with(&["unblock", "--from", "-", "-o", "json"], list.as_bytes());
    assert_eq!(gone.expect(0).json()["removed"].as_array().unwrap().len(), 20_000);
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let bench = Bench::start();
    let list: String = (0..20_000u32).map(|n| format!("10.0.{}.{}\n", n >> 8, n & 255)).collect();
    bench.run_with(&["block", "--from", "-"], list.as_bytes()).expect(0);
    let mut child = bench
        .command(&["decisions", "export", "-o", "raw"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.ends_with('\n'));
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn nothing_there_says_what_to_try() {
    let bench = Bench::start();
    let empty = bench.run(&["decisions"]).expect(0);
    assert!(empty.stdout.starts_with("No decisions: every request passes."), "{empty:?}");
    let empty = bench.run(&["decisions", "--action", "allow"]).expect(0);
    assert!(empty.stdout.starts_with("No decision matches."), "{empty:?}");
    assert_eq!(bench.json(&["decisions"])["decisions"], serde_json::json!([]));
    let proxies = bench.run(&["proxies"]).expect(0);
    assert!(proxies.stdout.starts_with("No proxy has been heard of."), "{proxies:?}");
    assert_eq!(bench.json(&["proxies"])["proxies"], serde_json::json!([]));
}

#[test]
fn the_audit_log_says_who_did_what() {
    let bench = Bench::start();
    bench.run(&["block", "203.0.113.7"]).expect(0);
    let audit = bench.json(&["audit"]);
    let entry = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["action"] == "decisions.add")
        .expect("the block is in the audit log");
    assert_eq!(entry["subject"], "203.0.113.7");
    let human = bench.run(&["audit", "--limit", "1"]).expect(0);
    assert!(human.stdout.starts_with("time (UTC) "), "{human:?}");
    assert_eq!(human.stdout.lines().count(), 2);
}
