//! `[[notify]]`: who is told of suspects and blocks. Lists of tables can't come from the
//! environment; secrets can come from files.

use std::path::PathBuf;

use sha2::{Digest as _, Sha256};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::Raw;
use super::{ConfigError, nearest, raw};
use crate::detect::Severity;
use crate::hex::short;
use crate::notify::{
    Addresses, EVENT_WORDS, Hook, Kind, MAX_HOOKS, MAX_NAME_BYTES, Secret, Source, parse_url,
    sign::Key,
};

/// Name of the section.
pub(super) const SECTION: &str = "notify";
const FIELDS: [&str; 9] = [
    "name",
    "url",
    "url_file",
    "kind",
    "secret",
    "secret_file",
    "events",
    "min_severity",
    "addresses",
];

/// Reads all hooks; `place` gives `line 3: ` for a position in the file.
pub(super) fn read(
    value: &Spanned<DeValue<'_>>,
    place: &mut dyn FnMut(&str, usize) -> String,
    errors: &mut Vec<ConfigError>,
) -> Vec<Hook> {
    let mut fail = |path: &str, at: usize, message: String| {
        errors.push(ConfigError { place: place(path, at), message });
    };
    let items: Vec<(&DeTable<'_>, usize)> = match value.get_ref() {
        DeValue::Array(items) => {
            let tables = items.iter().map(|item| match item.get_ref() {
                DeValue::Table(table) => Some((table, item.span().start)),
                _ => None,
            });
            tables.collect::<Option<Vec<_>>>().unwrap_or_default()
        }
        _ => Vec::new(),
    };
    if items.is_empty() {
        fail(SECTION, value.span().start, "expected tables that begin with [[notify]]".to_owned());
        return Vec::new();
    }
    if items.len() > MAX_HOOKS {
        let message = format!("{} hooks are too many: expected at most {MAX_HOOKS}", items.len());
        fail(SECTION, value.span().start, message);
        return Vec::new();
    }
    let mut hooks: Vec<Hook> = Vec::new();
    for (n, (table, at)) in items.into_iter().enumerate() {
        let path = format!("{SECTION}[{n}]");
        let mut one = One { table, path: &path, at, fail: &mut fail, failed: false };
        let Some(hook) = one.hook() else { continue };
        if hooks.iter().any(|other| other.name == hook.name) {
            let message = format!("'{}' is the name of another hook: give each its own", hook.name);
            fail(&format!("{path}.name"), at, message);
            continue;
        }
        hooks.push(hook);
    }
    hooks
}

/// One table.
struct One<'a, 'b> {
    table: &'a DeTable<'a>,
    path: &'a str,
    at: usize,
    fail: &'a mut (dyn FnMut(&str, usize, String) + 'b),
    failed: bool,
}

