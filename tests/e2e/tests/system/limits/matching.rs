//! Which requests a limit is for, and who shares a bucket.

use ipwarden_e2e::{Options, System, burst};
use serde_json::json;

use super::{admitted, admitted_of, get, limited, login};

#[tokio::test(flavor = "multi_thread")]
async fn the_default_is_five_a_minute_on_the_sensitive_paths_of_an_address() {
    let system = System::start(Options::default()).await;
    assert_eq!(admitted(&system, 12, "203.0.113.1", "/login").await, 5);
    assert_eq!(admitted(&system, 12, "203.0.113.1", "/admin/users").await, 0, "one bucket");
    assert_eq!(admitted(&system, 30, "203.0.113.1", "/").await, 30);
    assert_eq!(admitted(&system, 12, "203.0.113.2", "/admin").await, 5);
    // A network of IPv6 is one client, written in whatever way.
    assert_eq!(admitted(&system, 4, "2001:db8:1:2::1", "/login").await, 4);
    assert_eq!(admitted(&system, 4, "2001:db8:1:2:ffff:ffff:ffff:ffff", "/login").await, 1);
    assert_eq!(admitted(&system, 4, "2001:DB8:1:2:0::7", "/login").await, 0);
    assert_eq!(admitted(&system, 12, "2001:db8:1:3::1", "/login").await, 5);
    assert_eq!(admitted(&system, 4, "::ffff:203.0.113.1", "/login").await, 0, "one address");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_can_be_switched_off() {
    let system =
        System::start(Options { plugin: Some(limited(json!([]))), ..Options::default() }).await;
    assert_eq!(admitted(&system, 50, "203.0.113.1", "/login").await, 50);
}

/// Ways to write `/login` that an upstream might take for it.
const TRICKS: &[&str] = &[
    "/login",
    "/login/",
    "/login?next=/",
    "/login;jsessionid=1",
    "/login/;x",
    "//login",
    "/./login",
    "/.//login",
    "/x/../login",
    "/x/%2e%2e/login",
    "/%6Cogin",
    "/%6cogin",
    "/%6C%6F%67%69%6E",
    "/login%2Fx",
    "/login%3Bx",
    "/%2Flogin",
    "/;a/login",
    "http://site.example/login",
    "/login\\x",
    "/\\login",
];

/// None of the ways to write it is admitted to a client that has used its tokens up. (What
/// Envoy itself refuses or redirects never reaches the upstream.)
async fn no_trick_slips_past(system: &System, client: &str) {
    assert_eq!(admitted(system, 12, client, "/login").await, 3);
    let requests = TRICKS.iter().map(|target| get(client, target, &[])).collect();
    let replies = burst(system.site_port, requests).await;
    let slipped: Vec<_> = TRICKS
        .iter()
        .zip(&replies)
        .filter(|(_, reply)| !matches!(reply.status, 429 | 307 | 400))
        .map(|(target, reply)| (*target, reply.status))
        .collect();
    assert!(slipped.is_empty(), "{slipped:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_way_to_write_a_path_slips_past() {
    let system = System::start(Options {
        plugin: Some(limited(json!([login(3, 3)]))),
        ..Options::default()
    })
    .await;
    no_trick_slips_past(&system, "203.0.113.1").await;
    // As with Envoy's `prefix`, segments are of no account.
    assert_eq!(admitted(&system, 6, "203.0.113.1", "/logins").await, 0);
    assert_eq!(admitted(&system, 6, "203.0.113.1", "/log/in").await, 6, "another path");

    // Where Envoy normalises nothing, an upstream may still.
    let off = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    let system = System::start(Options {
        plugin: Some(limited(json!([login(3, 3)]))),
        replace: vec![
            off("normalize_path: true", "normalize_path: false"),
            off("merge_slashes: true", "merge_slashes: false"),
            off("UNESCAPE_AND_REDIRECT", "KEEP_UNCHANGED"),
        ],
        ..Options::default()
    })
    .await;
    no_trick_slips_past(&system, "203.0.113.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_specific_limit_counts_and_those_for_all_beside_it() {
    let minute = |requests: u32| json!({"requests": requests, "per": "1m"});
    let system = System::start(Options {
        plugin: Some(limited(json!([
            {"name": "api", "match": {"path_prefix": "/api"}, "anonymous": minute(8)},
            {"name": "export", "match": {"path": "/api/export"}, "anonymous": minute(2)},
            {"name": "numbers", "match": {"path_regex": "^/numbers/[0-9]+$"}, "anonymous": minute(3)},
            {"name": "posts", "match": {"methods": ["POST"]}, "anonymous": minute(4)},
            {"name": "shop", "match": {"hosts": ["*.shop.example"]}, "anonymous": minute(1)},
            {"name": "plan", "match": {"path": "/plan", "headers": {"x-plan": "free"}}, "anonymous": minute(2)},
            {"name": "everything", "match": {"path_prefix": "/api"}, "apply": "all", "anonymous": minute(9)},
        ]))),
        ..Options::default()
    })
    .await;
    // Refused by its own limit, a request is charged to none: `everything` still has 7.
    let client = "203.0.113.1";
    assert_eq!(admitted(&system, 30, client, "/api/export").await, 2);
    assert_eq!(admitted(&system, 30, client, "/api/other").await, 7);
    // And the other way round: `api` has one token left, and `everything` none.
    assert_eq!(admitted(&system, 5, client, "/api/other").await, 0);
    assert_eq!(admitted(&system, 30, "203.0.113.2", "/api/other").await, 8);
    assert_eq!(admitted(&system, 30, "203.0.113.2", "/api/export").await, 1);

    assert_eq!(admitted(&system, 9, "203.0.113.3", "/numbers/42").await, 3);
    assert_eq!(admitted(&system, 9, "203.0.113.3", "/numbers/x").await, 9);
    assert_eq!(admitted(&system, 9, "203.0.113.3", "/numbers/42/x").await, 9);

    let post = get("203.0.113.4", "/form", &[("content-length", "0")]).replace("GET", "POST");
    assert_eq!(admitted_of(&system, vec![post; 9]).await, 4);
    assert_eq!(admitted(&system, 9, "203.0.113.4", "/form").await, 9);

    for (n, (host, expected)) in [
        ("a.shop.example", 1),
        ("A.Shop.Example:8080", 1),
        ("shop.example", 6),
        ("ashop.example", 6),
    ]
    .into_iter()
    .enumerate()
    {
        let client = format!("203.0.113.{}", 20 + n);
        let request = get(&client, "/", &[]).replace("site.example", host);
        assert_eq!(admitted_of(&system, vec![request; 6]).await, expected, "{host}");
    }

    let plan = |value: &str| vec![get("203.0.113.5", "/plan", &[("x-plan", value)]); 6];
    assert_eq!(admitted_of(&system, plan("free")).await, 2);
    assert_eq!(admitted_of(&system, plan("pro")).await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_names_its_limits_in_its_metadata() {
    let minute = |requests: u32| json!({"requests": requests, "per": "1m"});
    let route = |name: &str, limits: &str| {
        json!({
            "name": name,
            "match": {"prefix": format!("/{name}")},
            "route": {"cluster": "upstream"},
            "metadata": {"filter_metadata": {"ipwarden": {"limits": limits}}},
        })
    };
    let system = System::start(Options {
        plugin: Some(limited(json!([
            {"name": "site", "anonymous": minute(5)},
            {"name": "strict", "apply": "route", "anonymous": minute(2)},
            {"name": "slow", "apply": "route", "anonymous": minute(3)},
            {"name": "by-name", "match": {"routes": ["named"]}, "anonymous": minute(4)},
            {"name": "each", "match": {"path_prefix": "/each"}, "key": "ip+route", "anonymous": minute(3)},
        ]))),
        site_routes: vec![
            route("strict", "strict"),
            route("both", "slow,strict"),
            route("spaced", " slow , strict "),
            route("free", "none"),
            route("lost", "no-such-limit"),
            json!({"name": "named", "match": {"prefix": "/named"}, "route": {"cluster": "upstream"}}),
            json!({"name": "each-1", "match": {"prefix": "/each/1"}, "route": {"cluster": "upstream"}}),
            json!({"name": "each-2", "match": {"prefix": "/each/2"}, "route": {"cluster": "upstream"}}),
        ],
        ..Options::default()
    })
    .await;
    for (n, (target, expected)) in [
        ("/", 5),
        ("/strict", 2),
        ("/both", 2),
        ("/spaced", 2),
        ("/free", 9),
        // A name that nobody knows takes no limit away.
        ("/lost", 5),
        ("/named", 4),
    ]
    .into_iter()
    .enumerate()
    {
        let client = format!("203.0.113.{n}");
        assert_eq!(admitted(&system, 9, &client, target).await, expected, "{target}");
    }
    for target in ["/each/1", "/each/2"] {
        assert_eq!(admitted(&system, 9, "203.0.113.100", target).await, 3, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_can_go_without_the_limits_that_match() {
    let system = System::start(Options {
        site_routes: vec![json!({
            "match": {"prefix": "/login/health"},
            "route": {"cluster": "upstream"},
            "metadata": {"filter_metadata": {"ipwarden": {"limits": "none"}}},
        })],
        ..Options::default()
    })
    .await;
    assert_eq!(admitted(&system, 9, "203.0.113.1", "/login").await, 5);
    assert_eq!(admitted(&system, 9, "203.0.113.1", "/login/health").await, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_is_a_key_under_a_ceiling_of_the_address() {
    let system = System::start(Options {
        plugin: Some(limited(json!([{
            "name": "api",
            "key": "header:x-api-key",
            "anonymous": {"requests": 3, "per": "1m"},
            "ceiling": {"requests": 7, "per": "1m"},
        }]))),
        ..Options::default()
    })
    .await;
    let with = |client: &str, key: &str| vec![get(client, "/", &[("x-api-key", key)]); 6];
    assert_eq!(admitted_of(&system, with("203.0.113.1", "a")).await, 3);
    assert_eq!(admitted_of(&system, with("203.0.113.1", "b")).await, 3);
    assert_eq!(admitted_of(&system, with("203.0.113.1", "c")).await, 1, "the ceiling");
    assert_eq!(admitted_of(&system, with("203.0.113.2", "a")).await, 0, "the same key");
    let made_up = (0..30).map(|n| get("203.0.113.3", "/", &[("x-api-key", &n.to_string())]));
    assert_eq!(admitted_of(&system, made_up.collect()).await, 7);
    assert_eq!(admitted(&system, 6, "203.0.113.4", "/").await, 3, "by address without one");
}
