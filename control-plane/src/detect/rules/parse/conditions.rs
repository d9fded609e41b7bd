//! What a rule matches: methods, statuses, texts.

use std::ops::Range;

use regex::bytes::RegexBuilder;

use super::section::{Reader, Section};
use crate::detect::rules::matcher::{Conditions, How, Place, TextCondition};
use crate::detect::shape::LineKind;
use crate::detect::text::{Note, Notes};

/// Memory that one expression may take when compiled, in bytes.
const REGEX_BYTES: usize = 1 << 20;

pub(super) fn conditions(section: &mut Section<'_>, at: &mut Reader<'_>) -> Conditions {
    let mut found = Conditions {
        texts: texts(section, at),
        methods: section.texts(at, "method").into_iter().map(|(_, text)| text).collect(),
        statuses: statuses(section, at),
        is_static: section.boolean(at, "static"),
        random: section.word(at, "random", &[("path", Place::Path), ("query", Place::Query)]),
        proxy_form: section.boolean(at, "proxy_form").unwrap_or(false),
        has_agent: section.boolean(at, "has_user_agent"),
        min_bytes: usize::try_from(section.integer(at, "min_bytes", 1, 65_536).unwrap_or(0))
            .unwrap_or(0),
        ..Conditions::default()
    };
    let mut notes = Notes::default();
    for note in section.words(at, "encoding", &Note::WORDS) {
        notes.add(note);
    }
    found.notes = notes;
    found.lines = section.words(at, "line", &LineKind::WORDS);
    if let Some(mut not) = section.table(at, "not") {
        found.not_texts = texts(&mut not, at);
        found.not_statuses = statuses(&mut not, at);
        found.not_methods = not.texts(at, "method").into_iter().map(|(_, text)| text).collect();
        not.finish(at);
    }
    found
}

fn texts(section: &mut Section<'_>, at: &mut Reader<'_>) -> Vec<(Place, TextCondition)> {
    let mut texts = Vec::new();
    for (key, place) in [
        ("path", Place::Path),
        ("query", Place::Query),
        ("target", Place::Target),
        ("user_agent", Place::Agent),
        ("headers", Place::Headers),
        // A second condition on the same text, where both must hold.
        ("and_path", Place::Path),
        ("and_query", Place::Query),
        ("and_target", Place::Target),
    ] {
        if let Some(mut inner) = section.table(at, key) {
            texts.push((place, text_condition(&mut inner, at, place)));
            inner.finish(at);
        }
    }
    texts
}

pub(super) fn text_condition(
    section: &mut Section<'_>,
    at: &mut Reader<'_>,
    place: Place,
) -> TextCondition {
    let mut condition = TextCondition::default();
    for (key, how) in [
        ("exact", How::Exact),
        ("prefix", How::Prefix),
        ("suffix", How::Suffix),
        ("contains", How::Contains),
        ("segment", How::Segment),
        ("param", How::Param),
        ("near", How::Near),
    ] {
        for (position, text) in section.texts(at, key) {
            let literal = match how {
                How::Segment if place == Place::Path => format!("/{text}"),
                How::Param if place == Place::Query => format!("{text}="),
                How::Segment => {
                    at.error(
                        position,
                        &format!("{}.{key}", section.path),
                        "only a path has segments",
                    );
                    continue;
                }
                How::Param => {
                    at.error(
                        position,
                        &format!("{}.{key}", section.path),
                        "only a query has parameters",
                    );
                    continue;
                }
                How::Exact | How::Prefix | How::Suffix if place == Place::Headers => {
                    at.error(
                        position,
                        &format!("{}.{key}", section.path),
                        "headers are several: expected contains, or regex with near",
                    );
                    continue;
                }
                _ => text,
            };
            if literal.len() < 2 && how != How::Exact && how != How::Near {
                at.error(
                    position,
                    &format!("{}.{key}", section.path),
                    "a text of one letter matches nearly everything: expected at least two",
                );
            }
            if literal.is_empty() {
                at.error(
                    position,
                    &format!("{}.{key}", section.path),
                    "expected a text that is not empty",
                );
                continue;
            }
            condition.literals.push((how, literal.to_ascii_lowercase().into_bytes()));
        }
    }
    for (position, text) in section.texts(at, "regex") {
        let field = format!("{}.regex", section.path);
        match RegexBuilder::new(&text)
            .unicode(false)
            .size_limit(REGEX_BYTES)
            .dfa_size_limit(REGEX_BYTES)
            .build()
        {
            Ok(regex) => condition.regexes.push(regex),
            Err(error) => {
                let told = error.to_string();
                let last = told.lines().last().unwrap_or_default().trim().to_owned();
                at.error(position, &field, &format!("not an expression that can be used: {last}"));
            }
        }
    }
    let has_near = condition.literals.iter().any(|(how, _)| *how == How::Near);
    if condition.regexes.is_empty() == has_near {
        let message = "'regex' and 'near' belong together: an expression is tried where one of the texts of 'near' occurs";
        at.error(section.at, &section.path, message);
    }
    if condition.literals.is_empty() && !has_near {
        at.error(section.at, &section.path, "expected at least one of exact, prefix, suffix, contains, segment, param, regex with near");
    }
    condition
}

fn statuses(section: &mut Section<'_>, at: &mut Reader<'_>) -> Vec<Range<u16>> {
    let mut ranges = Vec::new();
    for (position, text) in section.texts(at, "status") {
        let range = match text.as_bytes() {
            [class @ b'1'..=b'5', b'x', b'x'] => {
                let start = u16::from(class - b'0') * 100;
                Some(start..start + 100)
            }
            _ => text
                .parse()
                .ok()
                .filter(|code| (100..600).contains(code))
                .map(|code: u16| code..code + 1),
        };
        match range {
            Some(range) => ranges.push(range),
            None => at.error(
                position,
                &format!("{}.status", section.path),
                &format!(
                    "expected a status such as \"404\" or a class such as \"4xx\", found '{text}'"
                ),
            ),
        }
    }
    ranges
}