impl One<'_, '_> {
    fn hook(&mut self) -> Option<Hook> {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if !FIELDS.contains(&name) {
                let message = match nearest(name, FIELDS.iter().map(|&field| field.to_owned())) {
                    Some(known) => format!("not a setting: did you mean '{known}'?"),
                    None => format!("not a setting: expected one of {}", FIELDS.join(", ")),
                };
                self.refuse(name, key.span().start, message);
            }
        }
        let kind = self.text("kind", "webhook or slack", |text| {
            [Kind::Webhook, Kind::Slack].into_iter().find(|kind| kind.as_str() == text)
        });
        let kind = kind.unwrap_or(Kind::Webhook);
        let url = self.url();
        let secret = self.secret(kind);
        let min_severity =
            self.text("min_severity", "low, medium, high or critical", Severity::from_word);
        let addresses = self.text("addresses", "full or masked", |text| match text {
            "full" => Some(Addresses::Full),
            "masked" => Some(Addresses::Masked),
            _ => None,
        });
        let expected = "letters a-z, digits and -, at most 40";
        let name = self.text("name", expected, |text| {
            let fine =
                text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            (fine && (1..=MAX_NAME_BYTES).contains(&text.len())).then(|| text.to_owned())
        });
        let events = self.events();
        let url = url?;
        if self.failed {
            return None;
        }
        Some(Hook {
            name: name.unwrap_or_else(|| default_name(kind, &url)),
            url,
            kind,
            secret,
            events,
            min_severity: min_severity.unwrap_or(Severity::Medium),
            // A chat is mostly somebody else's machine.
            addresses: addresses.unwrap_or(match kind {
                Kind::Webhook => Addresses::Full,
                Kind::Slack => Addresses::Masked,
            }),
        })
    }

    fn url(&mut self) -> Option<Source> {
        let url = self.source("url", "url_file");
        match &url {
            Some((Source::Text(text), at)) => {
                if let Err(problem) = parse_url(text.reveal()) {
                    self.refuse("url", *at, problem);
                }
            }
            Some((Source::File(_), _)) => {}
            None => {
                if !self.failed {
                    let message = "is missing: expected url or url_file".to_owned();
                    self.refuse("url", self.at, message);
                }
            }
        }
        url.map(|(source, _)| source)
    }

    fn secret(&mut self, kind: Kind) -> Option<Source> {
        let secret = self.source("secret", "secret_file");
        match (&secret, kind) {
            (Some((_, at)), Kind::Slack) => {
                let message = "chat does not verify signatures: remove it".to_owned();
                self.refuse("secret", *at, message);
            }
            (None, Kind::Webhook) => {
                let message = "is missing: expected secret or secret_file, such as the output of `openssl rand -base64 32`; the receiver tells by it that a message is ours".to_owned();
                self.refuse("secret", self.at, message);
            }
            (Some((Source::Text(text), at)), Kind::Webhook) => {
                if let Err(problem) = Key::of_secret(text.reveal()) {
                    self.refuse("secret", *at, problem);
                }
            }
            _ => {}
        }
        secret.map(|(source, _)| source)
    }

    fn events(&mut self) -> Vec<crate::notify::EventKind> {
        let all = || EVENT_WORDS.iter().flat_map(|(_, events)| *events).copied().collect();
        let Some((value, at)) = self.value("events") else { return all() };
        let found: Option<Vec<_>> = match raw(value) {
            Raw::List(words) if !words.is_empty() => words
                .into_iter()
                .map(|word| EVENT_WORDS.iter().find(|(known, _)| *known == word))
                .collect(),
            _ => None,
        };
        match found {
            Some(found) => found.iter().flat_map(|(_, events)| *events).copied().collect(),
            None => {
                let message =
                    format!("expected a list of 'suspect' and 'block', found {}", raw(value));
                self.refuse("events", at, message);
                Vec::new()
            }
        }
    }

    /// A text, or the file that holds it.
    fn source(&mut self, text: &str, file: &str) -> Option<(Source, usize)> {
        let (given, named) = (self.value(text), self.value(file));
        if let (Some(_), Some((_, at))) = (given, named) {
            self.refuse(file, at, format!("stands beside {text}: expected one of them"));
            return None;
        }
        let (field, (value, at)) = match (given, named) {
            (Some(given), _) => (text, given),
            (_, Some(named)) => (file, named),
            (None, None) => return None,
        };
        match raw(value) {
            Raw::Text(found) if !found.is_empty() => Some((
                if field == text {
                    Source::Text(Secret::new(found))
                } else {
                    Source::File(PathBuf::from(found))
                },
                at,
            )),
            _ => {
                self.refuse(field, at, "expected a text".to_owned());
                None
            }
        }
    }

    fn text<T>(
        &mut self,
        field: &str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let (value, at) = self.value(field)?;
        let found = raw(value);
        let read = match &found {
            Raw::Text(text) => read(text),
            _ => None,
        };
        if read.is_none() {
            self.refuse(field, at, format!("expected {expected}, found {found}"));
        }
        read
    }

    fn value(&self, field: &str) -> Option<(&Spanned<DeValue<'_>>, usize)> {
        let (key, value) = self.table.iter().find(|(key, _)| key.get_ref() == field)?;
        Some((value, key.span().start))
    }

    fn refuse(&mut self, field: &str, at: usize, message: String) {
        self.failed = true;
        (self.fail)(&format!("{}.{field}", self.path), at, message);
    }
}

