//! Reading checked values out of JSON: every error is collected with its place, and reading
//! goes on with the default, so that one run finds them all.

use core::fmt;
use core::ops::RangeInclusive;
use core::time::Duration;

use ipnet::IpNet;

use super::json::{Json, printable};
use crate::{address, duration};

/// One error in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Path to the value, such as `records.max_batch` or `client_ip.proxies[2]`; empty for
    /// the configuration as a whole.
    pub place: String,
    /// What was found, what was expected, how to mend it.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.place.is_empty() { "configuration" } else { &self.place };
        write!(f, "{place}: {}", self.message)
    }
}

impl core::error::Error for ConfigError {}

/// The errors found so far.
#[derive(Debug, Default)]
pub(super) struct Errors(pub(super) Vec<ConfigError>);

impl Errors {
    pub(super) fn add(&mut self, place: &str, message: impl Into<String>) {
        self.0.push(ConfigError { place: place.to_owned(), message: message.into() });
    }
}

/// An object whose members are taken one by one; what is left at the end is unknown.
pub(super) struct Section<'a> {
    place: String,
    members: &'a [(String, Json)],
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// Opens the value at `place`. `None`, with an error, when it is no object.
    pub(super) fn open(place: &str, value: &'a Json, errors: &mut Errors) -> Option<Self> {
        let Json::Object(members) = value else {
            errors.add(place, format!("found {}: expected an object", value.describe()));
            return None;
        };
        Some(Self { place: place.to_owned(), members, known: Vec::new() })
    }

    /// The member `name`, if it is there.
    pub(super) fn take(&mut self, name: &'static str) -> Option<Field<'a>> {
        self.known.push(name);
        let (_, value) = self.members.iter().find(|(member, _)| member == name)?;
        Some(Field { place: self.path(name), value })
    }

    /// Whether the member `name` is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.iter().any(|(member, _)| member == name)
    }

    /// Reports every member that nobody took, and every member that came twice.
    pub(super) fn finish(self, errors: &mut Errors) {
        for (at, (name, _)) in self.members.iter().enumerate() {
            let path = self.path(&printable(name));
            if self.members.iter().take(at).any(|(earlier, _)| earlier == name) {
                errors.add(&path, "given more than once: keep one of them");
            } else if !self.known.contains(&name.as_str()) {
                let message = match nearest(name, &self.known) {
                    Some(meant) => format!("unknown setting: did you mean '{meant}'?"),
                    None => format!("unknown setting: expected {}", one_of(&self.known)),
                };
                errors.add(&path, message);
            }
        }
    }

    /// Path of this object, for errors that concern several members.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// Path of a member.
    pub(super) fn path(&self, name: &str) -> String {
        if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) }
    }
}

/// A value and its path.
pub(super) struct Field<'a> {
    pub(super) place: String,
    pub(super) value: &'a Json,
}

