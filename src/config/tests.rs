// Under Node every `#[test]` below is wasm-bindgen's: one body, both targets.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::client_ip::ForwardingHeader;

/// The errors of a configuration, one line each.
#[track_caller]
pub(super) fn refused(json: &str, expected: &[&str]) {
    let errors = check(json.as_bytes()).expect_err(json);
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(lines, expected, "{json}");
}

#[track_caller]
pub(super) fn accepted(json: &str) -> Config {
    check(json.as_bytes()).expect(json)
}

#[test]
fn nothing_is_the_default_configuration() {
    for empty in ["", " \n", "{}", r#"{"records":{},"decisions":{}}"#] {
        assert_eq!(accepted(empty), Config::default(), "{empty}");
    }
    let config = Config::default();
    assert_eq!(config.client_ip, Source::Envoy);
    assert_eq!(config.decisions.on_start, OnStart::Open);
    assert_eq!(config.decisions.refuse_status, 403);
    assert_eq!(config.records.max_batch, 500);
    assert_eq!(config.records.max_age, Duration::from_secs(1));
    assert_eq!(config.records.buffer_bytes, 4_194_304);
    assert_eq!(config.records.sample, 1);
    assert_eq!(config.records.sensitive_paths, ["/admin", "/login"]);
}

#[test]
fn every_setting_is_read() {
    let config = accepted(
        r#"{
          "proxy": "edge-1",
          "control_plane": {"cluster": "ipwarden", "authority": "warden.internal:8088", "token": "ipw_abc"},
          "client_ip": {"source": "trusted_proxies", "proxies": ["10.0.0.0/8", "::ffff:192.0.2.1"],
                        "header": "forwarded", "max_hops": 3},
          "decisions": {"on_start": "closed", "refuse_status": 451, "contact": "mailto:help@example.com"},
          "identity": [], "limits": [], "limits_table": {"keys": 1000, "on_contention": "admit"},
          "records": {"max_batch": 5000.0, "max_age": "250ms", "buffer_bytes": 65536, "sample": 10,
                      "sensitive_paths": [], "skip_paths": ["/healthz"], "identity": true}
        }"#,
    );
    assert_eq!(
        config,
        Config {
            proxy: Some("edge-1".to_owned()),
            control_plane: Some(ControlPlane {
                cluster: "ipwarden".to_owned(),
                authority: "warden.internal:8088".to_owned(),
                token: Token::Literal("ipw_abc".to_owned()),
            }),
            client_ip: Source::TrustedProxies {
                proxies: vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.1/32".parse().unwrap()],
                header: ForwardingHeader::Forwarded,
                max_hops: 3,
            },
            decisions: Decisions {
                on_start: OnStart::Closed,
                refuse_status: 451,
                contact: Some("mailto:help@example.com".to_owned()),
            },
            identity: Vec::new(),
            limits: Vec::new(),
            geo: None,
            localize: Vec::new(),
            limits_table: LimitsTable { keys: 1_000, on_contention: OnContention::Admit },
            records: Records {
                max_batch: 5_000,
                max_age: Duration::from_millis(250),
                buffer_bytes: 65_536,
                sample: 10,
                sensitive_paths: Vec::new(),
                skip_paths: vec!["/healthz".to_owned()],
                identity: true,
            },
            privacy: Privacy::default(),
        }
    );
}

#[test]
fn what_is_left_out_of_a_section_has_its_default() {
    let config = accepted(
        r#"{"control_plane":{"cluster":"ipwarden","token_env":"IPWARDEN_TOKEN"},
            "client_ip":{"source":"trusted_proxies","proxies":["10.0.0.0/8"]}}"#,
    );
    let control_plane = config.control_plane.unwrap();
    assert_eq!(control_plane.authority, "ipwarden");
    assert_eq!(control_plane.token, Token::Env("IPWARDEN_TOKEN".to_owned()));
    assert_eq!(
        config.client_ip,
        Source::TrustedProxies {
            proxies: vec!["10.0.0.0/8".parse().unwrap()],
            header: ForwardingHeader::XForwardedFor,
            max_hops: 32,
        }
    );
    let config = accepted(
        r#"{"client_ip":{"source":"header","name":"CF-Connecting-IP","trusted_peers":["10.0.0.1"]}}"#,
    );
    assert_eq!(config.client_ip.header_name(), Some("cf-connecting-ip"));
}

