//! The section `privacy`. No message of it repeats a key.

use super::json::Json;
use super::reader::{Errors, Field, Section};
use super::sections::{MAX_NAME_BYTES, checked};
use crate::privacy::settings::{Address, KEY_VARIABLE, KeySource, Settings, UserAgent};
use crate::privacy::{AddressForm, Key, Scheme};

/// One IPv4 address more and nothing would be cut that tells people apart.
const MAX_IPV4_PREFIX: u32 = 30;
/// A customer has a /64 or more.
const MAX_IPV6_PREFIX: u32 = 60;
/// Longest name of the cookie by which visitors opt out.
const MAX_COOKIE_BYTES: usize = 64;

pub(super) fn privacy(field: &Field<'_>, errors: &mut Errors) -> Settings {
    let mut settings = Settings::default();
    let Some(mut section) = field.section(errors) else { return settings };
    let forms = [
        ("full", AddressForm::Full),
        ("truncate", AddressForm::Truncated),
        ("pseudonym", AddressForm::Pseudonym),
    ];
    let form = section.take("address").map(|field| field.choice(&forms, errors));
    if let Some(address) = address(&mut section, form, errors) {
        settings.address = address;
    }
    let mut prefix = |name: &'static str, most: u32, default: u8, errors: &mut Errors| {
        let found = section.take(name).and_then(|field| field.whole(0..=most, errors));
        found.and_then(|bits| u8::try_from(bits).ok()).unwrap_or(default)
    };
    settings.ipv4_prefix = prefix("ipv4_prefix", MAX_IPV4_PREFIX, settings.ipv4_prefix, errors);
    settings.ipv6_prefix = prefix("ipv6_prefix", MAX_IPV6_PREFIX, settings.ipv6_prefix, errors);
    if let Some(field) = section.take("user_agent") {
        let choices = [UserAgent::Full, UserAgent::Family, UserAgent::None];
        let choices = choices.map(|choice| (choice.as_str(), choice));
        settings.user_agent = field.choice(&choices, errors).unwrap_or(settings.user_agent);
    }
    if let Some(field) = section.take("query") {
        let choices = [("keep", true), ("drop", false)];
        settings.keep_query = field.choice(&choices, errors).unwrap_or(settings.keep_query);
    }
    let choices = &mut settings.choices;
    for (name, choice) in [("respect_gpc", &mut choices.gpc), ("respect_dnt", &mut choices.dnt)] {
        if let Some(field) = section.take(name) {
            *choice = field.boolean(errors).unwrap_or(*choice);
        }
    }
    if let Some(field) = section.take("opt_out_cookie") {
        choices.cookie = cookie(&field, errors);
    }
    section.finish(errors);
    settings
}

/// `form`: `None` where nothing is said, `Some(None)` where what is said is wrong.
fn address(
    section: &mut Section<'_>,
    form: Option<Option<AddressForm>>,
    errors: &mut Errors,
) -> Option<Address> {
    let (scheme, key, variable) =
        (section.take("scheme"), section.take("key"), section.take("key_env"));
    if !matches!(form, Some(None | Some(AddressForm::Pseudonym))) {
        for field in [&scheme, &key, &variable].into_iter().flatten() {
            errors.add(
                &field.place,
                "nothing uses it: set privacy.address to \"pseudonym\" or remove it",
            );
        }
    }
    let choices = Scheme::ALL.map(|scheme| (scheme.as_str(), scheme));
    let scheme = match scheme {
        Some(field) => field.choice(&choices, errors),
        None => Some(Scheme::default()),
    };
    let key = match (key, variable) {
        (Some(_), Some(_)) => {
            errors.add(section.place(), "found both 'key' and 'key_env': keep one of them");
            None
        }
        (Some(field), None) => given(&field, errors).map(KeySource::Given),
        (None, Some(field)) => {
            let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            let expected = "the name of an environment variable (letters, digits and _)";
            field
                .text(MAX_NAME_BYTES, errors)
                .and_then(|name| checked(name, word, &field, expected, errors))
                .map(KeySource::Env)
        }
        (None, None) => Some(KeySource::Env(KEY_VARIABLE.to_owned())),
    };
    match form?? {
        AddressForm::Full => Some(Address::Full),
        AddressForm::Truncated => Some(Address::Truncate),
        AddressForm::Pseudonym => Some(Address::Pseudonym { scheme: scheme?, key: key? }),
    }
}

fn given(field: &Field<'_>, errors: &mut Errors) -> Option<Key> {
    let Json::Text(text) = field.value else {
        let found = field.value.kind();
        errors
            .add(&field.place, format!("found {found}: expected 64 hexadecimal digits in quotes"));
        return None;
    };
    Key::from_hex(text).map_err(|error| errors.add(&field.place, error.to_string())).ok()
}

