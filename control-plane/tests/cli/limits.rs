//! Limits against the real service.

use serde_json::json;

use crate::bench::{Bench, alone};

/// A proxy that has reported its limits and follows the stream.
fn connect(bench: &Bench, name: &str) {
    let token = std::fs::read_to_string(bench.data_dir().join("proxy.token")).unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let login = json!({
        "name": "login", "match": {"path_prefix": ["/login", "/admin"]},
        "anonymous": {"requests": 5, "per": "1m"}, "authenticated": {"requests": 10, "per": "1m"},
    });
    let report = client
        .put(format!("{}/v1/proxies/limits", bench.url))
        .bearer_auth(token.trim())
        .header("x-ipwarden-proxy", name)
        .json(&json!({ "limits": [login] }));
    assert_eq!(bench.runtime.block_on(report.send()).unwrap().status(), 204);
    let poll = client
        .get(format!("{}/v1/decisions/stream?wait=0s", bench.url))
        .bearer_auth(token.trim())
        .header("x-ipwarden-proxy", name);
    assert_eq!(bench.runtime.block_on(poll.send()).unwrap().status(), 200);
}

#[test]
fn limits_are_listed_changed_and_taken_back() {
    let bench = Bench::start();
    let none = bench.run(&["limits"]).expect(0);
    assert!(none.stdout.starts_with("No limits are known."), "{none:?}");
    connect(&bench, "edge-1");
    connect(&bench, "edge-2");
    let listed = bench.run(&["limits"]).expect(0);
    assert_eq!(
        listed.stdout,
        "name   mode     applies to        key  anonymous  authenticated  source         proxies\n\
         login  enforce  /login*, /admin*  ip   5/1m       10/1m          configuration  edge-1, edge-2\n"
    );

    let shadow = bench.run(&["limits", "shadow", "login"]).expect(0);
    assert_eq!(
        shadow.stdout,
        "login is in shadow mode on 2 proxies: it counts and records what it would refuse, and refuses nothing. Revision 1.\n"
    );
    let raw = bench.run(&["limits", "list", "-o", "raw"]).expect(0).stdout;
    assert!(raw.starts_with("login\tshadow\tconfiguration\tip\t5/1m\t10/1m\t2\t"), "{raw}");
    assert!(raw.ends_with("\tadmin\n"), "{raw}");

    let set = bench
        .run(&["limits", "set", "login", "--match-prefix", "/login", "--anonymous", "3/m"])
        .expect(0);
    assert_eq!(
        set.stdout,
        "Set login: 3/1m for each address, for /login*; enforced on 2 proxies, revision 2.\n"
    );
    let document = bench.json(&["limits", "show", "login"]);
    assert_eq!(document["limits"][0]["source"], "control-plane");
    assert_eq!(document["limits"][0]["configured"][0]["proxies"], json!(["edge-1", "edge-2"]));
    let shown = bench.run(&["limits", "show", "login"]).expect(0).stdout;
    assert!(
        shown.starts_with("login is enforced on 2 proxies (set here over configuration)\n"),
        "{shown}"
    );

    let enforce = bench.json(&["limits", "enforce", "login"]);
    assert_eq!(enforce, json!({"revision": 3, "name": "login", "mode": "enforce", "proxies": 2}));
    let removed = bench.run(&["limits", "remove", "login", "--yes"]).expect(0);
    assert_eq!(
        removed.stdout,
        "Removed the change of login: the configured limit is in force again on 2 proxies, revision 4.\n"
    );
    let again = bench.run(&["limits", "remove", "login", "--yes"]).expect(1);
    assert_eq!(
        again.stderr,
        "error: nothing to remove: the limit login is as the proxies configure it; it goes when it leaves their configuration\n"
    );
}

#[test]
fn a_limit_goes_out_and_in_as_a_file() {
    let bench = Bench::start();
    let limit = json!({
        "anonymous": {"requests": 5, "per": "1m"}, "cost": {"status": {"401": 5}},
        "exempt": {"addresses": ["10.0.0.0/8"]},
    });
    let file = bench.file("login.json", limit.to_string());
    let set = bench.run(&["limits", "set", "login", "--from", &file]).expect(0);
    assert_eq!(
        set.stdout,
        "Set login: 5/1m for each address, for every request; in force as soon as a proxy follows this service, revision 1.\n"
    );
    let out = bench.run(&["limits", "show", "login", "-o", "raw"]).expect(0).stdout;
    assert_eq!(out.lines().count(), 1);
    let again =
        bench.run_with(&["limits", "set", "login", "--from", "-", "-o", "json"], out.as_bytes());
    let again = again.expect(0).json();
    assert_eq!((&again["replaced"], &again["revision"]), (&json!(true), &json!(2)));
    assert_eq!(again["limit"]["cost"]["status"]["401"], 5);
    let shown = bench.run(&["limits", "show", "login"]).expect(0).stdout;
    assert!(shown.contains("\n  cost           1, 5 for 401\n"), "{shown}");
    assert!(shown.contains("\n  exempt         10.0.0.0/8\n"), "{shown}");
}

#[test]
fn a_bucket_is_filled_again() {
    let bench = Bench::start();
    connect(&bench, "edge-1");
    let reset = bench.run(&["limits", "reset", "203.0.113.7", "--limit", "login"]).expect(0);
    assert_eq!(
        reset.stdout,
        "Reset 203.0.113.7 in login: its bucket is full again on 1 proxy, revision 1.\n"
    );
    let raw = bench.run(&["limits", "reset", "identity:alice", "-o", "raw"]).expect(0);
    assert_eq!(raw.stdout, "identity:alice\t\t2\t1\t2\n");
    let listed = bench.run(&["limits"]).expect(0);
    assert_eq!(listed.stderr, "2 resets in the last 7 days; -o json names them\n");
    let unknown = bench.run(&["limits", "reset", "203.0.113.7", "--limit", "logn"]).expect(1);
    assert_eq!(unknown.stderr, "error: no limit is named logn: known are login\n");
    let unknown = bench.run(&["limits", "show", "logn", "-o", "json"]).expect(1).error();
    assert_eq!(unknown["kind"], "not_found");
    assert_eq!(unknown["message"], "no limit is named logn: known are login");
}

#[test]
fn what_is_not_right_is_usage_and_nothing_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str]| {
        let arguments: Vec<&str> =
            ["--url", "http://127.0.0.1:1", "limits"].iter().chain(arguments).copied().collect();
        alone(dir.path(), &arguments).expect(2).stderr
    };
    let error = refused(&["set", "login", "--anonymous", "five"]);
    assert!(
        error.contains(
            "expected REQUESTS/TIME such as 5/1m, with a burst 5/1m,burst=20, or unlimited"
        ),
        "{error}"
    );
    let error = refused(&["set", "login"]);
    assert!(error.contains("--anonymous <RATE>"), "{error}");
    let error = refused(&["set", "Login", "--anonymous", "5/1m"]);
    assert!(error.contains("expected 1 to 64 lower-case letters, digits, '-' or '_'"), "{error}");
    let error = refused(&["reset", "alice"]);
    assert!(error.contains("such as 203.0.113.7, 2001:db8::/64 or identity:alice"), "{error}");
    let error = refused(&["set", "login", "--anonymous", "0/1m", "--match-regex", "("]);
    assert!(error.starts_with("error: the limit has 2 errors; nothing was sent\n"), "{error}");
    assert!(error.contains("  anonymous.requests: "), "{error}");
    let error = refused(&["set", "login", "--from", "absent.json"]);
    assert!(error.starts_with("error: can't read absent.json: "), "{error}");
}