/// A name that stays when hooks change their places: events wait under it.
fn default_name(kind: Kind, url: &Source) -> String {
    let text = match url {
        Source::Text(text) => text.reveal().to_owned(),
        Source::File(path) => path.display().to_string(),
    };
    let digest = Sha256::digest(text.as_bytes());
    format!("{}-{}", kind.as_str(), short(&digest, 4))
}

#[cfg(test)]
mod tests {
    use super::super::check_toml;
    use super::*;
    use crate::notify::EventKind;

    #[track_caller]
    fn errors(text: &str) -> Vec<String> {
        check_toml(text).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn hooks_are_read_with_their_defaults() {
        let config = check_toml(
            r#"
            [[notify]]
            url = "https://alerts.example.com/in"
            secret_file = "/run/secrets/hook"
            [[notify]]
            name = "chat"
            kind = "slack"
            url = "https://hooks.example.com/T0/B0/x"
            events = ["block"]
            min_severity = "critical"
            addresses = "full"
            "#,
        )
        .unwrap();
        let [first, second] = config.notify.as_slice() else { panic!("{config:?}") };
        assert_eq!(first.name, "webhook-e45772bb");
        assert_eq!(first.events, EventKind::ALL);
        assert_eq!(
            (first.kind, first.min_severity, first.addresses),
            (Kind::Webhook, Severity::Medium, Addresses::Full)
        );
        assert_eq!(first.secret, Some(Source::File("/run/secrets/hook".into())));
        assert_eq!(second.name, "chat");
        assert_eq!(
            (second.kind, second.min_severity, second.addresses),
            (Kind::Slack, Severity::Critical, Addresses::Full)
        );
        assert_eq!(second.events, [EventKind::Blocked]);
    }

    #[test]
    fn everything_wrong_is_told_with_its_place_and_no_secret() {
        let found = errors(
            r#"[[notify]]
url = "http://hooks.example.com/secret"
secret = "short"
colour = "red"
[[notify]]
kind = "slack"
url = "https://hooks.example.com/"
secret = "a secret of some length"
min_severty = "high"
events = ["suspects"]
[[notify]]
kind = "pigeon"
url = "https://hooks.example.com/"
url_file = "/x"
"#,
        );
        assert_eq!(
            found,
            [
                "line 4: notify[0].colour: not a setting: expected one of name, url, url_file, kind, secret, secret_file, events, min_severity, addresses",
                "line 2: notify[0].url: would send addresses to hooks.example.com unencrypted: expected https, or http to this machine or a private network",
                "line 3: notify[0].secret: the secret has 5 bytes: expected at least 16, such as the output of `openssl rand -base64 32`",
                "line 9: notify[1].min_severty: not a setting: did you mean 'min_severity'?",
                "line 8: notify[1].secret: chat does not verify signatures: remove it",
                "line 10: notify[1].events: expected a list of 'suspect' and 'block', found a list of 1",
                "line 12: notify[2].kind: expected webhook or slack, found 'pigeon'",
                "line 14: notify[2].url_file: stands beside url: expected one of them",
                "line 11: notify[2].secret: is missing: expected secret or secret_file, such as the output of `openssl rand -base64 32`; the receiver tells by it that a message is ours",
            ]
        );
        assert_eq!(
            errors("notify = 3"),
            ["line 1: notify: expected tables that begin with [[notify]]"]
        );
        let twice = "[[notify]]\nname = \"a\"\nkind = \"slack\"\nurl = \"http://localhost/\"\n";
        assert_eq!(
            errors(&twice.repeat(2)),
            ["line 5: notify[1].name: 'a' is the name of another hook: give each its own"]
        );
    }
}
