//! How a provider is asked, and what its answers say.
//!
//! An answer is read bounded: at most [`MAX_ANSWER_BYTES`] of JSON with status 200. Anything
//! else (another status, a redirect, a longer body, no JSON object) is a failure: it is not
//! followed, cut or guessed at.
//!
//! # The network of an answer
//!
//! `ipwarden` says which network its answer covers; a `generic` provider may (field
//! `network`). Where nobody says, the answer is taken to hold for the /24 or /48 around the
//! address: what the Internet's routers tell apart.

use core::net::IpAddr;
use std::rc::Rc;

use ipnet::IpNet;
use serde_json::Value;

use super::cache::Answer;
use super::{Country, Place, common};
use crate::address;

/// Longest answer that is read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// What an answer covers unless it says.
const V4_ASSUMED: u8 = 24;
const V6_ASSUMED: u8 = 48;

/// Whom to ask, and where an answer has what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// A control plane: `GET /v1/geo/{ip}`, with a bearer token.
    Ipwarden,
    /// ipinfo.io: `GET /{ip}?token=…`, or one of its newer APIs with the same fields.
    Ipinfo,
    /// Any other service that answers with JSON.
    Generic {
        /// Path and query; `{ip}` stands for the address, `{token}` for the token.
        path: String,
        /// Where an answer has what.
        fields: Fields,
    },
}

/// JSON pointers (RFC 6901) into an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields {
    /// A country's code of two letters.
    pub country: Option<String>,
    /// A city's name.
    pub city: Option<String>,
    /// The number of an autonomous system: a number, or a text such as `AS64500 Example`.
    pub asn: Option<String>,
    /// A network in CIDR notation that the answer holds for.
    pub network: Option<String>,
}

/// Why an answer is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No answer, or one with another status than 200; 0 for a reset or a call that could not
    /// be sent.
    Status(u16),
    /// Longer than [`MAX_ANSWER_BYTES`].
    TooLong,
    /// No JSON object.
    NotJson,
}

impl Failure {
    /// Whether the provider refuses us: asking again soon would not help.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::Status(401 | 402 | 403 | 429))
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Status(0) => f.write_str("does not answer"),
            Self::Status(status @ 300..=399) => {
                write!(f, "answers with a redirect ({status}), which is not followed")
            }
            Self::Status(status) => write!(f, "answers with status {status}"),
            Self::TooLong => write!(f, "answers with more than {MAX_ANSWER_BYTES} bytes"),
            Self::NotJson => f.write_str("answers with something that is no JSON object"),
        }
    }
}

impl Provider {
    /// Path and query of the look-up of an address.
    #[must_use]
    pub fn path(&self, ip: IpAddr, token: &str) -> String {
        match self {
            Self::Ipwarden => format!("/v1/geo/{ip}"),
            Self::Ipinfo if token.is_empty() => format!("/{ip}"),
            Self::Ipinfo => format!("/{ip}?token={}", escape(token)),
            Self::Generic { path, .. } => {
                path.replace("{ip}", &ip.to_string()).replace("{token}", &escape(token))
            }
        }
    }

    /// Whether the token goes into an `authorization: Bearer` header.
    #[must_use]
    pub fn sends_bearer(&self) -> bool {
        match self {
            Self::Ipwarden => true,
            Self::Ipinfo => false,
            Self::Generic { path, .. } => !path.contains("{token}"),
        }
    }

    /// What an answer says of an address: the network that it covers, always one around the
    /// address, and the place; `None` where nothing is known.
    ///
    /// # Errors
    /// A [`Failure`].
    pub fn read(&self, ip: IpAddr, status: u16, body: &[u8]) -> Result<(IpNet, Answer), Failure> {
        if status != 200 {
            return Err(Failure::Status(status));
        }
        if body.len() > MAX_ANSWER_BYTES {
            return Err(Failure::TooLong);
        }
        let answer: Value = serde_json::from_slice(body).map_err(|_| Failure::NotJson)?;
        if !answer.is_object() {
            return Err(Failure::NotJson);
        }
        let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str);
        let at = |pointer: &Option<String>| pointer.as_deref().and_then(|p| answer.pointer(p));
        let (country, city, asn, network) = match self {
            Self::Ipwarden => {
                (text("/country"), text("/city"), number(answer.pointer("/asn")), text("/network"))
            }
            Self::Ipinfo => {
                // The free API has 'org'; the paid ones have 'asn' as an object or a text.
                let asn =
                    ["/asn/asn", "/asn", "/org"].iter().find_map(|p| number(answer.pointer(p)));
                // Its newest API puts the name into 'country' and the code beside it.
                (text("/country_code").or(text("/country")), text("/city"), asn, None)
            }
            Self::Generic { fields, .. } => (
                at(&fields.country).and_then(Value::as_str),
                at(&fields.city).and_then(Value::as_str),
                number(at(&fields.asn)),
                at(&fields.network).and_then(Value::as_str),
            ),
        };
        let place = Place::new(country.and_then(Country::new), city.unwrap_or_default(), asn);
        Ok((covered(ip, network), place.map(Rc::new)))
    }
}

/// The network that an answer names, if it is one around the address; else the usual one.
fn covered(ip: IpAddr, network: Option<&str>) -> IpNet {
    let named = network
        .and_then(|text| address::parse_target(text).ok())
        .filter(|network| network.contains(&ip));
    let network = named.unwrap_or_else(|| block(ip));
    // Never beyond where addresses begin that nobody may be asked about.
    let uniform = address::uniform_net(ip);
    let network = if network.contains(&uniform) { uniform } else { network };
    common::cut(network, ip)
}