#[test]
fn all_errors_are_found_at_once_with_their_places() {
    refused(
        r#"{"records": {"max_batch": 0, "max_age": 5, "sensitive_path": []},
            "decisions": {"on_start": "opened", "refuse_status": 200},
            "client_ip": {"source": "trusted_proxies", "proxies": ["10.0.0.0/33", 7]},
            "control_plane": {"cluster": "", "token": "a b"}}"#,
        &[
            "control_plane.cluster: found an empty text: write a value or leave it out",
            "control_plane.token: found a text that is no token: expected 1 to 1024 visible ASCII \
             characters without spaces, such as ipw_…",
            "client_ip.proxies[0]: prefix length '/33' is out of range: expected /0 to /32",
            "client_ip.proxies[1]: found 7: expected a text",
            "decisions.on_start: found 'opened': expected 'open' or 'closed'; did you mean 'open'?",
            "decisions.refuse_status: found 200: expected a whole number from 400 to 599",
            "records.max_batch: found 0: expected a whole number from 1 to 5000",
            "records.max_age: found 5: expected a duration in quotes from 100ms to 1m, such as \"1s\"",
            "records.sensitive_path: unknown setting: did you mean 'sensitive_paths'?",
        ],
    );
}

#[test]
fn unknown_and_repeated_settings_are_errors() {
    refused(
        r#"{"recrods": {}, "x": 1}"#,
        &[
            "recrods: unknown setting: did you mean 'records'?",
            "x: unknown setting: expected 'proxy', 'control_plane', 'client_ip', 'decisions', \
             'identity', 'limits', 'limits_table', 'geo', 'localize', 'records' or 'privacy'",
        ],
    );
    refused(
        r#"{"proxy": "a", "proxy": "b", "records": {"sample": 1, "sample": 2}}"#,
        &[
            "records.sample: given more than once: keep one of them",
            "proxy: given more than once: keep one of them",
        ],
    );
    refused(
        r#"{"client_ip": {"source": "envoy", "proxies": []}}"#,
        &["client_ip.proxies: unknown setting: expected 'source'"],
    );
}

