//! Who is authenticated is a verified fact: Envoy's own filters say it, never the client.

use ipwarden_e2e::{Authority, Issuer, Options, System};
use serde_json::{Value, json};

use super::{admitted, admitted_of, admitted_with, bearer, get, limited, login};

/// A system whose site verifies the issuer's tokens and knows clients by their subject.
async fn with_tokens(issuer: &Issuer, limits: Value) -> System {
    let mut plugin = limited(limits);
    plugin["identity"] = json!([{"jwt": {"metadata_key": "jwt_payload", "claim": "sub"}}]);
    System::start(Options {
        plugin: Some(plugin),
        filters_before: vec![issuer.filter()],
        ..Options::default()
    })
    .await
}

/// One request with each of these tokens, all from one address.
fn one_each(client: &str, tokens: impl Iterator<Item = String>) -> Vec<String> {
    tokens.map(|token| get(client, "/login", &[("authorization", &bearer(&token))])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_verified_token_is_authenticated() {
    let issuer = Issuer::new();
    let system = with_tokens(&issuer, json!([login(5, 10)])).await;
    let alice = json!({"sub": "alice"});
    assert_eq!(admitted_with(&system, 30, "203.0.113.1", &issuer.token(&alice)).await, 10);
    assert_eq!(admitted(&system, 30, "203.0.113.2", "/login").await, 5);

    let good = issuer.token(&alice);
    let (head, signature) = good.rsplit_once('.').expect("a signature");
    let (header, _) = head.split_once('.').expect("a payload");
    let forged = issuer.token(&json!({"sub": "mallory"}));
    let forged = forged.split('.').nth(1).expect("a payload");
    for (n, (what, token)) in [
        ("another issuer's key", Issuer::new().token(&alice)),
        ("another issuer's name", issuer.token(&json!({"sub": "alice", "iss": "elsewhere"}))),
        ("expired", issuer.token(&json!({"sub": "alice", "exp": 1_600_000_000}))),
        ("not yet valid", issuer.token(&json!({"sub": "alice", "nbf": 4_000_000_000_u64}))),
        ("alg none", issuer.unsigned_token(&alice)),
        ("another payload under a good signature", format!("{header}.{forged}.{signature}")),
        ("no signature", head.to_owned()),
        ("made up", "abc.def.ghi".to_owned()),
        ("no token at all", "letmein".to_owned()),
        ("without a subject", issuer.token(&json!({}))),
    ]
    .into_iter()
    .enumerate()
    {
        let client = format!("203.0.113.{}", 10 + n);
        assert_eq!(admitted_with(&system, 12, &client, &token).await, 5, "{what}");
    }

    // A token in each request does not mint a bucket each.
    let random = (0..50).map(|n| Issuer::new().token(&json!({"sub": format!("u{n}")})));
    assert_eq!(admitted_of(&system, one_each("203.0.113.100", random)).await, 5);
    let made_up = (0..50).map(|n| format!("{n}.{n}.{n}"));
    assert_eq!(admitted_of(&system, one_each("203.0.113.101", made_up)).await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_headers_and_metadata_that_a_client_can_write_are_no_identity() {
    let issuer = Issuer::new();
    let system = with_tokens(&issuer, json!([login(5, 10)])).await;
    for (n, header) in
        ["jwt_payload", "x-jwt-payload", "x-user", "x-forwarded-user", "sec-istio-auth-userinfo"]
            .into_iter()
            .enumerate()
    {
        // A name with an underscore is refused by the demo's connection manager already.
        let header = header.replace('_', "-");
        let client = format!("203.0.113.{n}");
        let request = get(&client, "/login", &[(&header, r#"{"sub":"alice"}"#)]);
        assert_eq!(admitted_of(&system, vec![request; 12]).await, 5, "{header}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_office_is_counted_by_person_under_a_ceiling_of_its_address() {
    let issuer = Issuer::new();
    let mut by_person = login(5, 10);
    by_person["key"] = json!("identity");
    let mut tight = by_person.clone();
    tight["name"] = json!("tight");
    tight["match"] = json!({"path_prefix": "/login/tight"});
    tight["ceiling"] = json!({"requests": 20, "per": "1m"});
    let system = with_tokens(&issuer, json!([by_person, tight])).await;
    let token = |name: &str| issuer.token(&json!({"sub": name}));

    let office = "203.0.113.1";
    assert_eq!(admitted_with(&system, 15, office, &token("alice")).await, 10);
    assert_eq!(admitted_with(&system, 15, office, &token("bob")).await, 10);
    assert_eq!(admitted(&system, 15, office, "/login").await, 5, "anonymous: by address");
    // Whoever is counted by name is so wherever they are.
    assert_eq!(admitted_with(&system, 15, "203.0.113.2", &token("alice")).await, 0);

    // Tokens are cheap for who can have many: the address has a ceiling, 10 times the rate
    // unless told otherwise.
    let subjects = |count: u32| (0..count).map(|n| token(&format!("subject-{n}")));
    assert_eq!(admitted_of(&system, one_each("203.0.113.3", subjects(150))).await, 100);
    let tight = subjects(50)
        .map(|token| get("203.0.113.4", "/login/tight", &[("authorization", &bearer(&token))]))
        .collect();
    assert_eq!(admitted_of(&system, tight).await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_read_from_the_verified_token_alone() {
    let issuer = Issuer::new();
    let mut tiered = login(3, 4);
    tiered["tiers"] = json!({
        "claim": "plan",
        "free": {"requests": 2, "per": "1m"},
        "pro": {"requests": 7, "per": "1m"},
        "staff": "unlimited",
    });
    let system = with_tokens(&issuer, json!([tiered])).await;
    for (n, (plan, expected)) in [
        (json!("free"), 2),
        (json!("pro"), 7),
        (json!("staff"), 12),
        (json!("gold"), 4),
        (json!(null), 4),
        (json!(["pro"]), 4),
    ]
    .into_iter()
    .enumerate()
    {
        let token = issuer.token(&json!({"sub": format!("user-{n}"), "plan": plan}));
        let client = format!("203.0.113.{n}");
        assert_eq!(admitted_with(&system, 12, &client, &token).await, expected, "{plan}");
    }
    let forged = Issuer::new().token(&json!({"sub": "mallory", "plan": "staff"}));
    assert_eq!(admitted_with(&system, 12, "203.0.113.100", &forged).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn exempt_are_addresses_and_verified_identities() {
    let issuer = Issuer::new();
    let mut exempting = login(3, 4);
    exempting["exempt"] =
        json!({"addresses": ["198.51.100.0/24", "2001:db8::/32"], "identities": ["monitor"]});
    let system = with_tokens(&issuer, json!([exempting])).await;
    assert_eq!(admitted(&system, 12, "198.51.100.7", "/login").await, 12);
    assert_eq!(admitted(&system, 12, "::ffff:198.51.100.7", "/login").await, 12);
    assert_eq!(admitted(&system, 12, "2001:db8::7", "/login").await, 12);
    assert_eq!(admitted(&system, 12, "198.51.101.7", "/login").await, 3);
    let monitor = json!({"sub": "monitor"});
    assert_eq!(admitted_with(&system, 12, "203.0.113.1", &issuer.token(&monitor)).await, 12);
    let forged = Issuer::new().token(&monitor);
    assert_eq!(admitted_with(&system, 12, "203.0.113.2", &forged).await, 3);
    let bob = issuer.token(&json!({"sub": "bob"}));
    assert_eq!(admitted_with(&system, 12, "203.0.113.3", &bob).await, 4);
}

/// A route of the upstream that says which `x-user` it was sent.
fn echo_user() -> Value {
    json!({
        "match": {"path": "/login/echo"},
        "direct_response": {"status": 200, "body": {"inline_string": "echo\n"}},
        "response_headers_to_add": [
            {"header": {"key": "x-seen-user", "value": "%REQ(x-user)%"}, "keep_empty_value": true},
        ],
    })
}

/// A system that believes the header `x-user` of these peers. No hop is trusted: the peer is
/// the test itself.
async fn with_trusted_header(peers: Value) -> System {
    let mut by_user = login(3, 6);
    by_user["key"] = json!("identity");
    let mut plugin = limited(json!([by_user]));
    plugin["identity"] = json!([{"header": {"name": "x-user", "trusted_peers": peers}}]);
    System::start(Options {
        plugin: Some(plugin),
        upstream_routes: vec![echo_user()],
        replace: vec![(
            "xff_num_trusted_hops: 1".to_owned(),
            "xff_num_trusted_hops: 0\n          skip_xff_append: true".to_owned(),
        )],
        ..Options::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_peers_header_is_an_identity() {
    let system = with_trusted_header(json!(["127.0.0.0/8"])).await;
    for user in ["alice", "bob"] {
        let request = get("", "/login/echo", &[("x-user", user)]);
        assert_eq!(admitted_of(&system, vec![request.clone(); 12]).await, 6, "{user}");
    }
    let reply = system.request("", "/login/echo", &[("x-user", "carol")]).await;
    assert_eq!(reply.header("x-seen-user"), Some("carol"));
    assert_eq!(admitted(&system, 12, "", "/login").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_elses_header_is_no_identity_and_does_not_reach_the_upstream() {
    let system = with_trusted_header(json!(["10.0.0.0/8"])).await;
    for header in ["x-user", "X-User"] {
        let reply = system.request("", "/login/echo", &[(header, "alice"), (header, "bob")]).await;
        assert_eq!(reply.status, 200);
        assert!(matches!(reply.header("x-seen-user"), None | Some("" | "-")), "{reply:?}");
    }
    let users = (0..12).map(|n| get("", "/login", &[("x-user", &format!("user-{n}"))]));
    assert_eq!(admitted_of(&system, users.collect()).await, 1, "two were taken before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validated_client_certificate_is_an_identity() {
    let authority = Authority::new();
    let mut by_workload = login(3, 6);
    by_workload["key"] = json!("identity");
    let mut plugin = limited(json!([by_workload]));
    plugin["identity"] = json!([{"certificate": {"san": "uri"}}]);
    let system = System::start(Options {
        plugin: Some(plugin),
        site_tls: Some(authority.transport_socket()),
        ..Options::default()
    })
    .await;
    for (uri, expected) in [
        (Some("spiffe://example.org/ns/a/sa/web"), 6),
        (Some("spiffe://example.org/ns/b/sa/batch"), 6),
        (None, 3),
    ] {
        let mut statuses = Vec::new();
        for _ in 0..10 {
            let request = get("203.0.113.7", "/login", &[]);
            statuses.push(authority.request(system.site_port, uri, &request).await.status);
        }
        assert_eq!(
            statuses.iter().filter(|status| **status == 200).count(),
            expected,
            "{uri:?}: {statuses:?}"
        );
    }
}
