//! The sections of the configuration, one function each. A bad value is reported and read as
//! its default, so that the rest of the section is still checked.

use core::time::Duration;

use ipnet::IpNet;

use super::json::{Json, printable};
use super::reader::{Errors, Field, Section};
use super::{ControlPlane, Decisions, OnStart, Records, Token};
use crate::client_ip::{ForwardingHeader, MAX_ENTRIES, Source};
use crate::record::bounds;

/// Longest name of a cluster, authority, environment variable or header.
pub(super) const MAX_NAME_BYTES: usize = 255;
const MAX_TOKEN_BYTES: usize = 1_024;
const MAX_CONTACT_BYTES: usize = 512;
/// Every request is compared with every network and path prefix.
pub(super) const MAX_NETWORKS: usize = 256;
const MAX_PATHS: usize = 256;

pub(super) fn proxy(field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    let name = field.text(bounds::PROXY_BYTES, errors)?;
    checked(name, is_graphic, field, "visible ASCII characters without spaces", errors)
}

pub(super) fn control_plane(field: &Field<'_>, errors: &mut Errors) -> Option<ControlPlane> {
    let mut section = field.section(errors)?;
    let cluster = match section.take("cluster") {
        Some(field) => field.text(MAX_NAME_BYTES, errors).map(str::to_owned),
        None => {
            errors.add(
                &section.path("cluster"),
                "missing: name the Envoy cluster that leads to the control plane",
            );
            None
        }
    };
    let authority = match section.take("authority") {
        Some(field) => field
            .text(MAX_NAME_BYTES, errors)
            .and_then(|text| checked(text, is_graphic, &field, "a host name", errors)),
        None => cluster.clone(),
    };
    let token = token(&mut section, errors);
    section.finish(errors);
    Some(ControlPlane { cluster: cluster?, authority: authority?, token: token? })
}

/// Exactly one of `token` and `token_env`. No message repeats a token.
fn token(section: &mut Section<'_>, errors: &mut Errors) -> Option<Token> {
    let before = errors.0.len();
    let token = optional_token(section, errors);
    if token.is_none() && errors.0.len() == before {
        errors.add(
            section.place(),
            "found neither 'token' nor 'token_env': give a token of role 'proxy', or the name \
             of the environment variable that holds it",
        );
    }
    token
}

/// At most one of `token` and `token_env`.
pub(super) fn optional_token(section: &mut Section<'_>, errors: &mut Errors) -> Option<Token> {
    match (section.take("token"), section.take("token_env")) {
        (Some(_), Some(_)) => {
            errors.add(section.place(), "found both 'token' and 'token_env': keep one of them");
            None
        }
        (None, None) => None,
        (Some(field), None) => match field.value {
            Json::Text(text)
                if !text.is_empty()
                    && text.len() <= MAX_TOKEN_BYTES
                    && text.bytes().all(is_graphic) =>
            {
                Some(Token::Literal(text.clone()))
            }
            other => {
                errors.add(
                    &field.place,
                    format!(
                        "found {} that is no token: expected 1 to {MAX_TOKEN_BYTES} visible ASCII \
                         characters without spaces, such as ipw_…",
                        other.kind()
                    ),
                );
                None
            }
        },
        (None, Some(field)) => {
            let name = field.text(MAX_NAME_BYTES, errors)?;
            let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            let expected = "the name of an environment variable (letters, digits and _)";
            checked(name, word, &field, expected, errors).map(Token::Env)
        }
    }
}

#[derive(Clone, Copy)]
enum SourceWord {
    Envoy,
    TrustedProxies,
    Header,
}

pub(super) fn client_ip(field: &Field<'_>, errors: &mut Errors) -> Option<Source> {
    let mut section = field.section(errors)?;
    let Some(word) = section.take("source") else {
        errors.add(
            &section.path("source"),
            "missing: expected 'envoy', 'trusted_proxies' or 'header'",
        );
        // Which settings belong here is not known without the source.
        return None;
    };
    let word = word.choice(
        &[
            ("envoy", SourceWord::Envoy),
            ("trusted_proxies", SourceWord::TrustedProxies),
            ("header", SourceWord::Header),
        ],
        errors,
    )?;
    let source = match word {
        SourceWord::Envoy => Some(Source::Envoy),
        SourceWord::TrustedProxies => trusted_proxies(&mut section, errors),
        SourceWord::Header => single_header(&mut section, errors),
    };
    section.finish(errors);
    source
}

fn trusted_proxies(section: &mut Section<'_>, errors: &mut Errors) -> Option<Source> {
    let proxies = match section.take("proxies") {
        Some(field) => field.networks(MAX_NETWORKS, errors),
        None => {
            errors.add(
                &section.path("proxies"),
                "missing: list the networks of the proxies in front, such as [\"10.0.0.0/8\"]",
            );
            None
        }
    };
    let header = match section.take("header") {
        Some(field) => field.choice(
            &[
                ("x-forwarded-for", ForwardingHeader::XForwardedFor),
                ("forwarded", ForwardingHeader::Forwarded),
            ],
            errors,
        ),
        None => Some(ForwardingHeader::XForwardedFor),
    };
    let max_hops = match section.take("max_hops") {
        Some(field) => field.whole(1..=MAX_ENTRIES, errors),
        None => Some(MAX_ENTRIES),
    };
    Some(Source::TrustedProxies { proxies: proxies?, header: header?, max_hops: max_hops? })
}