impl<'a> Field<'a> {
    /// An object.
    pub(super) fn section(&self, errors: &mut Errors) -> Option<Section<'a>> {
        Section::open(&self.place, self.value, errors)
    }

    /// A text that is not empty and has at most `max_bytes` bytes.
    pub(super) fn text(&self, max_bytes: usize, errors: &mut Errors) -> Option<&'a str> {
        match self.value {
            Json::Text(text) if text.is_empty() => {
                errors.add(&self.place, "found an empty text: write a value or leave it out");
                None
            }
            Json::Text(text) if text.len() > max_bytes => {
                errors.add(
                    &self.place,
                    format!("found {} bytes: expected at most {max_bytes}", text.len()),
                );
                None
            }
            Json::Text(text) => Some(text),
            other => {
                errors.add(&self.place, format!("found {}: expected a text", other.describe()));
                None
            }
        }
    }

    /// A whole number in `range`.
    pub(super) fn whole(&self, range: RangeInclusive<u32>, errors: &mut Errors) -> Option<u32> {
        if let Json::Number(number) = self.value
            && number.fract() == 0.0
            && (f64::from(*range.start())..=f64::from(*range.end())).contains(number)
        {
            return Some(*number as u32);
        }
        errors.add(
            &self.place,
            format!(
                "found {}: expected a whole number from {} to {}",
                self.value.describe(),
                range.start(),
                range.end()
            ),
        );
        None
    }

    /// A duration in `range`, as a text such as `1s`.
    pub(super) fn duration(
        &self,
        range: RangeInclusive<Duration>,
        errors: &mut Errors,
    ) -> Option<Duration> {
        if let Json::Text(text) = self.value
            && let Ok(found) = duration::parse(text)
            && range.contains(&found)
        {
            return Some(found);
        }
        errors.add(
            &self.place,
            format!(
                "found {}: expected a duration in quotes from {} to {}, such as \"1s\"",
                self.value.describe(),
                duration::display(*range.start()),
                duration::display(*range.end())
            ),
        );
        None
    }

    /// A whole number from 0 to 2^53, beyond which JSON numbers have gaps.
    pub(super) fn counter(&self, errors: &mut Errors) -> Option<u64> {
        const MAX: u64 = 1 << 53;
        if let Json::Number(number) = self.value
            && number.fract() == 0.0
            && (0.0..=MAX as f64).contains(number)
        {
            return Some(*number as u64);
        }
        errors.add(
            &self.place,
            format!("found {}: expected a whole number from 0 to {MAX}", self.value.describe()),
        );
        None
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, errors: &mut Errors) -> Option<bool> {
        if let Json::Bool(value) = self.value {
            return Some(*value);
        }
        errors.add(&self.place, format!("found {}: expected true or false", self.value.describe()));
        None
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        choices: &[(&'static str, T)],
        errors: &mut Errors,
    ) -> Option<T> {
        let found = match self.value {
            Json::Text(text) => choices.iter().find(|(word, _)| word == text),
            _ => None,
        };
        if found.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let hint = match self.value {
                Json::Text(text) => nearest(text, &words),
                _ => None,
            };
            let mut message =
                format!("found {}: expected {}", self.value.describe(), one_of(&words));
            if let Some(meant) = hint {
                message.push_str(&format!("; did you mean '{meant}'?"));
            }
            errors.add(&self.place, message);
        }
        found.map(|(_, value)| *value)
    }

    /// The items of a list of at most `max` items. `None`, with an error, when it is no list.
    pub(super) fn items(&self, max: usize, errors: &mut Errors) -> Option<Vec<Field<'a>>> {
        let Json::List(items) = self.value else {
            errors.add(&self.place, format!("found {}: expected a list", self.value.describe()));
            return None;
        };
        if items.len() > max {
            errors.add(&self.place, format!("found {} items: expected at most {max}", items.len()));
            return None;
        }
        let field = |(at, value)| Field { place: format!("{}[{at}]", self.place), value };
        Some(items.iter().enumerate().map(field).collect())
    }

    /// One text, or the items of a list of at least one and at most `max`. What they are is
    /// for the caller to check.
    pub(super) fn one_or_more(&self, max: usize, errors: &mut Errors) -> Option<Vec<Field<'a>>> {
        match self.value {
            Json::Text(_) => Some(vec![Field { place: self.place.clone(), value: self.value }]),
            Json::List(items) if items.is_empty() => {
                errors.add(&self.place, "found an empty list: write a value or leave it out");
                None
            }
            Json::List(_) => self.items(max, errors),
            other => {
                errors.add(
                    &self.place,
                    format!("found {}: expected a text or a list of texts", other.describe()),
                );
                None
            }
        }
    }

    /// The members of an object whose names are the operator's own, at most `max`. A name
    /// that comes twice is an error.
    pub(super) fn entries(
        &self,
        max: usize,
        errors: &mut Errors,
    ) -> Option<Vec<(&'a str, Field<'a>)>> {
        let Json::Object(members) = self.value else {
            errors.add(&self.place, format!("found {}: expected an object", self.value.describe()));
            return None;
        };
        if members.len() > max {
            errors.add(
                &self.place,
                format!("found {} members: expected at most {max}", members.len()),
            );
            return None;
        }
        let mut entries: Vec<(&str, Field<'_>)> = Vec::with_capacity(members.len());
        for (name, value) in members {
            let place = format!("{}.{}", self.place, printable(name));
            if entries.iter().any(|(earlier, _)| earlier == name) {
                errors.add(&place, "given more than once: keep one of them");
            } else {
                entries.push((name, Field { place, value }));
            }
        }
        Some(entries)
    }

    /// A list of at least one and at most `max` networks. Bad items are left out, each with
    /// its error.
    pub(super) fn networks(&self, max: usize, errors: &mut Errors) -> Option<Vec<IpNet>> {
        let items = self.items(max, errors)?;
        if items.is_empty() {
            errors.add(&self.place, "found an empty list: expected at least one address or CIDR");
            return None;
        }
        let read = |item: &Field<'_>| {
            let text = item.text(address::MAX_TARGET_TEXT_BYTES, errors)?;
            match address::parse_target(text) {
                Ok(net) => Some(net),
                Err(error) => {
                    errors.add(&item.place, error.to_string());
                    None
                }
            }
        };
        Some(items.iter().filter_map(read).collect())
    }
}

/// `a`, `'a' or 'b'`, `'a', 'b' or 'c'`.
fn one_of(words: &[&str]) -> String {
    let mut text = String::new();
    for (at, word) in words.iter().enumerate() {
        let separator = match at {
            0 => "",
            _ if at + 1 == words.len() => " or ",
            _ => ", ",
        };
        text.push_str(&format!("{separator}'{word}'"));
    }
    text
}

/// The word that `found` is most likely a slip of: at most a third of its letters differ.
fn nearest<'w>(found: &str, words: &[&'w str]) -> Option<&'w str> {
    const LONGEST_NAME_BYTES: usize = 32;
    if found.len() > LONGEST_NAME_BYTES {
        return None;
    }
    words
        .iter()
        .map(|word| (edits(found, word), *word))
        .filter(|(edits, word)| *edits <= word.len().div_ceil(3))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, word)| word)
}

/// Levenshtein distance in bytes.
fn edits(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, from) in left.bytes().enumerate() {
        let mut diagonal = at;
        let mut beside = at + 1;
        if let Some(first) = row.first_mut() {
            *first = beside;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(right.bytes()) {
            let replaced = diagonal + usize::from(from != to);
            diagonal = *cell;
            beside = replaced.min(diagonal + 1).min(beside + 1);
            *cell = beside;
        }
    }
    row.last().copied().unwrap_or(left.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let words = ["max_batch", "max_age", "buffer_bytes"];
        assert_eq!(nearest("max_bach", &words), Some("max_batch"));
        assert_eq!(nearest("maxage", &words), Some("max_age"));
        assert_eq!(nearest("bufer_byte", &words), Some("buffer_bytes"));
        assert_eq!(nearest("retention", &words), None);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
    }

    #[test]
    fn alternatives_are_listed_in_words() {
        assert_eq!(one_of(&["a"]), "'a'");
        assert_eq!(one_of(&["a", "b", "c"]), "'a', 'b' or 'c'");
    }
}
