//! `match` of a limit: which requests it is for.

use super::json::{Json, printable};
use super::reader::{Errors, Field, Section};
use super::sections::{MAX_NAME_BYTES, header_name, is_graphic};
use crate::limits::matching::{Header, Host, Match, Pattern, normalise};
use crate::record::bounds;

/// Values of one condition: every request is compared with each.
const MAX_VALUES: usize = 64;
/// A regular expression costs a hundred times what a comparison does.
const MAX_PATTERNS: usize = 8;
const MAX_HEADERS: usize = 8;

pub(super) fn matches(field: &Field<'_>, errors: &mut Errors) -> Match {
    let mut matches = Match::default();
    let Some(mut section) = field.section(errors) else { return matches };
    matches.paths = list(&mut section, "path", errors, |item, errors| path(item, "", errors));
    matches.prefixes =
        list(&mut section, "path_prefix", errors, |item, errors| path(item, "x", errors));
    let patterns = section.take("path_regex");
    matches.methods = list(&mut section, "methods", errors, method);
    matches.hosts = list(&mut section, "hosts", errors, host);
    if let Some(field) = section.take("headers") {
        matches.headers = headers(&field, errors);
    }
    matches.routes = list(&mut section, "routes", errors, |item, errors| {
        item.text(MAX_NAME_BYTES, errors).map(str::to_owned)
    });
    if let Some(field) = section.take("countries") {
        matches.countries = super::geo::countries(&field, errors);
    }
    if let Some(field) = section.take("asn") {
        matches.asns = super::geo::asns(&field, errors);
    }
    if let Some(field) = section.take("ignore_case") {
        matches.ignore_case = field.boolean(errors).unwrap_or_default();
    }
    if let Some(field) = patterns {
        let items = field.one_or_more(MAX_PATTERNS, errors).unwrap_or_default();
        let read = |item: &Field<'_>| pattern(item, matches.ignore_case, errors);
        matches.patterns = items.iter().filter_map(read).collect();
    }
    section.finish(errors);
    matches
}

/// The values of a condition, one or a list.
fn list<T>(
    section: &mut Section<'_>,
    name: &'static str,
    errors: &mut Errors,
    read: impl Fn(&Field<'_>, &mut Errors) -> Option<T>,
) -> Vec<T> {
    let Some(field) = section.take(name) else { return Vec::new() };
    let items = field.one_or_more(MAX_VALUES, errors).unwrap_or_default();
    items.iter().filter_map(|item| read(item, errors)).collect()
}

/// A path in its normal form: requests are compared in theirs, so that no other could ever be
/// met. `rest` is what may stand behind it: nothing, or something behind a prefix (`/.` is no
/// normal path, and a good prefix of `/.env`).
fn path(field: &Field<'_>, rest: &str, errors: &mut Errors) -> Option<String> {
    let text = field.text(bounds::PATH_BYTES - rest.len(), errors)?;
    let whole = format!("{text}{rest}");
    let normal = normalise(whole.as_bytes());
    if !text.starts_with('/') || text.contains('?') {
        errors.add(
            &field.place,
            format!(
                "found '{}': expected a path that starts with /, without a query, such as /login",
                printable(text)
            ),
        );
        return None;
    }
    if normal.as_ref() != whole.as_bytes() {
        let normal = String::from_utf8_lossy(&normal);
        let meant = normal.strip_suffix(rest).unwrap_or(&normal);
        errors.add(
            &field.place,
            format!(
                "found '{}': no request is compared with this spelling: write it as '{}'",
                printable(text),
                printable(meant)
            ),
        );
        return None;
    }
    Some(text.to_owned())
}

fn pattern(field: &Field<'_>, ignore_case: bool, errors: &mut Errors) -> Option<Pattern> {
    let text = field.text(usize::MAX, errors)?;
    match Pattern::new(text, ignore_case) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            errors.add(&field.place, format!("found '{}': {error}", printable(text)));
            None
        }
    }
}

fn method(field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    let text = field.text(bounds::METHOD_BYTES, errors)?;
    if text.bytes().all(|byte| byte.is_ascii_uppercase() || b"-_".contains(&byte)) {
        return Some(text.to_owned());
    }
    errors.add(
        &field.place,
        format!("found '{}': expected a method in capitals, such as POST", printable(text)),
    );
    None
}

fn host(field: &Field<'_>, errors: &mut Errors) -> Option<Host> {
    let text = field.text(bounds::HOST_BYTES, errors)?;
    let suffix = text.strip_prefix('*');
    let name = suffix.unwrap_or(text);
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_name = name.bytes().all(word) && !name.ends_with('.');
    let fits = match suffix {
        Some(suffix) => is_name && suffix.len() > 1 && suffix.starts_with('.'),
        None => (is_name && !name.starts_with('.')) || is_bracketed(name),
    };
    if !fits {
        errors.add(
            &field.place,
            format!(
                "found '{}': expected a host without a port, such as example.com or *.example.com",
                printable(text)
            ),
        );
        return None;
    }
    let name = name.to_ascii_lowercase();
    Some(if suffix.is_some() { Host::Suffix(name) } else { Host::Exact(name) })
}

/// An IPv6 address as a host: `[2001:db8::1]`.
fn is_bracketed(name: &str) -> bool {
    name.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .is_some_and(|address| address.parse::<core::net::Ipv6Addr>().is_ok())
}

/// By name, so that the order of a JSON object's members means nothing.
fn headers(field: &Field<'_>, errors: &mut Errors) -> Vec<Header> {
    let entries = field.entries(MAX_HEADERS, errors).unwrap_or_default();
    let mut headers: Vec<Header> = Vec::with_capacity(entries.len());
    for (name, field) in entries {
        let Some(name) = header_name(name, &field, errors) else { continue };
        let values = match field.value {
            Json::Bool(true) => None,
            Json::Text(_) | Json::List(_) => {
                let items = field.one_or_more(MAX_VALUES, errors).unwrap_or_default();
                Some(items.iter().filter_map(|item| header_value(item, errors)).collect())
            }
            other => {
                errors.add(
                    &field.place,
                    format!(
                        "found {}: expected a text, a list of texts, or true for any value",
                        other.describe()
                    ),
                );
                continue;
            }
        };
        if headers.iter().any(|earlier| earlier.name == name) {
            errors.add(&field.place, "given more than once: keep one of them");
        }
        headers.push(Header { name, values });
    }
    headers.sort_by(|left, right| left.name.cmp(&right.name));
    headers
}

/// What a field line can hold, without the white space that is stripped from its ends.
fn header_value(field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    let text = field.text(MAX_NAME_BYTES, errors)?;
    let fits = |byte: u8| is_graphic(byte) || byte == b' ';
    if text.bytes().all(fits) && text.trim() == text {
        return Some(text.to_owned());
    }
    errors.add(
        &field.place,
        format!("found '{}': expected the value of a header: visible ASCII", printable(text)),
    );
    None
}