fn single_header(section: &mut Section<'_>, errors: &mut Errors) -> Option<Source> {
    let name = match section.take("name") {
        Some(field) => {
            field.text(MAX_NAME_BYTES, errors).and_then(|name| header_name(name, &field, errors))
        }
        None => {
            errors.add(
                &section.path("name"),
                "missing: name the header that holds the client's address, such as \
                 \"cf-connecting-ip\"",
            );
            None
        }
    };
    let trusted_peers = trusted_peers(section, errors);
    Some(Source::Header { name: name?, trusted_peers: trusted_peers? })
}

/// The peers that may set a header.
pub(super) fn trusted_peers(section: &mut Section<'_>, errors: &mut Errors) -> Option<Vec<IpNet>> {
    let Some(field) = section.take("trusted_peers") else {
        errors.add(
            &section.path("trusted_peers"),
            "missing: list the networks of the peers that may set the header, such as \
             [\"10.0.0.0/8\"]",
        );
        return None;
    };
    field.networks(MAX_NETWORKS, errors)
}

/// A header's name, in lower case.
pub(super) fn header_name(name: &str, field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let expected = "a header name (letters, digits, - and _)";
    checked(name, word, field, expected, errors).map(|name| name.to_ascii_lowercase())
}

pub(super) fn decisions(field: &Field<'_>, errors: &mut Errors) -> Decisions {
    let mut decisions = Decisions::default();
    let Some(mut section) = field.section(errors) else { return decisions };
    if let Some(field) = section.take("on_start") {
        let choices = [("open", OnStart::Open), ("closed", OnStart::Closed)];
        decisions.on_start = field.choice(&choices, errors).unwrap_or(decisions.on_start);
    }
    if let Some(status) = section.take("refuse_status").and_then(|f| f.whole(400..=599, errors)) {
        decisions.refuse_status = u16::try_from(status).unwrap_or(decisions.refuse_status);
    }
    if let Some(field) = section.take("contact") {
        decisions.contact = contact(&field, errors);
    }
    section.finish(errors);
    decisions
}

/// A link for people: anything else in an `href` could run or mislead.
fn contact(field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    let text = field.text(MAX_CONTACT_BYTES, errors)?;
    let target = ["https://", "mailto:"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let fits = |byte: u8| is_graphic(byte) && !b"\"'<>\\^`{|}".contains(&byte);
    if target.is_some_and(|rest| !rest.is_empty()) && text.bytes().all(fits) {
        return Some(text.to_owned());
    }
    errors.add(
        &field.place,
        format!(
            "found '{}': expected a link such as https://example.com/help or \
             mailto:help@example.com",
            printable(text)
        ),
    );
    None
}

pub(super) fn records(field: &Field<'_>, errors: &mut Errors) -> Records {
    let mut records = Records::default();
    let Some(mut section) = field.section(errors) else { return records };
    if let Some(found) = section.take("max_batch").and_then(|f| f.whole(1..=5_000, errors)) {
        records.max_batch = found;
    }
    if let Some(field) = section.take("max_age") {
        let range = Duration::from_millis(100)..=Duration::from_secs(60);
        records.max_age = field.duration(range, errors).unwrap_or(records.max_age);
    }
    if let Some(field) = section.take("buffer_bytes") {
        let found = field.whole(65_536..=268_435_456, errors);
        records.buffer_bytes = found.map_or(records.buffer_bytes, |bytes| bytes as usize);
    }
    if let Some(found) = section.take("sample").and_then(|f| f.whole(1..=10_000, errors)) {
        records.sample = found;
    }
    if let Some(field) = section.take("sensitive_paths") {
        records.sensitive_paths = paths(&field, errors);
    }
    if let Some(field) = section.take("skip_paths") {
        records.skip_paths = paths(&field, errors);
    }
    if let Some(field) = section.take("identity") {
        records.identity = field.boolean(errors).unwrap_or_default();
    }
    section.finish(errors);
    records
}

/// A list, possibly empty, of path prefixes.
fn paths(field: &Field<'_>, errors: &mut Errors) -> Vec<String> {
    let items = field.items(MAX_PATHS, errors).unwrap_or_default();
    let read = |item: &Field<'_>| {
        let text = item.text(bounds::PATH_BYTES, errors)?;
        let fits = text.starts_with('/') && text.bytes().all(|b| is_graphic(b) && b != b'?');
        if !fits {
            errors.add(
                &item.place,
                format!(
                    "found '{}': expected a path prefix that starts with /, without a query, \
                     such as /admin",
                    printable(text)
                ),
            );
        }
        fits.then(|| text.to_owned())
    };
    items.iter().filter_map(read).collect()
}

/// The text, if every byte of it fits.
pub(super) fn checked(
    text: &str,
    fits: impl Fn(u8) -> bool,
    field: &Field<'_>,
    expected: &str,
    errors: &mut Errors,
) -> Option<String> {
    if text.bytes().all(fits) {
        return Some(text.to_owned());
    }
    errors.add(&field.place, format!("found '{}': expected {expected}", printable(text)));
    None
}

/// Visible ASCII: what may stand in a header value or a path without escaping.
pub(super) const fn is_graphic(byte: u8) -> bool {
    byte.is_ascii_graphic()
}
