// Under Node every `#[test]` below is wasm-bindgen's: one body, both targets.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::testing::{Lines, Properties};
use super::*;
use crate::config::check_limit;

/// The match of a limit, as the configuration writes it.
#[track_caller]
fn matching(json: &str) -> Match {
    let limit = format!(r#"{{"name": "a", "anonymous": "unlimited", "match": {json}}}"#);
    check_limit(limit.as_bytes()).expect(json).matches
}

fn get<'a>(path: &'a str, lines: &'a Lines<'a>, properties: &'a Properties<'a>) -> Request<'a> {
    Request::new(b"GET", b"example.com", path.as_bytes(), lines, properties)
}

#[track_caller]
fn closeness(json: &str, path: &str) -> Option<Specificity> {
    let (lines, properties) = (Lines(&[("x-a", b"1"), ("x-b", b"2")]), Properties::new(&[]));
    matching(json).matches(&get(path, &lines, &properties))
}

/// Whether requests for these paths match, and for those not.
#[track_caller]
fn paths(json: &str, matched: &[&str], not: &[&str]) {
    for path in matched {
        assert!(closeness(json, path).is_some(), "{json} {path}");
    }
    for path in not {
        assert_eq!(closeness(json, path), None, "{json} {path}");
    }
}

#[test]
fn without_conditions_every_request_matches() {
    paths("{}", &["/", "/login", "", "*"], &[]);
}

