// Under Node every `#[test]` below is wasm-bindgen's: one body, both targets.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::super::Token;
use super::super::tests::{accepted, refused};
use super::*;

#[test]
fn the_control_plane_is_the_provider_that_is_known_already() {
    let config = accepted(
        r#"{"control_plane": {"cluster": "cp", "authority": "cp.internal", "token": "t"}, "geo": {}}"#,
    );
    let geo = config.geo.unwrap();
    assert_eq!((geo.cluster.as_str(), geo.authority.as_str()), ("cp", "cp.internal"));
    assert_eq!(geo.token, Some(Token::Literal("t".to_owned())));
    assert_eq!(geo.provider, Provider::Ipwarden);
    assert_eq!(geo.cache, Duration::from_secs(86_400));
    assert_eq!(geo.negative_cache, Duration::from_secs(600));
    assert_eq!((geo.timeout, geo.wait), (Duration::from_secs(2), Duration::ZERO));
    assert_eq!(geo.quota_per_day, None);
    let names = ["x-ipwarden-country", "x-ipwarden-city", "x-ipwarden-asn"];
    assert_eq!(geo.headers.each_ref().map(|name| name.as_deref().unwrap()), names);
    // Its token goes to nobody else.
    let config = accepted(
        r#"{"control_plane": {"cluster": "cp", "token": "t"},
            "geo": {"cluster": "ipinfo", "provider": "ipinfo"}}"#,
    );
    let geo = config.geo.unwrap();
    assert_eq!((geo.token, geo.authority.as_str()), (None, "ipinfo.io"));
}

#[test]
fn every_setting_is_read() {
    let config = accepted(
        r#"{"geo": {"cluster": "geo", "authority": "api.ipgeolocation.io", "provider": "generic",
             "token_env": "GEO_TOKEN", "path": "/ipgeo?apiKey={token}&ip={ip}",
             "fields": {"country": "/country_code2", "city": "/city", "asn": "/asn", "network": "/n"},
             "cache": "2d", "negative_cache": "5m", "timeout": "500ms", "quota_per_day": 1000,
             "wait_ms": 200, "headers": {"country": "X-Country", "city": false}},
            "localize": [{"name": "french", "countries": "fr", "languages": ["FR"],
             "match": {"path": "/"}, "redirect": "https://FR.example.com:8443{path}",
             "stay": {"cookie": "stay=yes", "query": "here=1"}, "mode": "shadow"}]}"#,
    );
    let geo = config.geo.unwrap();
    let pointer = |text: &str| Some(text.to_owned());
    let fields = Fields {
        country: pointer("/country_code2"),
        city: pointer("/city"),
        asn: pointer("/asn"),
        network: pointer("/n"),
    };
    let path = "/ipgeo?apiKey={token}&ip={ip}".to_owned();
    assert_eq!(geo.provider, Provider::Generic { path, fields });
    assert_eq!(geo.token, Some(Token::Env("GEO_TOKEN".to_owned())));
    assert_eq!(geo.quota_per_day, Some(1_000));
    assert_eq!(geo.wait, Duration::from_millis(200));
    assert_eq!(geo.headers, [pointer("x-country"), None, pointer("x-ipwarden-asn")]);
    let [rule] = &config.localize[..] else { panic!("one rule") };
    assert_eq!((rule.name.as_str(), rule.mode), ("french", Mode::Shadow));
    assert_eq!(rule.countries, [Country::new("FR").unwrap()]);
    assert_eq!(
        (rule.host.as_str(), &rule.languages[..]),
        ("fr.example.com:8443", &["fr".to_owned()][..])
    );
    assert_eq!((rule.stay_cookie.as_str(), rule.stay_query.as_str()), ("stay=yes", "here=1"));
}

#[test]
fn all_errors_are_found_at_once_with_their_places() {
    refused(
        r#"{"geo": {"provider": "generic", "path": "/x", "fields": {"country": "country"},
                    "cache": "1s", "wait_ms": 5000, "quota_per_day": 0,
                    "headers": {"country": "a b", "city": "x", "asn": "x"}, "tokn": "t"},
            "localize": [{"redirect": "javascript:alert(1)"},
                         {"countries": ["FRA"], "redirect": "https://a.example/x{path}",
                          "stay": {"cookie": "stay"}},
                         {"name": "localize-0", "languages": "fr-FR", "redirect": "https://a.example"}]}"#,
        &[
            "geo.cluster: missing: name the Envoy cluster that leads to the provider",
            "geo.path: found '/x': expected a path that starts with / and contains {ip}",
            "geo.fields.country: found 'country': expected a JSON pointer (RFC 6901), such as /location/country",
            "geo.cache: found '1s': expected a duration in quotes from 1m to 4w, such as \"1s\"",
            "geo.quota_per_day: found 0: expected a whole number from 1 to 4294967295",
            "geo.wait_ms: found 5000: expected a whole number from 0 to 2000",
            "geo.headers.country: found 'a b': expected a header name (letters, digits, - and _)",
            "geo.headers: found one name twice: give each header its own",
            "geo.tokn: unknown setting: did you mean 'token'?",
            "localize[0].countries: missing: list the countries that the rule is for, such as [\"FR\", \"BE\"]",
            "localize[0].redirect: found 'javascript:alert(1)': expected a URL such as https://fr.example.com/, or https://fr.example.com{path} to keep path and query",
            "localize[1].countries[0]: found 'FRA': expected a country's code of two letters, such as FR",
            "localize[1].redirect: found 'https://a.example/x{path}': expected a URL such as https://fr.example.com/, or https://fr.example.com{path} to keep path and query",
            "localize[1].stay.cookie: found 'stay': expected a name and a value, such as stay=1",
            "localize[2].languages: found 'fr-FR': expected a language without a region, such as fr",
        ],
    );
    refused(
        r#"{"geo": {"cluster": "c", "provider": "ipinfo", "path": "/{ip}", "token": "a", "token_env": "B"}}"#,
        &[
            "geo: found both 'token' and 'token_env': keep one of them",
            "geo.path: only provider 'generic' has this setting: remove it",
        ],
    );
}

#[test]
fn a_rule_about_places_needs_somebody_who_knows_them() {
    refused(
        r#"{"localize": [{"countries": ["FR"], "redirect": "https://fr.example.com/"}],
            "limits": [{"name": "a", "match": {"countries": "FR"}, "anonymous": "unlimited"},
                       {"name": "b", "match": {"asn": [64500]}, "anonymous": "unlimited"}]}"#,
        &[
            "limits[0].match: found a condition on places: the section 'geo' says who knows them",
            "limits[1].match: found a condition on places: the section 'geo' says who knows them",
            "localize: found redirects by place: the section 'geo' says who knows them",
        ],
    );
}