#[test]
fn what_is_no_json_object_is_refused() {
    refused("[]", &["configuration: found an empty list: expected an object"]);
    refused("{", &["configuration: not JSON: EOF while parsing an object at line 1 column 1"]);
    refused(
        "{\"proxy\": \"\u{7}\"}",
        &["configuration: not JSON: control character (\\u0000-\\u001F) found while parsing a \
           string at line 1 column 12"],
    );
    refused(r#"{"records": 5}"#, &["records: found 5: expected an object"]);
    let huge = vec![b' '; MAX_CONFIG_BYTES + 1];
    assert_eq!(
        check(&huge).unwrap_err()[0].to_string(),
        "configuration: found 1048577 bytes: expected at most 1048576"
    );
    assert!(check(&[b'['; 100_000]).is_err(), "nesting has a bound");
    assert!(check(b"{\"proxy\": \"\xff\"}").is_err());
}

#[test]
fn a_token_is_given_once_and_never_shown() {
    refused(
        r#"{"control_plane": {"cluster": "c"}}"#,
        &[
            "control_plane: found neither 'token' nor 'token_env': give a token of role 'proxy', or \
           the name of the environment variable that holds it",
        ],
    );
    refused(
        r#"{"control_plane": {"cluster": "c", "token": "t", "token_env": "T"}}"#,
        &["control_plane: found both 'token' and 'token_env': keep one of them"],
    );
    refused(
        r#"{"control_plane": {"token_env": "$TOKEN"}}"#,
        &[
            "control_plane.cluster: missing: name the Envoy cluster that leads to the control plane",
            "control_plane.token_env: found '$TOKEN': expected the name of an environment variable \
             (letters, digits and _)",
        ],
    );
    let config = accepted(r#"{"control_plane": {"cluster": "c", "token": "ipw_secret"}}"#);
    assert!(!format!("{config:?}").contains("secret"));
    let errors = check(br#"{"control_plane": {"cluster": "c", "token": "sec ret"}}"#).unwrap_err();
    assert!(!errors[0].to_string().contains("ret"), "{}", errors[0]);
}

#[test]
fn the_client_address_needs_a_source_and_its_networks() {
    refused(
        r#"{"client_ip": {}}"#,
        &["client_ip.source: missing: expected 'envoy', 'trusted_proxies' or 'header'"],
    );
    refused(
        r#"{"client_ip": {"source": "xff"}}"#,
        &["client_ip.source: found 'xff': expected 'envoy', 'trusted_proxies' or 'header'"],
    );
    refused(
        r#"{"client_ip": {"source": "trusted_proxies", "header": "x-real-ip", "max_hops": 33}}"#,
        &[
            "client_ip.proxies: missing: list the networks of the proxies in front, such as \
             [\"10.0.0.0/8\"]",
            "client_ip.header: found 'x-real-ip': expected 'x-forwarded-for' or 'forwarded'",
            "client_ip.max_hops: found 33: expected a whole number from 1 to 32",
        ],
    );
    refused(
        r#"{"client_ip": {"source": "header", "name": ":authority", "trusted_peers": []}}"#,
        &[
            "client_ip.name: found ':authority': expected a header name (letters, digits, - and _)",
            "client_ip.trusted_peers: found an empty list: expected at least one address or CIDR",
        ],
    );
}

#[test]
fn a_contact_is_a_link_that_can_do_no_harm() {
    for contact in ["https://example.com/help?a=1&b=2", "mailto:help@example.com"] {
        let config = accepted(&format!(r#"{{"decisions": {{"contact": "{contact}"}}}}"#));
        assert_eq!(config.decisions.contact.as_deref(), Some(contact));
    }
    for contact in ["javascript:alert(1)", "https://", "http://a", "https://a b", "https://a<", "x"]
    {
        refused(
            &format!(r#"{{"decisions": {{"contact": "{contact}"}}}}"#),
            &[&format!(
                "decisions.contact: found '{contact}': expected a link such as \
                 https://example.com/help or mailto:help@example.com"
            )],
        );
    }
}

#[test]
fn paths_are_prefixes() {
    refused(
        r#"{"records": {"skip_paths": ["healthz", "/a?b"], "sensitive_paths": "/admin"}}"#,
        &[
            "records.sensitive_paths: found '/admin': expected a list",
            "records.skip_paths[0]: found 'healthz': expected a path prefix that starts with /, \
             without a query, such as /admin",
            "records.skip_paths[1]: found '/a?b': expected a path prefix that starts with /, \
             without a query, such as /admin",
        ],
    );
}

#[test]
fn whole_numbers_are_whole() {
    for found in ["1.5", "-1", "1e9", "10001"] {
        assert!(check(format!(r#"{{"records": {{"sample": {found}}}}}"#).as_bytes()).is_err());
    }
    refused(
        r#"{"records": {"sample": null, "buffer_bytes": "4MiB"}}"#,
        &[
            "records.buffer_bytes: found '4MiB': expected a whole number from 65536 to 268435456",
            "records.sample: found null: expected a whole number from 1 to 10000",
        ],
    );
}

#[cfg(not(target_family = "wasm"))]
mod laws {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn junk_is_refused_not_obeyed(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = check(&bytes);
        }

        #[test]
        fn a_broken_value_anywhere_is_reported_at_its_place(
            place in prop::sample::select(vec![
                ("proxy", r#"{"proxy": VALUE}"#),
                ("records.sample", r#"{"records": {"sample": VALUE}}"#),
                ("records.skip_paths[1]", r#"{"records": {"skip_paths": ["/a", VALUE]}}"#),
                ("decisions.contact", r#"{"decisions": {"contact": VALUE}}"#),
                ("control_plane.token", r#"{"control_plane": {"cluster": "c", "token": VALUE}}"#),
            ]),
            value in prop::sample::select(vec!["null", "true", "-1", "{}", "[]", "\"\"", "\"\\u0000\""]),
        ) {
            let errors = check(place.1.replace("VALUE", value).as_bytes()).unwrap_err();
            prop_assert_eq!(errors.len(), 1);
            prop_assert_eq!(errors[0].place.as_str(), place.0);
        }
    }
}

#[cfg(not(target_family = "wasm"))]
#[test]
fn the_examples_that_users_copy_are_valid() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("```json\n").expect("an example");
    let (example, _) = rest.split_once("```").expect("its end");
    accepted(example);
    let bootstrap = include_str!("../../envoy/envoy.yaml");
    let (_, rest) = bootstrap.split_once("value: |\n").expect("the plugin's configuration");
    let (example, _) = rest.split_once("- name:").expect("the next filter");
    accepted(example);
}
