// Under Node every `#[test]` below is wasm-bindgen's: one body, both targets.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::super::tests::{accepted, refused};
use super::super::{check_limit, check_policy};
use super::*;
use crate::decisions::NEVER;
use crate::geo::Country;
use crate::geo::regions::{Region, Rule};
use crate::limits::identity::CertificateField;
use crate::limits::matching::{Header, Host, Pattern};

const MINUTE: Duration = Duration::from_secs(60);

/// The errors of one limit, one line each.
#[track_caller]
fn limit_refused(json: &str, expected: &[&str]) {
    let errors = check_limit(json.as_bytes()).expect_err(json);
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(lines, expected, "{json}");
}

#[track_caller]
fn limit_accepted(json: &str) -> Limit {
    check_limit(json.as_bytes()).expect(json)
}

/// A limit with this one setting more.
fn with(member: &str) -> String {
    format!(r#"{{"name": "a", "anonymous": {{"requests": 5, "per": "1m"}}, {member}}}"#)
}

#[track_caller]
fn setting_refused(member: &str, expected: &[&str]) {
    limit_refused(&with(member), expected);
}

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

#[test]
fn without_the_section_the_login_limit_is_in_force() {
    let written = r#"{"limits": [{
        "name": "login", "match": {"path_prefix": ["/login", "/admin"]}, "key": "ip",
        "anonymous": {"requests": 5, "per": "1m"}, "authenticated": {"requests": 10, "per": "1m"}
    }]}"#;
    assert_eq!(accepted("{}").limits, accepted(written).limits);
    assert_eq!(accepted("{}").limits, default_limits());
    assert_eq!(accepted(r#"{"limits": []}"#).limits, []);
}

#[test]
fn every_setting_of_a_limit_is_read() {
    let limit = limit_accepted(
        r#"{
          "name": "api_v1-search",
          "match": {
            "path": "/search", "path_prefix": ["/api/", "/."], "path_regex": "/v[0-9]+/.*",
            "methods": ["GET", "POST"], "hosts": ["Example.com", "*.example.com", "[2001:db8::1]"],
            "headers": {"X-Plan": ["a", "b"], "x-any": true, "accept": "text/plain"},
            "routes": "search", "countries": "fr", "asn": [64500, 64501], "ignore_case": true
          },
          "apply": "all", "key": "header:X-Api-Key",
          "anonymous": {"requests": 5, "per": "1m", "burst": 7}, "authenticated": "unlimited",
          "tiers": {"pro": "unlimited", "claim": ["account", "plan"], "free": {"requests": 9, "per": "1h"}},
          "ceiling": {"requests": 1000, "per": "7d"},
          "cost": {"default": 2, "status": {"4xx": 3, "401": 10000, "200-299": 0}},
          "exempt": {"addresses": ["10.0.0.0/8", "::ffff:192.0.2.1"], "identities": "monitor"},
          "ipv4_prefix": 24, "ipv6_prefix": 56, "headers": true,
          "grpc_status": "unavailable", "scope": "fleet", "mode": "shadow"
        }"#,
    );
    let free = Rate::new(9, Duration::from_secs(3_600));
    assert_eq!(
        limit,
        Limit {
            name: "api_v1-search".to_owned(),
            mode: Mode::Shadow,
            apply: Apply::All,
            matches: Match {
                paths: strings(&["/search"]),
                prefixes: strings(&["/api/", "/."]),
                patterns: vec![Pattern::new("/v[0-9]+/.*", true).unwrap()],
                methods: strings(&["GET", "POST"]),
                hosts: vec![
                    Host::Exact("example.com".to_owned()),
                    Host::Suffix(".example.com".to_owned()),
                    Host::Exact("[2001:db8::1]".to_owned()),
                ],
                headers: vec![
                    Header { name: "accept".to_owned(), values: Some(strings(&["text/plain"])) },
                    Header { name: "x-any".to_owned(), values: None },
                    Header { name: "x-plan".to_owned(), values: Some(strings(&["a", "b"])) },
                ],
                routes: strings(&["search"]),
                countries: vec![Country::new("FR").unwrap()],
                asns: vec![64_500, 64_501],
                ignore_case: true,
            },
            key: Key::Header("x-api-key".to_owned()),
            anonymous: Some(Rate { requests: 5, per: MINUTE, burst: 7 }),
            authenticated: None,
            tiers: Some(Tiers {
                claim: strings(&["account", "plan"]),
                rates: vec![("free".to_owned(), Some(free)), ("pro".to_owned(), None)],
            }),
            ceiling: Some(Rate::new(1_000, Rate::MAX_PER)),
            cost: Cost {
                default: 2,
                status: vec![(200, 299, 0), (400, 499, 3), (401, 401, 10_000)],
            },
            exempt: Exempt {
                addresses: vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.1/32".parse().unwrap()],
                identities: strings(&["monitor"]),
            },
            ipv4_prefix: 24,
            ipv6_prefix: 56,
            headers: true,
            grpc_status: GrpcStatus::Unavailable,
            scope: Scope::Fleet,
        }
    );
}