#[test]
fn an_exact_path_is_that_path() {
    paths(r#"{"path": ["/login", "/é"]}"#, &["/login", "/é"], &["/login/", "/Login", "/logi", "/"]);
    paths(r#"{"path": "/login", "ignore_case": true}"#, &["/LOGIN", "/Login"], &["/login/"]);
}

#[test]
fn a_prefix_knows_nothing_of_segments() {
    paths(
        r#"{"path_prefix": ["/login", "/a/"]}"#,
        &["/login", "/login/", "/login.php", "/logins", "/a/", "/a/b"],
        &["/Login", "/a", "/x/login", "/logi", ""],
    );
    paths(r#"{"path_prefix": "/login", "ignore_case": true}"#, &["/LOGINS"], &["/x"]);
    paths(r#"{"path_prefix": "/."}"#, &["/.env", "/.git/config"], &["/", "/env"]);
}

#[test]
fn a_pattern_is_anchored_at_both_ends() {
    paths(
        r#"{"path_regex": ["/v[0-9]+/search", "/a|/ab"]}"#,
        &["/v1/search", "/v22/search", "/a", "/ab"],
        &["/v1/search/", "/x/v1/search", "/V1/search", "/v/search", "/abc"],
    );
    paths(r#"{"path_regex": "/[a-z]+", "ignore_case": true}"#, &["/LOGIN"], &["/é"]);
    // A decoded path may hold a line break: it must not end the pattern's reach.
    paths(r#"{"path_regex": "/admin/.*"}"#, &["/admin/a\nb", "/admin/é"], &["\n/admin/", "/admin"]);
    paths(r#"{"path_regex": "^/admin$"}"#, &["/admin"], &["/admin\n", "/admin\nx"]);
}

#[test]
fn paths_prefixes_and_patterns_are_one_condition() {
    let json = r#"{"path": "/a", "path_prefix": "/b", "path_regex": "/c.*"}"#;
    paths(json, &["/a", "/b", "/bb", "/c", "/cc"], &["/aa", "/d"]);
}

#[test]
fn methods_are_compared_exactly() {
    let (lines, properties) = (Lines(&[]), Properties::new(&[]));
    let matches = matching(r#"{"methods": ["POST", "PUT"]}"#);
    for (method, expected) in [("POST", true), ("PUT", true), ("GET", false), ("post", false)] {
        let request = Request::new(method.as_bytes(), b"", b"/", &lines, &properties);
        assert_eq!(matches.matches(&request).is_some(), expected, "{method}");
    }
}

#[test]
fn hosts_are_compared_without_port_and_case() {
    let exact = Host::Exact("example.com".to_owned());
    for host in
        ["example.com", "EXAMPLE.com:8080", "example.com:", "example.com.", "example.com.:1"]
    {
        assert!(exact.matches(host.as_bytes()), "{host}");
    }
    for host in ["", "www.example.com", "example.com.evil", "example.co", "[example.com]"] {
        assert!(!exact.matches(host.as_bytes()), "{host}");
    }
    let below = Host::Suffix(".example.com".to_owned());
    for host in ["www.example.com", "a.b.Example.COM.:443"] {
        assert!(below.matches(host.as_bytes()), "{host}");
    }
    for host in ["example.com", ".example.com", "wwwexample.com", "www.example.com.evil"] {
        assert!(!below.matches(host.as_bytes()), "{host}");
    }
    let address = Host::Exact("[2001:db8::1]".to_owned());
    assert!(address.matches(b"[2001:DB8::1]:8080") && address.matches(b"[2001:db8::1]"));
    assert!(!address.matches(b"[2001:db8::1") && !address.matches(b"2001:db8::1"));
}

#[test]
fn a_header_is_there_or_has_one_of_the_values_in_any_line() {
    let properties = Properties::new(&[]);
    let lines: [(&str, &[u8]); 3] = [("x-plan", b"basic"), ("x-plan", b"free"), ("x-none", b"")];
    let lines = Lines(&lines);
    let request = get("/", &lines, &properties);
    for (json, expected) in [
        (r#"{"headers": {"X-Plan": "free"}}"#, true),
        (r#"{"headers": {"x-plan": ["gold", "basic"]}}"#, true),
        (r#"{"headers": {"x-plan": "Free"}}"#, false),
        (r#"{"headers": {"x-plan": "fre"}}"#, false),
        (r#"{"headers": {"x-none": true}}"#, true),
        (r#"{"headers": {"x-other": true}}"#, false),
        (r#"{"headers": {"x-plan": true, "x-other": true}}"#, false),
    ] {
        assert_eq!(matching(json).matches(&request).is_some(), expected, "{json}");
    }
}

#[test]
fn a_route_is_asked_for_once_and_only_where_the_rest_holds() {
    let lines = Lines(&[]);
    let properties: [(&[u8], &[u8]); 1] = [(b"xds\0route_name", b"shop")];
    let properties = Properties::new(&properties);
    let request = get("/a", &lines, &properties);
    assert!(matching(r#"{"path": "/b", "routes": "shop"}"#).matches(&request).is_none());
    assert!(matching(r#"{"methods": "POST", "routes": "shop"}"#).matches(&request).is_none());
    assert_eq!(properties.asked.get(), 0);
    assert!(matching(r#"{"routes": ["api", "shop"]}"#).matches(&request).is_some());
    assert!(matching(r#"{"routes": "shops"}"#).matches(&request).is_none());
    let raw = request.with_path(b"/./a");
    assert_eq!((raw.route(), raw.path), (Some(&b"shop"[..]), &b"/./a"[..]));
    assert_eq!(properties.asked.get(), 1);
    // Envoy gives an empty name where a route has none.
    let nameless: [(&[u8], &[u8]); 1] = [(b"xds\0route_name", b"")];
    let nameless = Properties::new(&nameless);
    assert_eq!(get("/", &lines, &nameless).route(), None);
}

#[test]
fn the_path_decides_first_and_then_the_number_of_conditions() {
    // From the closest to the farthest; all match.
    let order = [
        r#"{"path": "/login", "methods": "GET"}"#,
        r#"{"path": "/login"}"#,
        r#"{"path_prefix": "/login", "methods": "GET", "hosts": "example.com", "headers": {"x-a": true, "x-b": true}}"#,
        r#"{"path_prefix": "/login", "headers": {"x-a": true, "x-b": true}}"#,
        r#"{"path_prefix": "/login", "methods": ["GET", "POST"]}"#,
        r#"{"path_prefix": "/login"}"#,
        r#"{"path_prefix": "/logi", "methods": "GET", "hosts": "example.com"}"#,
        r#"{"path_prefix": "/"}"#,
        r#"{"path_regex": "/login", "methods": "GET"}"#,
        r#"{"path_regex": "/login"}"#,
        r#"{"methods": "GET", "hosts": "example.com", "headers": {"x-a": "1"}}"#,
        r#"{"hosts": "example.com"}"#,
        "{}",
    ];
    for pair in order.windows(2) {
        let [closer, farther] = [pair[0], pair[1]].map(|json| closeness(json, "/login").unwrap());
        assert!(closer > farther, "{} before {}", pair[0], pair[1]);
    }
    // Neither the kind of a condition nor its number of values counts, nor the case.
    for equal in [
        [r#"{"methods": "GET"}"#, r#"{"hosts": ["example.com", "*.example.com"]}"#],
        [r#"{"headers": {"x-a": true}}"#, r#"{"headers": {"x-a": "1"}}"#],
        [r#"{"path": "/login"}"#, r#"{"path": ["/login", "/x"], "ignore_case": true}"#],
    ] {
        let [left, right] = equal.map(|json| closeness(json, "/login").unwrap());
        assert_eq!(left, right, "{equal:?}");
    }
    // Of several alternatives the closest that holds.
    let mixed = r#"{"path_prefix": ["/", "/log", "/lo"], "path_regex": ".*"}"#;
    assert_eq!(closeness(mixed, "/login"), closeness(r#"{"path_prefix": "/log"}"#, "/login"));
    assert_eq!(closeness(mixed, "/x"), closeness(r#"{"path_prefix": "/"}"#, "/x"));
}

#[test]
fn a_pattern_has_its_bounds() {
    let long = "a".repeat(MAX_PATTERN_BYTES + 1);
    assert_eq!(
        Pattern::new(&long, false).unwrap_err().to_string(),
        "regular expression of 513 bytes: expected at most 512"
    );
    assert_eq!(
        Pattern::new(r"(\w{30}){30}", false).unwrap_err().to_string(),
        "not a regular expression: compiled regex exceeded size limit"
    );
    // Linear time: what blows a backtracking engine up is an ordinary pattern here.
    let hostile = Pattern::new("(/?a*)*b", false).unwrap();
    assert!(!hostile.matches(&"a".repeat(crate::record::bounds::PATH_BYTES)));
    assert_ne!(Pattern::new("a", false), Pattern::new("a", true));
}

#[test]
fn bytes_that_are_no_text_meet_patterns_as_replacement_characters() {
    let (lines, properties) = (Lines(&[]), Properties::new(&[]));
    let request = Request::new(b"GET", b"", b"/admin/\xff", &lines, &properties);
    assert!(matching(r#"{"path_regex": "/admin/."}"#).matches(&request).is_some());
    assert!(matching(r#"{"path_prefix": "/admin/"}"#).matches(&request).is_some());
    assert!(matching(r#"{"path": "/admin/"}"#).matches(&request).is_none());
}
