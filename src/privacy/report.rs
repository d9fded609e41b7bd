//! What a proxy says of its privacy settings, so that the control plane's page for visitors
//! tells what is really done.
//!
//! The control plane reads it leniently: a later filter may say more. Keys and tokens are never
//! part of it.

use serde_json::{Value, json};

use super::KeyId;
use super::settings::Address;
use crate::config::Config;
use crate::geo::provider::Provider;

/// The settings of a proxy:
///
/// ```json
/// {"address": "pseudonym", "scheme": "pfx", "key": "03050097", "ipv4_prefix": 24,
///  "ipv6_prefix": 48, "user_agent": "full", "query": "keep", "identity": false,
///  "respect_gpc": true, "respect_dnt": false, "opt_out_cookie": "ipwarden_optout",
///  "geo": {"provider": "ipinfo", "authority": "ipinfo.io"}}
/// ```
///
/// `scheme` and `key` (the id of the key) only with pseudonyms, `geo` only where somebody is
/// asked, `opt_out_cookie` only where there is one.
#[must_use]
pub fn of(config: &Config, key: Option<KeyId>) -> Value {
    let settings = &config.privacy;
    let mut report = json!({
        "address": settings.address.as_str(),
        "ipv4_prefix": settings.ipv4_prefix,
        "ipv6_prefix": settings.ipv6_prefix,
        "user_agent": settings.user_agent.as_str(),
        "query": if settings.keep_query { "keep" } else { "drop" },
        "identity": config.records.identity,
        "respect_gpc": settings.choices.gpc,
        "respect_dnt": settings.choices.dnt,
    });
    let Value::Object(members) = &mut report else { return report };
    if let Address::Pseudonym { scheme, .. } = &settings.address {
        members.insert("scheme".to_owned(), json!(scheme.as_str()));
        if let Some(key) = key {
            members.insert("key".to_owned(), json!(key.to_string()));
        }
    }
    if let Some(cookie) = &settings.choices.cookie {
        members.insert("opt_out_cookie".to_owned(), json!(cookie));
    }
    if let Some(geo) = &config.geo {
        let provider = match &geo.provider {
            Provider::Ipwarden => "ipwarden",
            Provider::Ipinfo => "ipinfo",
            Provider::Generic { .. } => "generic",
        };
        members.insert("geo".to_owned(), json!({"provider": provider, "authority": geo.authority}));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::privacy::{Key, Pseudonymizer, Scheme};

    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const KEY: &str = "0123456789abcdeffedcba98765432101032547698badcfeefcdab8967452301";

    #[test]
    fn the_defaults_are_told() {
        assert_eq!(
            of(&config::check(b"").unwrap(), None),
            json!({
                "address": "full", "ipv4_prefix": 24, "ipv6_prefix": 48, "user_agent": "full",
                "query": "keep", "identity": false, "respect_gpc": true, "respect_dnt": false,
                "opt_out_cookie": "ipwarden_optout",
            })
        );
    }

    #[test]
    fn keys_and_tokens_are_not() {
        let text = format!(
            r#"{{"privacy": {{"address": "pseudonym", "key": "{KEY}", "opt_out_cookie": false}},
                "geo": {{"cluster": "geo", "provider": "ipinfo", "token": "secret"}}}}"#
        );
        let id = Pseudonymizer::of(&Key::from_hex(KEY).unwrap(), Scheme::Prefix).key_id();
        let told = of(&config::check(text.as_bytes()).unwrap(), Some(id));
        assert_eq!(told["scheme"], "pfx");
        assert_eq!(told["key"], "03050097");
        assert_eq!(told["geo"], json!({"provider": "ipinfo", "authority": "ipinfo.io"}));
        assert_eq!(told.get("opt_out_cookie"), None);
        let told = told.to_string();
        assert!(!told.contains(KEY) && !told.contains("secret"), "{told}");
    }
}