/// The /24 or /48 around an address.
#[must_use]
pub fn block(ip: IpAddr) -> IpNet {
    let length = if ip.is_ipv4() { V4_ASSUMED } else { V6_ASSUMED };
    IpNet::new(ip, length).map_or(IpNet::from(ip), |net| net.trunc())
}

/// The number of an autonomous system: a number, or a text that begins with one, with or
/// without `AS` before it.
fn number(value: Option<&Value>) -> Option<u32> {
    match value? {
        Value::Number(number) => u32::try_from(number.as_u64()?).ok(),
        Value::String(text) => {
            let text = text.trim();
            let text = text.strip_prefix("AS").or(text.strip_prefix("as")).unwrap_or(text);
            let digits = text.split(|character: char| !character.is_ascii_digit()).next()?;
            digits.parse().ok()
        }
        _ => None,
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic() -> Provider {
        // ipgeolocation.io
        Provider::Generic {
            path: "/ipgeo?apiKey={token}&ip={ip}".to_owned(),
            fields: Fields {
                country: Some("/country_code2".to_owned()),
                city: Some("/city".to_owned()),
                asn: Some("/asn".to_owned()),
                network: None,
            },
        }
    }

    #[track_caller]
    fn says(provider: &Provider, ip: &str, body: &str, network: &str, expected: [&str; 3]) {
        let (covers, answer) = provider.read(ip.parse().unwrap(), 200, body.as_bytes()).unwrap();
        assert_eq!(covers.to_string(), network);
        assert_eq!(answer.as_ref().map_or(["", "", ""], |place| place.headers()), expected);
    }

    #[test]
    fn addresses_and_tokens_stand_in_paths_as_each_provider_wants_them() {
        let (v4, v6) = ("81.2.69.160".parse().unwrap(), "2a00::1".parse().unwrap());
        assert_eq!(Provider::Ipwarden.path(v4, "t"), "/v1/geo/81.2.69.160");
        assert_eq!(Provider::Ipinfo.path(v6, "a&b"), "/2a00::1?token=a%26b");
        assert_eq!(Provider::Ipinfo.path(v4, ""), "/81.2.69.160");
        assert_eq!(generic().path(v4, "k/1"), "/ipgeo?apiKey=k%2F1&ip=81.2.69.160");
        assert!(Provider::Ipwarden.sends_bearer() && !generic().sends_bearer());
    }

    #[test]
    fn answers_are_read_as_each_provider_gives_them() {
        let london = r#"{"ip":"81.2.69.160","network":"81.2.69.160/27","country":"GB","city":"London","asn":20712}"#;
        says(
            &Provider::Ipwarden,
            "81.2.69.161",
            london,
            "81.2.69.160/27",
            ["GB", "London", "20712"],
        );
        let ipinfo =
            r#"{"ip":"8.8.8.8","city":"Mountain View","country":"US","org":"AS15169 Google LLC"}"#;
        says(&Provider::Ipinfo, "8.8.8.8", ipinfo, "8.8.8.0/24", ["US", "Mountain View", "15169"]);
        let lite =
            r#"{"ip":"8.8.8.8","asn":"AS15169","country_code":"US","country":"United States"}"#;
        says(&Provider::Ipinfo, "8.8.8.8", lite, "8.8.8.0/24", ["US", "", "15169"]);
        let other = r#"{"country_code2":"FR","city":"Orléans","asn":"AS3215"}"#;
        says(&generic(), "2a01:cb00::1", other, "2a01:cb00::/48", ["FR", "Orl%C3%A9ans", "3215"]);
        says(&generic(), "8.8.8.8", r#"{"country_code2":7,"asn":-1}"#, "8.8.8.0/24", ["", "", ""]);
    }

    #[test]
    fn a_network_that_does_not_hold_the_address_or_too_much_is_not_believed() {
        let say = |network: &str| format!(r#"{{"country":"GB","network":"{network}"}}"#);
        for (network, covers) in [
            ("9.9.9.0/24", "8.8.8.0/24"),
            ("nonsense", "8.8.8.0/24"),
            ("0.0.0.0/0", "8.0.0.0/8"),
            ("8.8.0.0/16", "8.8.0.0/16"),
        ] {
            says(&Provider::Ipwarden, "8.8.8.8", &say(network), covers, ["GB", "", ""]);
        }
    }

    #[test]
    fn what_is_no_answer_is_a_failure() {
        let read = |status, body: &[u8]| {
            Provider::Ipinfo.read("8.8.8.8".parse().unwrap(), status, body).unwrap_err()
        };
        let long = vec![b' '; MAX_ANSWER_BYTES + 1];
        for (failure, words) in [
            (read(0, b""), "does not answer"),
            (read(302, b"{}"), "answers with a redirect (302), which is not followed"),
            (read(500, b"{}"), "answers with status 500"),
            (read(200, &long), "answers with more than 65536 bytes"),
            (read(200, b"<html>"), "answers with something that is no JSON object"),
            (read(200, b"[]"), "answers with something that is no JSON object"),
        ] {
            assert_eq!(failure.to_string(), words);
        }
        assert!(read(429, b"").is_refusal() && !read(500, b"").is_refusal());
    }

    #[cfg(not(target_family = "wasm"))]
    mod laws {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn any_answer_covers_its_address_or_is_refused(
                bits: u128, v4: bool, body in proptest::collection::vec(any::<u8>(), 0..100), network in "[0-9a-f:./]{0,20}",
            ) {
                let ip = if v4 { IpAddr::V4((bits as u32).into()) } else { IpAddr::V6(bits.into()) };
                let _ = Provider::Ipinfo.read(ip, 200, &body);
                let body = serde_json::json!({"network": network}).to_string();
                let (covers, _) = Provider::Ipwarden.read(ip, 200, body.as_bytes()).unwrap();
                prop_assert!(covers.contains(&ip));
            }
        }
    }
}