/// The name of a cookie, or `false` where none opts out.
fn cookie(field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    if let Json::Bool(false) = field.value {
        return None;
    }
    // A token of RFC 9110 without what a page or a header would have to escape.
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let expected = "the name of a cookie (letters, digits, '-', '_' and '.'), or false for none";
    checked(field.text(MAX_COOKIE_BYTES, errors)?, word, field, expected, errors)
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config;
    use crate::privacy::settings::Choices;

    const KEY: &str = "0123456789abcdeffedcba98765432101032547698badcfeefcdab8967452301";

    fn read(section: &str) -> Result<Settings, Vec<String>> {
        let config = format!("{{\"privacy\": {section}}}");
        config::check(config.as_bytes())
            .map(|config| config.privacy)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[track_caller]
    fn refused(section: &str, expected: &[&str]) {
        assert_eq!(read(section).unwrap_err(), expected);
    }

    #[test]
    fn nothing_said_is_the_default_which_respects_gpc() {
        assert_eq!(read("{}"), Ok(Settings::default()));
        let choices = Settings::default().choices;
        assert_eq!((choices.gpc, choices.dnt), (true, false));
        assert_eq!(choices.cookie.as_deref(), Some("ipwarden_optout"));
    }

    #[test]
    fn everything_can_be_said() {
        let text = format!(
            r#"{{"address": "pseudonym", "scheme": "deterministic", "key": "{KEY}",
                "ipv4_prefix": 16, "ipv6_prefix": 32, "user_agent": "family", "query": "drop",
                "respect_gpc": false, "respect_dnt": true, "opt_out_cookie": "no-stats"}}"#
        );
        let key = KeySource::Given(Key::from_hex(KEY).unwrap());
        assert_eq!(
            read(&text),
            Ok(Settings {
                address: Address::Pseudonym { scheme: Scheme::Deterministic, key },
                ipv4_prefix: 16,
                ipv6_prefix: 32,
                user_agent: UserAgent::Family,
                keep_query: false,
                choices: Choices { gpc: false, dnt: true, cookie: Some("no-stats".to_owned()) },
            })
        );
        assert_eq!(read(r#"{"opt_out_cookie": false}"#).unwrap().choices.cookie, None);
        let variable = |text| match read(text).unwrap().address {
            Address::Pseudonym { key: KeySource::Env(name), .. } => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(variable(r#"{"address": "pseudonym"}"#), "IPWARDEN_PRIVACY_KEY");
        assert_eq!(variable(r#"{"address": "pseudonym", "key_env": "MY_KEY"}"#), "MY_KEY");
    }

    #[test]
    fn all_errors_come_at_once_and_none_repeats_a_key() {
        refused(
            r#"{"address": "mask", "key": "00ff", "ipv4_prefix": 31, "ipv6_prefix": -1,
                "user_agent": "short", "query": true, "respect_gpc": "yes",
                "opt_out_cookie": "a=1", "salt": 1}"#,
            &[
                "privacy.address: found 'mask': expected 'full', 'truncate' or 'pseudonym'",
                "privacy.key: found a key of 4 characters: expected 64 hexadecimal digits \
                 (32 bytes), such as `openssl rand -hex 32` prints",
                "privacy.ipv4_prefix: found 31: expected a whole number from 0 to 30",
                "privacy.ipv6_prefix: found -1: expected a whole number from 0 to 60",
                "privacy.user_agent: found 'short': expected 'full', 'family' or 'none'",
                "privacy.query: found true: expected 'keep' or 'drop'",
                "privacy.respect_gpc: found 'yes': expected true or false",
                "privacy.opt_out_cookie: found 'a=1': expected the name of a cookie (letters, \
                 digits, '-', '_' and '.'), or false for none",
                "privacy.salt: unknown setting: expected 'address', 'scheme', 'key', 'key_env', \
                 'ipv4_prefix', 'ipv6_prefix', 'user_agent', 'query', 'respect_gpc', \
                 'respect_dnt' or 'opt_out_cookie'",
            ],
        );
        refused(
            &format!(r#"{{"address": "pseudonym", "key": "{KEY}", "key_env": "K"}}"#),
            &["privacy: found both 'key' and 'key_env': keep one of them"],
        );
        refused(
            r#"{"address": "pseudonym", "key": 12345}"#,
            &["privacy.key: found a number: expected 64 hexadecimal digits in quotes"],
        );
    }

    #[test]
    fn a_key_without_pseudonyms_is_a_protection_that_is_missing() {
        refused(
            &format!(r#"{{"key": "{KEY}", "scheme": "pfx"}}"#),
            &[
                "privacy.scheme: nothing uses it: set privacy.address to \"pseudonym\" or remove it",
                "privacy.key: nothing uses it: set privacy.address to \"pseudonym\" or remove it",
            ],
        );
    }
}
