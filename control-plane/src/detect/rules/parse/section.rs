//! Tables whose fields are taken one by one, so that what is left is an error with its place.

use std::time::Duration;

use ipnet::IpNet;
use ipwarden::address::parse_target;
use ipwarden::config::ConfigError;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::MAX_LEAK;
use crate::config::nearest;
use crate::detect::Severity;
use crate::detect::rules::MAX_CAPACITY;

/// Where errors go.
pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
    pub(super) errors: &'a mut Vec<ConfigError>,
}

impl Reader<'_> {
    pub(super) fn line(&self, at: usize) -> usize {
        self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
    }

    pub(super) fn place(&self, at: usize, field: &str) -> String {
        format!("line {}: {field}", self.line(at))
    }

    pub(super) fn error(&mut self, at: usize, field: &str, message: &str) {
        let place = self.place(at, field);
        self.errors.push(ConfigError { place, message: message.to_owned() });
    }
}

/// A table whose fields are taken one by one; what is left is an error.
pub(super) struct Section<'a> {
    pub(super) table: &'a DeTable<'a>,
    pub(super) at: usize,
    pub(super) path: String,
    pub(super) known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn new(table: &'a DeTable<'a>, at: usize, path: &str) -> Self {
        Self { table, at, path: path.to_owned(), known: Vec::new() }
    }

    pub(super) fn field(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}: {key}", self.path) }
    }

    pub(super) fn get(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.iter().any(|(name, _)| name.get_ref() == key)
    }

    pub(super) fn missing(&self, at: &mut Reader<'_>, key: &str, expected: &str) {
        at.error(self.at, &self.field(key), &format!("is missing: expected {expected}"));
    }

    pub(super) fn wrong(&self, at: &mut Reader<'_>, key: &str, message: &str) {
        let found = self.table.iter().find(|(name, _)| name.get_ref() == key);
        let place = found.map_or(self.at, |(_, value)| value.span().start);
        at.error(place, &self.field(key), message);
    }

    pub(super) fn ignore(&mut self, at: &mut Reader<'_>, key: &'static str) {
        let _ = self.text(at, key);
    }

    pub(super) fn text(&mut self, at: &mut Reader<'_>, key: &'static str) -> Option<String> {
        match self.get(key)?.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            other => {
                self.wrong(
                    at,
                    key,
                    &format!("expected a text, found a value of type {}", other.type_str()),
                );
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, at: &mut Reader<'_>, key: &'static str) -> Option<bool> {
        match self.get(key)?.get_ref() {
            DeValue::Boolean(yes) => Some(*yes),
            other => {
                self.wrong(
                    at,
                    key,
                    &format!("expected true or false, found a value of type {}", other.type_str()),
                );
                None
            }
        }
    }

    pub(super) fn integer(
        &mut self,
        at: &mut Reader<'_>,
        key: &'static str,
        min: i64,
        max: i64,
    ) -> Option<i64> {
        let number = match self.get(key)?.get_ref() {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.wrong(at, key, &format!("expected a number from {min} to {max}"));
        }
        number
    }

    pub(super) fn number(&mut self, at: &mut Reader<'_>, key: &'static str) -> Option<f32> {
        let number = match self.get(key)?.get_ref() {
            DeValue::Integer(number) => number.as_str().parse::<f32>().ok(),
            DeValue::Float(number) => number.as_str().parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| (0.0..=100_000.0).contains(number));
        if number.is_none() {
            self.wrong(at, key, "expected a number from 0 to 100000");
        }
        number
    }

    pub(super) fn capacity(&mut self, at: &mut Reader<'_>) -> Option<u32> {
        self.integer(at, "capacity", 0, i64::from(MAX_CAPACITY))
            .and_then(|number| u32::try_from(number).ok())
    }

    /// In microseconds.
    pub(super) fn duration(&mut self, at: &mut Reader<'_>, key: &'static str) -> Option<u64> {
        let text = self.text(at, key)?;
        let milliseconds = text.strip_suffix("ms").and_then(|digits| digits.parse().ok());
        let time = milliseconds
            .map(Duration::from_millis)
            .or_else(|| ipwarden::duration::parse(&text).ok());
        let time = time.filter(|time| !time.is_zero() && *time <= MAX_LEAK);
        if time.is_none() {
            self.wrong(
                at,
                key,
                &format!("expected a duration from 1ms to 1d such as 10s, found '{text}'"),
            );
        }
        time.and_then(|time| u64::try_from(time.as_micros()).ok())
    }

    pub(super) fn severity(&mut self, at: &mut Reader<'_>) -> Option<Severity> {
        let words: Vec<(&str, Severity)> =
            Severity::ALL.into_iter().map(|severity| (severity.as_str(), severity)).collect();
        self.word(at, "severity", &words)
    }

    pub(super) fn word<T: Copy>(
        &mut self,
        at: &mut Reader<'_>,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(at, key)?;
        let found = words.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            self.wrong(at, key, &format!("expected {}, found '{text}'", one_of(words)));
        }
        found.map(|(_, value)| *value)
    }

    pub(super) fn words<T: Copy>(
        &mut self,
        at: &mut Reader<'_>,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Vec<T> {
        let mut found = Vec::new();
        for (position, text) in self.texts(at, key) {
            match words.iter().find(|(word, _)| *word == text) {
                Some((_, value)) => found.push(*value),
                None => {
                    let field = self.field(key);
                    at.error(
                        position,
                        &field,
                        &format!("expected {}, found '{text}'", one_of(words)),
                    );
                }
            }
        }
        found
    }

    /// A list of texts, or one; with their positions.
    pub(super) fn texts(&mut self, at: &mut Reader<'_>, key: &'static str) -> Vec<(usize, String)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let mut texts = Vec::new();
        let items = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![value],
        };
        for item in items {
            match item.get_ref() {
                DeValue::String(text) => texts.push((item.span().start, text.to_string())),
                other => {
                    let message = format!(
                        "expected a text or a list of texts, found a value of type {}",
                        other.type_str()
                    );
                    let field = self.field(key);
                    at.error(item.span().start, &field, &message);
                }
            }
        }
        texts
    }

    pub(super) fn networks(&mut self, at: &mut Reader<'_>, key: &'static str) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for (position, text) in self.texts(at, key) {
            match parse_target(&text) {
                Ok(network) => networks.push(network),
                Err(error) => {
                    let field = self.field(key);
                    at.error(position, &field, &error.to_string());
                }
            }
        }
        networks
    }

    pub(super) fn table(&mut self, at: &mut Reader<'_>, key: &'static str) -> Option<Self> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Self::new(table, value.span().start, &self.field(key))),
            other => {
                self.wrong(
                    at,
                    key,
                    &format!("expected a table, found a value of type {}", other.type_str()),
                );
                None
            }
        }
    }

    /// A list of tables, or one.
    pub(super) fn sections(&mut self, at: &mut Reader<'_>, key: &'static str) -> Vec<Self> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let items = match value.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![value],
        };
        let mut sections = Vec::new();
        for item in items {
            match item.get_ref() {
                DeValue::Table(table) => {
                    sections.push(Self::new(table, item.span().start, &self.field(key)))
                }
                other => {
                    let message =
                        format!("expected a table, found a value of type {}", other.type_str());
                    let field = self.field(key);
                    at.error(item.span().start, &field, &message);
                }
            }
        }
        sections
    }

    pub(super) fn finish(&self, at: &mut Reader<'_>) {
        for (name, _) in self.table {
            let found = name.get_ref();
            if !self.known.iter().any(|known| known == found) {
                let hint = match nearest(found, self.known.iter().map(|known| (*known).to_owned()))
                {
                    Some(meant) => format!("not a field: did you mean '{meant}'?"),
                    None => format!("not a field: expected one of {}", self.known.join(", ")),
                };
                at.error(name.span().start, &self.field(found), &hint);
            }
        }
    }
}

fn one_of<T>(words: &[(&str, T)]) -> String {
    words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")
}