#[test]
fn what_is_left_out_of_a_limit_has_its_default() {
    let limit = limit_accepted(r#"{"name": "a", "anonymous": {"requests": 5, "per": "60s"}}"#);
    let rate = Some(Rate::new(5, MINUTE));
    assert_eq!(limit, Limit { anonymous: rate, authenticated: rate, ..undecided("a".to_owned()) });
    assert_eq!((limit.ipv4_prefix, limit.ipv6_prefix), (32, 64));
    assert_eq!(limit.cost, Cost { default: 1, status: Vec::new() });
    assert_eq!(limit.grpc_status, GrpcStatus::ResourceExhausted);
}

#[test]
fn the_ceiling_is_ten_times_what_a_known_client_may_do() {
    let ceiling = |json: &str| limit_accepted(json).ceiling;
    let known = r#""authenticated": {"requests": 20, "per": "1m", "burst": 8}"#;
    for key in ["identity", "header:x-api-key"] {
        assert_eq!(
            ceiling(&with(&format!(r#""key": "{key}", {known}"#))),
            Some(Rate { requests: 200, per: MINUTE, burst: 80 })
        );
    }
    for key in ["ip", "ip+route"] {
        assert_eq!(ceiling(&with(&format!(r#""key": "{key}", {known}"#))), None);
    }
    // A paying client is not held to ten times what a free one may do.
    assert_eq!(
        ceiling(&with(&format!(
            r#""key": "identity", {known},
               "tiers": {{"claim": "plan", "pro": {{"requests": 100, "per": "10s"}}}}"#
        ))),
        Some(Rate { requests: 1_000, per: Duration::from_secs(10), burst: 1_000 })
    );
    // Unlimited clients are no reason to let others mint keys.
    assert_eq!(
        ceiling(&with(r#""key": "header:x-api-key", "authenticated": "unlimited""#)),
        Some(Rate::new(50, MINUTE))
    );
    assert_eq!(
        ceiling(&with(&format!(r#""key": "identity", {known}, "ceiling": "unlimited""#))),
        None
    );
    let vast = r#""key": "identity", "authenticated": {"requests": 1000000, "per": "1s"}"#;
    assert_eq!(ceiling(&with(vast)), Some(Rate::new(1_000_000, Duration::from_secs(1))));
    setting_refused(
        r#""ceiling": "unlimited""#,
        &[
            "ceiling: the limit counts by address already: remove it, or set 'key' to 'identity' or \
           'header:<name>'",
        ],
    );
}

#[test]
fn a_limit_needs_a_name_and_a_rate() {
    limit_refused(
        r#"{"name": "reset", "anonymous": {"requests": 5, "per": "1m"}}"#,
        &["name: found 'reset', which the API needs for itself: choose another name"],
    );
    limit_refused(
        "{}",
        &[
            "name: missing: name the limit, such as \"login\"",
            "anonymous: missing: give the rate of clients whose identity is not known, such as \
             {\"requests\": 5, \"per\": \"1m\"}, or \"unlimited\"",
        ],
    );
    limit_refused(
        r#"{"name": "Login page", "anonymous": "none"}"#,
        &[
            "name: found 'Login page': expected lower-case letters, digits, - and _",
            "anonymous: found 'none': expected a rate such as {\"requests\": 5, \"per\": \"1m\"}, \
             or \"unlimited\"",
        ],
    );
    limit_refused(
        &format!(r#"{{"name": "{}", "anonymous": "unlimited"}}"#, "a".repeat(65)),
        &["name: found 65 bytes: expected at most 64"],
    );
    limit_refused("[]", &["configuration: found an empty list: expected an object"]);
    limit_refused("", &["configuration: not JSON: EOF while parsing a value at line 1 column 0"]);
}

#[test]
fn all_errors_of_a_limit_are_found_at_once_with_their_places() {
    refused(
        r#"{"limits": [{
            "name": "a", "mach": {}, "apply": "most", "key": "iproute", "mode": "shadows",
            "anonymous": {"requests": 0, "per": "500ms", "bursts": 3},
            "authenticated": {"per": "1s500ms", "burst": 1000001},
            "cost": {"default": -1, "status": {"600": 1, "4xx": 1.5}},
            "exempt": {"adresses": []}, "ipv4_prefix": 33, "ipv6_prefix": 0, "headers": "yes",
            "grpc_status": "ok"
          }]}"#,
        &[
            "limits[0].apply: found 'most': expected 'specific', 'all' or 'route'",
            "limits[0].key: found 'iproute': expected 'ip', 'identity', 'ip+route' or \
             'header:<name>'; did you mean 'ip+route'?",
            "limits[0].anonymous.requests: found 0: expected a whole number from 1 to 1000000",
            "limits[0].anonymous.per: found '500ms': expected a duration in quotes from 1s to 1w, \
             such as \"1s\"",
            "limits[0].anonymous.bursts: unknown setting: did you mean 'burst'?",
            "limits[0].authenticated.requests: missing: give a number of requests",
            "limits[0].authenticated.per: found '1s500ms': expected whole seconds",
            "limits[0].authenticated.burst: found 1000001: expected a whole number from 1 to \
             1000000",
            "limits[0].cost.default: found -1: expected a whole number from 0 to 10000",
            "limits[0].cost.status.600: expected a status from 100 to 599, a class such as 4xx, or \
             a range such as 200-299",
            "limits[0].cost.status.4xx: found 1.5: expected a whole number from 0 to 10000",
            "limits[0].exempt.adresses: unknown setting: did you mean 'addresses'?",
            "limits[0].ipv4_prefix: found 33: expected a whole number from 1 to 32",
            "limits[0].ipv6_prefix: found 0: expected a whole number from 1 to 128",
            "limits[0].headers: found 'yes': expected true or false",
            "limits[0].grpc_status: found 'ok': expected 'resource_exhausted' or 'unavailable'",
            "limits[0].mode: found 'shadows': expected 'enforce' or 'shadow'; did you mean \
             'shadow'?",
            "limits[0].mach: unknown setting: did you mean 'match'?",
        ],
    );
}

#[test]
fn a_burst_that_never_admits_a_request_is_an_error() {
    let message = |burst: u32, cost: u32| {
        format!(
            "a burst of {burst} never admits a request that costs {cost}: raise 'burst' or lower \
             'cost.default'"
        )
    };
    limit_refused(
        r#"{"name": "a", "key": "identity", "cost": {"default": 6},
            "anonymous": {"requests": 5, "per": "1m"},
            "authenticated": {"requests": 100, "per": "1m", "burst": 1},
            "tiers": {"claim": "plan", "free": {"requests": 4, "per": "1m"}},
            "ceiling": {"requests": 1, "per": "1m", "burst": 6}}"#,
        &[
            &format!("anonymous: {}", message(5, 6)),
            &format!("authenticated: {}", message(1, 6)),
            &format!("tiers.free: {}", message(4, 6)),
        ],
    );
    // What is charged afterwards may exceed the bucket: it goes into debt.
    limit_accepted(&with(r#""cost": {"default": 0, "status": {"401": 50}}"#));
}

#[test]
fn statuses_are_single_classes_or_ranges() {
    for bad in
        ["", "4", "40x", "6xx", "0xx", "xx", "99", "+40", "401-", "299-200", "1000", "200-600"]
    {
        let setting = format!(r#""cost": {{"status": {{"{bad}": 1}}}}"#);
        setting_refused(
            &setting,
            &[&format!(
                "cost.status.{bad}: expected a status from 100 to 599, a class such as 4xx, or a \
                 range such as 200-299"
            )],
        );
    }
    setting_refused(
        r#""cost": {"status": {"400-410": 1, "405-415": 2}}"#,
        &[
            "cost.status.405-415: overlaps 400-410, which is as wide: which of them counts would not \
           be clear",
        ],
    );
    setting_refused(
        r#""cost": {"status": {"4xx": 1, "400-499": 2}}"#,
        &[
            "cost.status.400-499: overlaps 400-499, which is as wide: which of them counts would not \
           be clear",
        ],
    );
    let limit = limit_accepted(&with(r#""cost": {"status": {"401": 5, "4xx": 2, "200-299": 0}}"#));
    let cost = |status| limit.cost.of(status);
    assert_eq!([cost(401), cost(404), cost(204), cost(500)], [5, 2, 0, 1]);
}

#[test]
fn limits_of_one_configuration_fit_together() {
    let rate = r#""anonymous": "unlimited""#;
    refused(
        &format!(
            r#"{{"limits": [{{"name": "a", {rate}}}, {{"name": "b", {rate}}}, {{"name": "a", {rate}}}]}}"#
        ),
        &["limits[2].name: found 'a', the name of limits[0] too: give each limit its own"],
    );
    let all = |count: usize, other: &str| {
        let items: Vec<String> = (0..count)
            .map(|at| format!(r#"{{"name": "l{at}", "apply": "all", {rate}}}"#))
            .collect();
        format!(r#"{{"limits": [{}{other}]}}"#, items.join(","))
    };
    let other = format!(r#", {{"name": "other", {rate}}}"#);
    accepted(&all(4, ""));
    accepted(&all(3, &other));
    refused(&all(5, ""), &["limits: found 5 with apply 'all': expected at most 4"]);
    refused(
        &all(4, &other),
        &["limits: found 4 with apply 'all': expected at most 3 beside one that applies alone"],
    );
    refused(&all(65, ""), &["limits: found 65 items: expected at most 64"]);
    refused(
        r#"{"limits_table": {"keys": 999, "on_contention": "pass"}}"#,
        &[
            "limits_table.keys: found 999: expected a whole number from 1000 to 16000000",
            "limits_table.on_contention: found 'pass': expected 'refuse' or 'admit'",
        ],
    );
}

#[test]
fn tiers_need_a_token_to_come_from() {
    let tiers = with(r#""tiers": {"claim": "plan", "free": {"requests": 1, "per": "1h"}}"#);
    limit_accepted(&tiers);
    refused(
        &format!(
            r#"{{"limits": [{tiers}], "identity": [{{"certificate": {{"subject": true}}}}]}}"#
        ),
        &["limits[0].tiers: found no source of kind 'jwt' in 'identity': a tier is read from the \
           verified token"],
    );
    accepted(&format!(
        r#"{{"limits": [{tiers}], "identity": [{{"jwt": {{"metadata_key": "k", "claim": "sub"}}}}]}}"#
    ));
    setting_refused(
        r#""tiers": {"fre": {"requests": 1}, "": "unlimited"}"#,
        &[
            "tiers.claim: missing: name the claim of the token, such as \"sub\"",
            "tiers.fre.per: missing: give a duration in quotes, such as \"1m\"",
            "tiers.: found a name of 0 bytes: expected 1 to 64",
        ],
    );
    setting_refused(
        r#""tiers": {"claim": "plan"}"#,
        &["tiers: found no tier: name at least one value of the claim and its rate, such as \
           \"free\": {\"requests\": 100, \"per\": \"1h\"}"],
    );
}

#[test]
fn identity_sources_are_read_in_their_order() {
    let config = accepted(
        r#"{"identity": [
            {"jwt": {"metadata_key": "jwt_payload", "claim": "sub"}},
            {"jwt": {"metadata_key": "jwt_payload", "claim": ["realm", "user"]}},
            {"certificate": {"san": "uri"}}, {"certificate": {"san": "dns"}},
            {"certificate": {"subject": true}},
            {"header": {"name": "X-User", "trusted_peers": ["10.0.0.0/8"]}}
          ]}"#,
    );
    let jwt = |claim: &[&str]| Source::Jwt {
        metadata_key: "jwt_payload".to_owned(),
        claim: strings(claim),
    };
    assert_eq!(
        config.identity,
        [
            jwt(&["sub"]),
            jwt(&["realm", "user"]),
            Source::Certificate(CertificateField::SanUri),
            Source::Certificate(CertificateField::SanDns),
            Source::Certificate(CertificateField::Subject),
            Source::Header {
                name: "x-user".to_owned(),
                trusted_peers: vec!["10.0.0.0/8".parse().unwrap()],
            },
        ]
    );
}

#[test]
fn identity_sources_are_whole() {
    refused(
        r#"{"identity": [
            {}, {"jwt": {}, "header": {}}, {"jwt": {"metadata_key": "a\u0000b", "claim": []}},
            {"certificate": {"san": "email"}}, {"certificate": {"subject": false}},
            {"certificate": {}}, {"header": {"name": ":path"}}, {"cert": {}}
          ]}"#,
        &[
            "identity[0]: found 0 of 'jwt', 'certificate' and 'header': expected one of them",
            "identity[1]: found 2 of 'jwt', 'certificate' and 'header': expected one of them",
            "identity[2].jwt.metadata_key: found 'a\\0b': expected a name without control characters",
            "identity[2].jwt.claim: found an empty list: write a value or leave it out",
            "identity[3].certificate.san: found 'email': expected 'uri' or 'dns'",
            "identity[4].certificate.subject: found false: expected true",
            "identity[5].certificate: expected one of {\"san\": \"uri\"}, {\"san\": \"dns\"} and \
             {\"subject\": true}",
            "identity[6].header.name: found ':path': expected a header name (letters, digits, - \
             and _)",
            "identity[6].header.trusted_peers: missing: list the networks of the peers that may \
             set the header, such as [\"10.0.0.0/8\"]",
            "identity[7]: found 0 of 'jwt', 'certificate' and 'header': expected one of them",
            "identity[7].cert: unknown setting: expected 'jwt', 'certificate' or 'header'",
        ],
    );
    refused(
        r#"{"identity": [{"header": {"name": "x-user", "trusted_peers": ["10.0.0.1"]}},
                         {"header": {"name": "X-USER", "trusted_peers": ["10.0.0.2"]}}]}"#,
        &["identity[1]: the same source as identity[0]: keep one of them"],
    );
}

#[test]
fn a_match_that_no_request_could_meet_is_refused() {
    let spelling = |found: &str, meant: &str| {
        format!("found '{found}': no request is compared with this spelling: write it as '{meant}'")
    };
    setting_refused(
        r#""match": {"path": ["login", "/a?b", "/%6cogin", "//x/../login", "/login;v=1", "/"],
                     "path_prefix": ["/a//", "/x/./", "/.", "/a/..", "/é", "/100%", "/%2e"]}"#,
        &[
            "match.path[0]: found 'login': expected a path that starts with /, without a query, \
             such as /login",
            "match.path[1]: found '/a?b': expected a path that starts with /, without a query, \
             such as /login",
            &format!("match.path[2]: {}", spelling("/%6cogin", "/login")),
            &format!("match.path[3]: {}", spelling("//x/../login", "/login")),
            &format!("match.path[4]: {}", spelling("/login;v=1", "/login")),
            &format!("match.path_prefix[0]: {}", spelling("/a//", "/a/")),
            &format!("match.path_prefix[1]: {}", spelling("/x/./", "/x/")),
            &format!("match.path_prefix[6]: {}", spelling("/%2e", "/.")),
        ],
    );
    setting_refused(
        r#""match": {"path_regex": ["/a(", "(?=x)", "a)|(?:b", "[a-z]{9}{99}"],
                     "methods": ["post", "P OST"], "hosts": ["a:80", "*", "*.", "a.", "*a.com"],
                     "headers": {"a b": true, "x": false, "y": [], "z": " v"},
                     "routes": [], "ignorecase": true}"#,
        &[
            "match.methods[0]: found 'post': expected a method in capitals, such as POST",
            "match.methods[1]: found 'P OST': expected a method in capitals, such as POST",
            "match.hosts[0]: found 'a:80': expected a host without a port, such as example.com or \
             *.example.com",
            "match.hosts[1]: found '*': expected a host without a port, such as example.com or \
             *.example.com",
            "match.hosts[2]: found '*.': expected a host without a port, such as example.com or \
             *.example.com",
            "match.hosts[3]: found 'a.': expected a host without a port, such as example.com or \
             *.example.com",
            "match.hosts[4]: found '*a.com': expected a host without a port, such as example.com \
             or *.example.com",
            "match.headers.a b: found 'a b': expected a header name (letters, digits, - and _)",
            "match.headers.x: found false: expected a text, a list of texts, or true for any value",
            "match.headers.y: found an empty list: write a value or leave it out",
            "match.headers.z: found ' v': expected the value of a header: visible ASCII",
            "match.routes: found an empty list: write a value or leave it out",
            "match.path_regex[0]: found '/a(': not a regular expression: found open group without \
             closing ')'",
            "match.path_regex[1]: found '(?=x)': not a regular expression: look-around is not \
             supported",
            "match.path_regex[2]: found 'a)|(?:b': not a regular expression: found closing ')' \
             without matching '('",
            "match.path_regex[3]: found '[a-z]{9}{99}': not a regular expression: compiled regex \
             exceeded size limit",
            "match.ignorecase: unknown setting: did you mean 'ignore_case'?",
        ],
    );
    setting_refused(
        r#""match": {"headers": {"X-A": "1", "x-a": "2", "x-a": "3"}}"#,
        &[
            "match.headers.x-a: given more than once: keep one of them",
            "match.headers.x-a: given more than once: keep one of them",
        ],
    );
    setting_refused(
        r#""key": "header:", "match": 5"#,
        &[
            "match: found 5: expected an object",
            "key: found 'header:': expected a name such as 'header:x-api-key'",
        ],
    );
    setting_refused(
        r#""key": "header::path""#,
        &["key: found ':path': expected a header name (letters, digits, - and _)"],
    );
}

#[test]
fn a_policy_holds_limits_bare_modes_and_resets() {
    let policy = check_policy(
        br#"{"limits": [{"name": "a", "anonymous": "unlimited"}, {"mode": "shadow", "name": "b"}],
             "resets": [{"id": 7, "key": "203.0.113.7", "limit": "login"},
                        {"id": 9007199254740992, "key": "identity:alice"},
                        {"id": 9, "key": "header:k"}, {"id": 10, "key": "2001:db8::/64"}],
             "regions": [{"id": 3, "region": "country:fr", "path": "/admin/"},
                         {"id": 4, "region": "asn:64496", "mode": "shadow", "until": 99}]}"#,
    )
    .unwrap();
    let reset = |id, key: &str, limit: Option<&str>| Reset {
        id,
        key: key.to_owned(),
        limit: limit.map(str::to_owned),
    };
    assert_eq!(
        policy,
        Policy {
            limits: vec![
                Override::Whole(Box::new(undecided("a".to_owned()))),
                Override::Mode { name: "b".to_owned(), mode: Mode::Shadow },
            ],
            resets: vec![
                reset(7, "203.0.113.7", Some("login")),
                reset(1 << 53, "identity:alice", None),
                reset(9, "header:k", None),
                reset(10, "2001:db8::/64", None),
            ],
            regions: vec![
                Rule {
                    id: 3,
                    region: Region::parse("country:FR").unwrap(),
                    path: Some("/admin".to_owned()),
                    mode: Mode::Enforce,
                    expires_at: NEVER,
                },
                Rule {
                    id: 4,
                    region: Region::Asn(64_496),
                    path: None,
                    mode: Mode::Shadow,
                    expires_at: 99,
                },
            ],
        }
    );
    assert_eq!(check_policy(b"{}").unwrap(), Policy::default());
}

#[test]
fn a_bad_policy_is_refused_as_a_whole() {
    let errors = check_policy(
        br#"{"limits": [{"name": "a", "mode": "shadow"}, {"name": "a", "anonymous": "unlimited"},
                        {"name": "b"}, {"name": "c", "mode": "off"}, 5],
             "resets": [{"id": -1, "key": "everybody"}, {"key": "identity:", "limit": "A"}],
             "reset": []}"#,
    )
    .unwrap_err();
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "limits[1].name: found 'a', the name of limits[0] too: give each limit its own",
            "limits[2].anonymous: missing: give the rate of clients whose identity is not known, \
             such as {\"requests\": 5, \"per\": \"1m\"}, or \"unlimited\"",
            "limits[3].mode: found 'off': expected 'enforce' or 'shadow'",
            "limits[4]: found 5: expected an object",
            "resets[0].id: found -1: expected a whole number from 0 to 9007199254740992",
            "resets[0].key: found 'everybody': expected an address, a CIDR, identity:<identity> or \
             header:<value>",
            "resets[1].id: missing: number the reset",
            "resets[1].key: found 'identity:': expected an address, a CIDR, identity:<identity> or \
             header:<value>",
            "resets[1].limit: found 'A': expected lower-case letters, digits, - and _",
            "reset: unknown setting: did you mean 'resets'?",
        ]
    );
    let errors = check_policy(
        br#"{"regions": [{"region": "FR"}, {"id": 0, "path": "/", "region": "country:FR"},
                         {"id": 5, "region": "asn:1", "path": 7, "mode": "off", "until": -1}]}"#,
    )
    .unwrap_err();
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "regions[0].id: missing: number the rule",
            "regions[0].region: not a region: expected country:FR or asn:64496",
            "regions[1].id: found 0: expected a whole number from 1 to 4294967294",
            "regions[1].path: '/' is the whole site: leave the path out to mean that",
            "regions[2].path: found 7: expected a text",
            "regions[2].mode: found 'off': expected 'enforce' or 'shadow'",
            "regions[2].until: found -1: expected a whole number from 0 to 4294967294",
        ]
    );
    let huge = vec![b' '; crate::limits::policy::MAX_PAYLOAD_BYTES + 1];
    assert_eq!(
        check_policy(&huge).unwrap_err()[0].to_string(),
        "configuration: found 262145 bytes: expected at most 262144"
    );
}
