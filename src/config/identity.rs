//! The section `identity`: where a verified identity may come from.

use super::json::{Json, printable};
use super::reader::{Errors, Field, Section};
use super::sections::{MAX_NAME_BYTES, header_name, trusted_peers};
use crate::limits::identity::{CertificateField, Source};

/// Sources of one configuration: every request asks them one after another.
pub const MAX_SOURCES: usize = 8;
/// Nesting of a claim.
const MAX_CLAIM_PARTS: usize = 8;

pub(super) fn sources(field: &Field<'_>, errors: &mut Errors) -> Vec<Source> {
    let items = field.items(MAX_SOURCES, errors).unwrap_or_default();
    let mut sources: Vec<Source> = Vec::with_capacity(items.len());
    for item in items {
        let Some(found) = source(&item, errors) else { continue };
        if let Some(at) = sources.iter().position(|earlier| is_same(earlier, &found)) {
            errors.add(
                &item.place,
                format!("the same source as {}[{at}]: keep one of them", field.place),
            );
        }
        sources.push(found);
    }
    sources
}

/// Two sources for one fact. A header is one fact whoever may set it: with two lists of peers
/// it would not be clear from whose requests it is to be removed.
fn is_same(left: &Source, right: &Source) -> bool {
    match (left, right) {
        (Source::Header { name: left, .. }, Source::Header { name: right, .. }) => left == right,
        _ => left == right,
    }
}

fn source(field: &Field<'_>, errors: &mut Errors) -> Option<Source> {
    let mut section = field.section(errors)?;
    let kinds = [section.take("jwt"), section.take("certificate"), section.take("header")];
    let given = kinds.iter().flatten().count();
    let source = match kinds {
        [Some(jwt), None, None] => json_web_token(&jwt, errors),
        [None, Some(field), None] => certificate(&field, errors),
        [None, None, Some(field)] => header(&field, errors),
        _ => None,
    };
    if given != 1 {
        errors.add(
            &field.place,
            format!("found {given} of 'jwt', 'certificate' and 'header': expected one of them"),
        );
    }
    section.finish(errors);
    source
}

fn json_web_token(field: &Field<'_>, errors: &mut Errors) -> Option<Source> {
    let mut section = field.section(errors)?;
    let metadata_key = match section.take("metadata_key") {
        Some(field) => property_part(&field, errors),
        None => {
            errors.add(
                &section.path("metadata_key"),
                "missing: repeat 'payload_in_metadata' of the provider in Envoy's jwt_authn filter",
            );
            None
        }
    };
    let claim = claim(&mut section, errors);
    section.finish(errors);
    Some(Source::Jwt { metadata_key: metadata_key?, claim: claim? })
}

/// A claim: a text, or the list of names that lead to it through nested objects.
pub(super) fn claim(section: &mut Section<'_>, errors: &mut Errors) -> Option<Vec<String>> {
    let Some(field) = section.take("claim") else {
        errors.add(&section.path("claim"), "missing: name the claim of the token, such as \"sub\"");
        return None;
    };
    let parts = field.one_or_more(MAX_CLAIM_PARTS, errors)?;
    let names: Vec<String> = parts.iter().filter_map(|part| property_part(part, errors)).collect();
    (names.len() == parts.len()).then_some(names)
}

/// One part of a property's path; a zero byte would end it.
fn property_part(field: &Field<'_>, errors: &mut Errors) -> Option<String> {
    let text = field.text(MAX_NAME_BYTES, errors)?;
    if text.chars().any(char::is_control) {
        errors.add(
            &field.place,
            format!("found '{}': expected a name without control characters", printable(text)),
        );
        return None;
    }
    Some(text.to_owned())
}

fn certificate(field: &Field<'_>, errors: &mut Errors) -> Option<Source> {
    let mut section = field.section(errors)?;
    let (san, subject) = (section.take("san"), section.take("subject"));
    section.finish(errors);
    let found = match (san, subject) {
        (Some(field), None) => field.choice(
            &[("uri", CertificateField::SanUri), ("dns", CertificateField::SanDns)],
            errors,
        ),
        (None, Some(Field { value: Json::Bool(true), .. })) => Some(CertificateField::Subject),
        (None, Some(field)) => {
            errors.add(&field.place, format!("found {}: expected true", field.value.describe()));
            None
        }
        _ => {
            errors.add(
                &field.place,
                "expected one of {\"san\": \"uri\"}, {\"san\": \"dns\"} and {\"subject\": true}",
            );
            None
        }
    };
    found.map(Source::Certificate)
}

fn header(field: &Field<'_>, errors: &mut Errors) -> Option<Source> {
    let mut section = field.section(errors)?;
    let name = match section.take("name") {
        Some(field) => {
            field.text(MAX_NAME_BYTES, errors).and_then(|name| header_name(name, &field, errors))
        }
        None => {
            errors.add(
                &section.path("name"),
                "missing: name the header that a trusted peer sets, such as \"x-user\"",
            );
            None
        }
    };
    let trusted_peers = trusted_peers(&mut section, errors);
    section.finish(errors);
    Some(Source::Header { name: name?, trusted_peers: trusted_peers? })
}
